# Every command. `make` is what CI runs; `make demo` and `make test` need nothing but Python 3.11.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard proto/turnwire/v1/*.proto)
SERVICES := $(wildcard proto/turnwire/v1/*_service.proto)
READY := $(VENV)/.ready

.DEFAULT_GOAL := check
.PHONY: check lint types imports proto proto-check proto-breaking test test-faults test-vllm canaries probes demo serve bench clean install

check: lint types imports proto-check test

install: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Turnwire needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute or so, once)..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $(READY)

demo: $(READY)
	@$(BIN)/turnwire demo

serve: $(READY)
	@$(BIN)/turnwire serve

test: $(READY)
	@$(BIN)/python -m pytest -n 4 --dist loadfile

# Replicas and stores that are killed, frozen and starved, and what was promised counted: some minutes.
test-faults: $(READY)
	@$(BIN)/python -m pytest -m faults -s

# The adapters against a real vLLM on this machine's CPU: 4 GB and some minutes, the first time.
test-vllm: export TEST_VLLM ?= $(HOME)/.cache/turnwire/vllm
test-vllm: $(READY)
	@PYTHONPATH=.:proto $(BIN)/python -m tests.vllm.lab setup
	@$(BIN)/python -m pytest tests/vllm -rs

# What was said under store: false is looked for in every place that anything is written to.
canaries: $(READY)
	@PYTHONPATH=.:proto $(BIN)/python -m tests.canaries

# One tenant asks for another's things, 100,000 times, and measures how long it takes to be told nothing.
probes: $(READY)
	@PYTHONPATH=.:proto $(BIN)/python -m tests.probes --probes 100000

bench: $(READY)
	@$(BIN)/python -m tests.benchmarks.turns

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@cd proto && $(abspath $(BIN))/buf lint

types: $(READY)
	@$(BIN)/mypy

imports: $(READY)
	@$(BIN)/lint-imports

proto: $(READY)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto \
		--python_out=proto --mypy_out=quiet:proto $(PROTOS)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto \
		--grpc_python_out=proto --mypy_grpc_out=quiet:proto $(SERVICES)

# What the compiler writes now must be what is committed.
proto-check: $(READY)
	@rm -rf build/proto && mkdir -p build && cp -r proto build/proto
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Ibuild/proto \
		--python_out=build/proto --mypy_out=quiet:build/proto $(PROTOS:proto/%=build/proto/%)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Ibuild/proto \
		--grpc_python_out=build/proto --mypy_grpc_out=quiet:build/proto $(SERVICES:proto/%=build/proto/%)
	@diff -r -x __pycache__ proto build/proto || { echo "Generated code is stale: run 'make proto'."; exit 1; }

proto-breaking: $(READY)
	@cd proto && $(abspath $(BIN))/buf breaking --against '../.git#branch=main,subdir=proto'

clean:
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
