# Everything needed is created in .venv; the two commands of a newcomer are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= demo
export PYTHONSAFEPATH := 1

.PHONY: demo test test-all lint bench docs wheel clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[generation,realtime,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/bds demo $(OUT)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(READY)
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)
	mkdir -p bench
	for script in benchmarks/*.py; do $(BIN)/python $$script --json bench/$$(basename $$script .py).json || exit 1; done

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[docs]'
	$(BIN)/mkdocs build --strict

wheel: $(READY)
	rm -rf dist && $(BIN)/python -m build --quiet

clean:
	rm -rf $(VENV) dist site bench
