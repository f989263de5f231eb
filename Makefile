VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup study docs lint test test-slow test-full clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## create .venv and install everything pinned (once)

# torch goes first and alone: with it pinned and present, nothing that follows may pull another build of it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[gpu,bench,demo,cluster,parquet,docs,dev]'
	@touch $@

study: $(STAMP) ## the main job: quantise, decode, explore, report into results/codesign/
	$(BIN)/bittaper study codesign

docs: $(STAMP) ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W -n -q -b html docs docs/_build/html

lint: $(STAMP) ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file's tests stay in one process: they share what is costly to make. Two processes leave other machines' cores alone.
test: lint ## lint, then every quick test (under 10 minutes)
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow and not full and not gpu'

test-slow: $(STAMP) ## long property tests, clean-environment installs, real commands
	$(BIN)/pytest -n 2 --dist loadfile -m slow

test-full: $(STAMP) ## what takes longer still; by hand
	$(BIN)/pytest -m full

clean: ## remove caches and build output, keep .venv and results
	rm -rf build dist docs/_build docs/_generated .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
