# Everything that a person or CI runs here; `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
TOOLS := $(VENV)/installed-tools
TWO := -n 2 --dist worksteal
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compiled modules are kept, whatever the shell says: without them, each start of a process compiles PyTorch's anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-gpu lint bench studies gpu faults faults-quick golden format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## train on a small folder of real images, evaluate, predict, show what to do next
	@$(BIN)/plusx demo

test: lint ## what CI runs: formatting, lint, types, and all but the slow tests
	@echo "[test] pytest, without the slow tests, two at a time"
	@$(BIN)/python -m pytest -m "not slow and not gpu" $(TWO)

test-all: lint ## the same with the slow tests
	@echo "[test-all] pytest, with the slow tests, two at a time"
	@$(BIN)/python -m pytest -m "not gpu" $(TWO)

test-gpu: $(TOOLS) ## what only a GPU can show; other tests do not see the GPU
	@$(BIN)/python -m pytest -m gpu tests/gpu

lint: $(TOOLS) ## formatting, lint and types: the commands of .pre-commit-config.yaml
	@echo "[lint] ruff format, ruff check, mypy"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

bench: $(INSTALLED) ## measure training and loading beside plain PyTorch; writes bench/results/
	@$(BIN)/python -m bench

studies: $(INSTALLED) ## run all nine studies at their quick budget, an hour on two cores; writes docs/results/
	@$(BIN)/python -m bench.studies studies

gpu: $(INSTALLED) ## Table 6 and its plain twins at the paper's own budget, on a GPU; writes bench/results/gpu.json
	@$(BIN)/python -m bench.gpu table6

faults-quick: $(TOOLS) ## inject most faults into training a few times, minutes; writes docs/reliability.md and JSON
	@$(BIN)/python -m bench.faults quick

faults: $(TOOLS) ## the full figures, hours; writes bench/results/faults.json and docs/reliability.md
	@$(BIN)/python -m bench.faults full

golden: $(TOOLS) ## record the golden losses again, after a change that is meant to move them
	@$(BIN)/python -m tests.golden

format: $(TOOLS) ## rewrite the sources in the project's format
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format .

clean: ## delete the environment, builds and caches; runs and results stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, made once and brought up to date when the dependencies change; what only developers need comes after.
INSTALL := $(BIN)/python -m pip install -qq --no-input --no-compile -c constraints.txt
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "plusx needs Python 3.11 or later, and '$(PYTHON)' is not one." >&2; \
	  echo "Install one, or name it: make PYTHON=python3.12 $(or $(MAKECMDGOALS),test)" >&2; exit 1; }
	@echo "[install] PyTorch and the other dependencies into $(VENV): 6 GB on disk, once, 1 to 4 minutes"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) -e .
	@touch $@
	@echo "[install] done"

$(TOOLS): $(INSTALLED)
	@echo "[install] pytest, ruff, mypy and others that tests and checks need"
	@$(INSTALL) -e '.[dev]'
	@touch $@
