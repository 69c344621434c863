# `make demo` and `make test` each set up all they need in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check site bench bench-all paper dist setup clean

demo: setup
	$(BIN)/sparsight demo --out runs/demo

# A process for each core, each with one thread: together they are done in about half the time.  Python
# keeps what it compiled of our files, for them and for the many processes that tests start.
test: setup
	OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.render --check

# All of docs/ with search, from the disk: open site/index.html.  (The variable: no advertisement in the log.)
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The short ladder, minutes; bench-all: everything that needs no data of others, hours.
bench bench-all: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks.run $(if $(filter bench-all,$@),--all)
	$(BIN)/python -m benchmarks.render

paper: setup
	$(BIN)/python -m benchmarks.paper.run
	$(BIN)/python -m benchmarks.render

# A wheel and a source distribution in dist/, and the wheel tried in an environment of its own.
dist: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) tools/try_wheel.py dist

setup: $(READY)

# torch first and by its exact version: a plain `torch` may bring several gigabytes of CUDA libraries.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
