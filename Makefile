# `make gallery` and `make test` are all a fresh clone needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help gallery test lint bench notebooks docs clean

help:
	@echo "make gallery   run every experiment on shipped real data, write results/index.html"
	@echo "make test      run the tests"
	@echo "make lint      ruff and mypy"
	@echo "make bench     time the library beside its peers, write results/benchmarks"
	@echo "make notebooks execute the notebooks, write results/notebooks/*.ipynb"
	@echo "make docs      write the API reference, docs/_build/index.html"

# One set of packages (an extra of pyproject.toml) a purpose, made again only when that file changes.
$(VENV)/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

gallery: $(VENV)/experiments
	$(BIN)/python -m experiments gallery $(ARGS)

test: $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses=auto $(ARGS)

lint: $(VENV)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/bench
	$(BIN)/python -m experiments.benchmarks $(ARGS)

notebooks: $(VENV)/notebooks
	mkdir -p results/notebooks
	for name in experiments/notebooks/*.py; do \
		$(BIN)/jupytext --set-kernel python3 --execute --to ipynb --output \
			results/notebooks/$$(basename $$name .py).ipynb $$name || exit 1; \
	done

docs: $(VENV)/docs
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) docs/_build results .cache .mypy_cache .pytest_cache .ruff_cache
