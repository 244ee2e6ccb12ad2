.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
UV := $(VENV)/bin/uv
LOCK = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --python-version 3.11 --no-emit-package lepton-operator pyproject.toml

venv: $(VENV)/.ready  ## the project's virtual environment, from locks/dev.txt

$(VENV)/.ready: locks/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$$(grep -o '^uv==[0-9.]*' locks/dev.txt)"
	VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet locks/dev.txt
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --editable .
	touch $@
