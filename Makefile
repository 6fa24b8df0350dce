# Two commands matter: `make serve` and `make test`. Both do their own set-up.
.DEFAULT_GOAL := help
.PHONY: help setup serve test test-fast lint types contracts check bench lock clean
.NOTPARALLEL:
SHELL := /bin/bash
BIN := .venv/bin
# Where the environment forbids bytecode, every process would compile torch and vLLM anew: ten seconds of a core each.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: ## Make the environment for tests and development
	@scripts/setup.sh dev

# `exec`: nothing stands between make and the server. A terminal's Ctrl-C reaches it once; a SIGTERM to make alone is
# passed on by make.
serve: ## Set up, prepare the sample model and serve it on 127.0.0.1:8000 (settings: SLUICE_*)
	@scripts/setup.sh serve
	@exec $(BIN)/sluice serve --dev

# What needs no engine runs two at a time; engines and processes want the machine for themselves.
# PYTEST_ARGS may name tests of one kind only: none of the other kind (pytest's 5) is no failure then.
test: setup ## Set up and run every test (PYTEST_ARGS=...); installs servers and a browser for them where they are missing
	@scripts/test-services.sh
	@$(call tests,-m "not engine and not slow",-n 2 --dist loadfile)
	@$(call tests,-m "engine or slow",)

# With AGAIN=1 what failed is run once more, alone, and has to pass then: CI's machine is shared, and both runs are shown.
tests = $(BIN)/python -m pytest --durations=25 --durations-min=5 $(1) $(2) $(PYTEST_ARGS) || { status=$$?; [ $$status -eq 5 ] || \
	{ [ $$status -eq 1 ] && [ -n "$(AGAIN)" ] && echo "== once more, what failed" && \
	$(BIN)/python -m pytest $(1) $(PYTEST_ARGS) --last-failed --last-failed-no-failures none; }; }

test-fast: setup ## Only the tests that need no engine
	@scripts/test-services.sh
	@$(BIN)/python -m pytest -m "not engine and not slow" $(PYTEST_ARGS)

lint: setup ## Style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## Types
	@$(BIN)/mypy

contracts: setup ## Who may import whom
	@$(BIN)/lint-imports

check: lint types contracts test ## Everything that CI runs

bench: setup ## Measure Sluice and its peers on this machine, about ten minutes (BENCH_ARGS=...)
	@$(BIN)/python loadtest/compare.py $(BENCH_ARGS)

lock: setup ## Write the locks in requirements/ anew
	@scripts/lock.sh

clean: ## Remove the environment and caches of this checkout
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
