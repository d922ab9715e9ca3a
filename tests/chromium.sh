#!/usr/bin/env bash
# Installs Chromium for the tests that look at pages, where it is missing. Debian and Ubuntu's way; elsewhere says what to do.
set -euo pipefail

if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Install Chromium the way your system does, so that 'chromium' is on the PATH; without it the tests of pages are skipped"
    exit 1
fi
as_root=""
if [ "$(id -u)" != 0 ]; then as_root="sudo -n"; fi
install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; }
echo "Installing Chromium and a font"
install || { $as_root apt-get update -qq && install; }
