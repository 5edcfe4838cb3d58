# Everything a fresh machine needs: `make demo`, `make test`. CI runs `make check` and `make test`.
PYTHON ?= python3
BIN = .venv/bin
DONE = .venv/.installed

.PHONY: demo test check grid clean

demo: $(DONE)
	$(BIN)/headstart demo

test: $(DONE)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The quality of the decision, cell by cell (hours); a stopped run goes on.
grid: $(DONE)
	$(BIN)/python benchmarks/grid.py run
	$(BIN)/python benchmarks/grid.py table

$(DONE): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headstart needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(DONE)

clean:
	rm -rf .venv
