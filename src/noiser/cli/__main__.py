"""`python -m noiser.cli`."""

from noiser.cli import main

main()
