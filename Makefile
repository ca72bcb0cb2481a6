# `make demo` and `make test` need nothing but Python >= 3.11: each first makes .venv and installs everything there.
# The stamps are renewed, and with them the environment, only where pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs

.PHONY: demo test lint docs clean

demo: $(INSTALLED)
	$(BIN)/python -m scflow demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED_DOCS)
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[test]"
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) -e ".[dev]"
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist docs/_build docs/api/generated docs/tutorials .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
