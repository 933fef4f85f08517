# The loop. `make` lists the targets; README.md needs only `make demo` and `make test`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Cargo and pip use every core themselves; steps side by side would only disturb each other's timings.
.NOTPARALLEL:
# Cargo would take `make -j` for an offer to share its job slots, which a plain recipe cannot pass on.
unexport MAKEFLAGS MFLAGS

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.axon-stamp
SOURCES := Cargo.toml Cargo.lock pyproject.toml \
	$(shell find crates -name target -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print) \
	$(shell find python/axon \( -name '*.py' -o -name '*.pyi' -o -name py.typed \) -print 2>/dev/null)

export PYTHON
# A shell that was open when rustup ran does not have its folder in PATH yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
# One interpreter for every build, so that switching targets does not build the binding anew.
PYTHON_OF_VENV := $(abspath $(VENV)/bin/python)
# The library inside the onnxruntime wheel, found without importing it.
FIND_ONNXRUNTIME := import glob, importlib.util as util; \
	print(*glob.glob(util.find_spec("onnxruntime").submodule_search_locations[0] + "/capi/libonnxruntime.so.*"))

START := $(shell date +%s)
step = @printf '== %s (at %s s)\n' '$(1)' "$$(($$(date +%s) - $(START)))"

.PHONY: help setup serve demo test test-rust test-python lint check fmt bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## Check the tools, build Axon, install it with its developer tools into .venv

# An environment whose interpreter is gone (removed, or upgraded away) is made again.
ifneq ($(shell test -x $(VENV)/bin/python && echo usable),usable)
.PHONY: $(STAMP)
endif

$(STAMP): $(SOURCES)
	$(call step,setup)
	@scripts/setup.sh
	@test -x $(VENV)/bin/python || "$$PYTHON" -m venv --clear $(VENV)
	@echo "Building Axon into $(VENV) (minutes the first time, seconds after that) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	@touch $@

serve: $(STAMP) ## Serve the digit classifier in the foreground
	@$(VENV)/bin/axon serve examples/digits/digits.onnx

demo: $(STAMP) ## Serve the digit classifier, classify real images over HTTP, print what came of it
	@$(VENV)/bin/python examples/digits/demo.py

test: setup lint test-rust test-python ## Run every check and every test

# The binding is an extension module: it links only inside an interpreter, and tests/*.py test it there.
test-rust: $(STAMP) ## Run the Rust tests
	$(call step,test-rust)
	@ORT_DYLIB_PATH=$$($(VENV)/bin/python -c '$(FIND_ONNXRUNTIME)'); export ORT_DYLIB_PATH; \
	PYO3_PYTHON=$(PYTHON_OF_VENV) cargo test --workspace --exclude axon-python --locked

test-python: $(STAMP) ## Run the Python tests
	$(call step,test-python)
	@cargo build --quiet --locked -p axon-server # the Python-free binary, which the tests run too
	@$(VENV)/bin/python -m pytest tests

lint: $(STAMP) ## Check formatting, lints, types, licences and the walls between crates
	$(call step,lint)
	@cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 || \
		{ echo 'lint: rustfmt or clippy is missing: rustup component add rustfmt clippy' >&2; exit 2; }
	@cargo fmt --all --check
	@PYO3_PYTHON=$(PYTHON_OF_VENV) cargo clippy --workspace --all-targets --locked -- -D warnings
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/python scripts/check_licences.py

check: lint test ## What a change must pass

fmt: $(STAMP) ## Format the code and apply the safe fixes
	@cargo fmt --all
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: $(STAMP) ## Measure Axon's overhead against ONNX Runtime called directly
	@$(VENV)/bin/python benchmarks/overhead/run.py

clean: ## Remove everything that was built
	rm -rf target $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
