# scorefield: every chore in one word; `make help` lists them.
#
# Needs Python 3.11 or newer, git and make. Everything lives in .venv, which is made when it is
# missing, made anew when it is broken or was left half-made, and otherwise left alone.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-
UNFINISHED := $(VENV)/.unfinished

# The first Python that is new enough and can make environments. `make demo PYTHON=...` overrides.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	if $$name -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$name; break; fi; done)

# Two test processes share the machine, so torch gets one thread in each.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test slow lint docs bench clean environment

help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-6s %s\n' "$$name" "$$what"; done

demo: install-base  ## train, sample and score on real data; ends by itself
	$(BIN)/scorefield demo

test: install-test  ## the suite, without the slow part; ARGS='-k name' is passed on
	$(PYTEST) $(ARGS)

slow: install-test  ## the slow part of the suite
	$(PYTEST) -m slow $(ARGS)

lint: install-dev  ## ruff check, ruff format --check, mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy src

docs: install-docs  ## HTML pages in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: install-test  ## every benchmarks/*.py in turn
	@set -e; for file in benchmarks/[a-z]*.py; do \
		[ -e "$$file" ] || { echo "no benchmarks here yet"; break; }; \
		echo "== $$file"; $(BIN)/python "$$file"; done

clean:  ## remove what was built and the environment
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. A second make reads the stamps only after the environment was looked at,
# because make remembers whether a file existed before a recipe removed it.
install-%: environment
	@$(MAKE) --no-print-directory -s $(STAMP)$*

environment:
	@if [ ! -e $(UNFINISHED) ] && $(BIN)/python -m pip --version >/dev/null 2>&1 && \
		$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then exit 0; fi; \
	if [ -z "$(PYTHON)" ]; then echo "scorefield needs Python 3.11 or newer with its venv module; none was found" >&2; exit 1; fi; \
	echo "making $(VENV) with $(PYTHON)"; \
	rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && $(PYTHON) -m venv $(VENV) && rm $(UNFINISHED)

# One stamp for each extra; dev contains test, and each contains the package itself.
INSTALL = echo "installing scorefield into $(VENV)"; touch $(UNFINISHED) && $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
DONE = rm $(UNFINISHED) && touch

$(STAMP)base: pyproject.toml constraints.txt
	$(INSTALL) -e . && $(DONE) $@

$(STAMP)test: pyproject.toml constraints.txt
	$(INSTALL) -e '.[test]' && $(DONE) $@ $(STAMP)base

$(STAMP)dev: pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]' && $(DONE) $@ $(STAMP)test $(STAMP)base

$(STAMP)docs: pyproject.toml constraints.txt
	$(INSTALL) -e '.[docs]' && $(DONE) $@ $(STAMP)base
