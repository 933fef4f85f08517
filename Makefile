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
SOURCES := Cargo.toml Cargo.lock pyproject.toml constraints.txt \
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

.PHONY: help setup serve demo test test-rust test-python test-fuzz lint check fmt bench fuzz clean

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
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[dev]'
	@touch $@

serve: $(STAMP) ## Serve the digit classifier in the foreground
	@$(VENV)/bin/axon serve examples/digits/digits.onnx

demo: $(STAMP) ## Serve the digit classifier, classify real images over HTTP, print what came of it
	@$(VENV)/bin/python examples/digits/demo.py

test: setup lint test-rust test-fuzz test-python ## Run every check and every test

# The binding is an extension module: it links only inside an interpreter, and tests/*.py test it there.
test-rust: $(STAMP) ## Run the Rust tests
	$(call step,test-rust)
	@ORT_DYLIB_PATH=$$($(VENV)/bin/python -c '$(FIND_ONNXRUNTIME)'); export ORT_DYLIB_PATH; \
	PYO3_PYTHON=$(PYTHON_OF_VENV) cargo test --workspace --exclude axon-python --locked

test-python: $(STAMP) ## Run the Python tests
	$(call step,test-python)
	@scripts/setup.sh tests $(VENV)/bin
	@cargo build --quiet --locked -p axon-server # the Python-free binary, which the tests run too
	@$(VENV)/bin/python -m pytest tests

# The corpus of every parser, and two seconds of seeded mutations of each.
test-fuzz: $(STAMP) ## Feed every parser its corpus and some broken input
	$(call step,test-fuzz)
	@cd fuzz && CARGO_TARGET_DIR=../target/fuzz cargo run --quiet --locked --bin axon-fuzz

# The flags are those that cargo-fuzz gives rustc; they need no nightly. `make fuzz TARGET=json SECONDS_OF_FUZZ=600`
TARGET ?= json
SECONDS_OF_FUZZ ?= 60
fuzz: $(STAMP) ## Fuzz one parser led by coverage; needs a C++ compiler
	@cd fuzz && mkdir -p ../target/fuzz-corpus/$(TARGET) && CARGO_TARGET_DIR=../target/libfuzzer \
	RUSTFLAGS='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares' \
	cargo build --quiet --locked --features libfuzzer --bin libfuzzer --target "$$(rustc -vV | sed -n 's/^host: //p')" && \
	AXON_FUZZ_TARGET=$(TARGET) "../target/libfuzzer/$$(rustc -vV | sed -n 's/^host: //p')/debug/libfuzzer" \
	-max_total_time=$(SECONDS_OF_FUZZ) ../target/fuzz-corpus/$(TARGET) corpus/$(TARGET)

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
