# Everything a newcomer types. PIP_ARGS adds, for example, an index with CPU builds of torch.
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
ENGINE ?= embedded
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install run test lint format clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.service: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(PIP_ARGS) -e ".[embedded]"
	@touch $@

$(VENV)/.dev: $(VENV)/.service
	PIP="$(BIN)/pip" PIP_ARGS="$(PIP_ARGS)" tests/setup
	@touch $@

install: $(VENV)/.service ## the service alone in .venv (no torch), with the darkroom command

run: install ## start the service on http://127.0.0.1:8000; ENGINE=triton starts an NVIDIA Triton for it
ifeq ($(ENGINE),triton)
	@PIP_ARGS="$(PIP_ARGS)" export/setup-triton
	$(BIN)/python -m export.triton_server $(BIN)/darkroom serve --engine triton
else
	$(BIN)/darkroom serve --engine $(ENGINE)
endif

test: $(VENV)/.dev ## install what the tests need, then pass them; narrow with PYTEST_ARGS="-k ..."
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff and mypy, as the tests run them
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.dev ## rewrite in the house style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## remove environments, builds and caches
	rm -rf $(VENV) .venv-triton build runs .pytest_cache .mypy_cache .ruff_cache
