# Every target makes the virtual environment first where it is missing or out of date.
PYTHON ?= python3
EXTRAS ?= dev,docs,tensorrt-rtx,openvino,transformers,ray,plot,serve,client
PYTHON312 ?= python3.12
VENV ?= .venv

BIN := $(abspath $(VENV))/bin
comma := ,
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

# One process a core, of one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

.PHONY: cpus demo docs lint release-check test test-all test-release triton-env venv

demo: $(STAMP)
	$(BIN)/python benchmarks/demo.py

# About 10 minutes on two cores.
test: $(STAMP)
	$(PYTEST) -m "not slow and not release"

# What CI runs.
test-all: $(STAMP)
	$(PYTEST) -m "not release"

# By hand before a release; the last result is in benchmarks/results/release.md.
test-release: $(STAMP)
	$(BIN)/python -m pytest -m release
	$(BIN)/python benchmarks/cpus/run.py

# The wheel, built and tried in empty environments: installs 6 GB, or with BORROW=1 takes them from this environment.
release-check: $(STAMP)
	$(BIN)/python tools/release_check.py $(if $(BORROW),--borrow $(BIN)/python)

# The demo's engines on emulated CPUs; on Debian it needs the package qemu-user.
cpus: $(STAMP)
	$(BIN)/python benchmarks/cpus/run.py $(CPUS)

# Triton Inference Server in an environment of its own, for the tests that run it; PYTHON312 is a Python 3.12.
triton-env:
	$(PYTHON312) tools/triton_environment.py --python $(PYTHON312)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/; a warning is an error. (The variable silences a notice about the theme's successor.)
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 PATH="$(BIN):$$PATH" $(BIN)/mkdocs build --strict

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@
