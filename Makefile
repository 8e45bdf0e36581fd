# Every target makes the virtual environment first where it is missing or out of date.
PYTHON ?= python3
EXTRAS ?= dev,tensorrt-rtx,ray,plot
VENV ?= .venv

BIN := $(abspath $(VENV))/bin
comma := ,
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
# mypy does not follow the mapping of calib_data, export and engines into the package: give it the tree as installed.
TYPED := build/typed/repq_deploy

.PHONY: demo test lint venv

demo: $(STAMP)
	$(BIN)/python benchmarks/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPED)
	mkdir -p $(TYPED)
	ln -s $(CURDIR)/repq_deploy/* $(CURDIR)/calib_data $(CURDIR)/export $(CURDIR)/engines $(TYPED)
	cd $(TYPED)/.. && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@
