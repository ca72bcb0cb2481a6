# `make demo` and `make test` need nothing but Python >= 3.11: each first makes .venv and installs everything there.
# The stamps are renewed, and with them the environment, only where pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_TUTORIALS := $(VENV)/.installed-tutorials
INSTALLED_DOCS := $(VENV)/.installed-docs

.PHONY: demo test lint docs tutorials fuzz clean

demo: $(INSTALLED)
	$(BIN)/python -m scflow demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Ten minutes of inputs that coverage leads to, and a hundred times the examples of the tests.
FUZZ_SECONDS ?= 600

fuzz: $(INSTALLED)
	$(PIP) -e ".[fuzz]"
	SCFLOW_FUZZ=1 $(BIN)/python -m pytest -n 0 tests/test_fuzz.py
	$(BIN)/python tests/fuzz/load_flow.py -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -timeout=60

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tutorials: $(INSTALLED_TUTORIALS)
	$(BIN)/python tutorials/run.py --jobs 2

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

$(INSTALLED_TUTORIALS): $(INSTALLED)
	$(PIP) -e ".[tutorials]"
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist docs/_build docs/api/generated docs/tutorials .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
