# `make run` and `make test` do all set-up on a fresh machine. Override PYTHON or VENV to choose interpreter and place.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test lint check clean

run: $(VENV)/.installed ## The main job: plain averaging, DFL-Dual and the oracle under attack, on Flower and Ray.
	$(BIN)/python experiments/quickstart/compare.py

test: $(VENV)/.installed ## The test suite.
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed ## Format, lint, types, import rule.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## Everything that must hold before a commit.

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
