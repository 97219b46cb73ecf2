# Run `make` or `make help`. Everything stays inside this checkout: .venv for Python, .parts for
# servers that the demo and the tests start on 127.0.0.1.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Compiling ccxt anew in every worker process would take seconds; keep what is compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup parts demo test check format bench clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with every extra and the development tools (safe to repeat)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seamfill needs Python 3.11 or newer; name one with make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1,<27'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]' --group dev
	@touch $(READY)

parts: setup ## Fetch QuestDB into .parts (needs Maven and Java 17; the demo does without)
	@$(BIN)/seamfill-chaos parts questdb fetch || [ -z "$${SEAMFILL_REQUIRE_REAL:-}" ]

demo: parts ## Find a hole, lease it, fill it, kill a leader and a worker, prove the result
	@exec $(BIN)/seamfill-chaos demo

test: parts ## Run all tests; what needs a part that is missing is skipped and listed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: setup ## Check formatting, lint, types (mypy strict) and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: parts ## Print the benchmarks, each with its environment and both sides
	@for script in tests/bench/[a-z]*.py; do echo; $(BIN)/python $$script; done

clean: ## Remove what setup and the tests made (not .parts)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist var
