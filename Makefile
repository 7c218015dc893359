# Two commands on a fresh machine: `make svhn-optimal` and `make test`. Everything lives in .venv.

VENV := .venv
BIN := $(VENV)/bin
# The newest supported interpreter that runs and can make a virtual environment; a name on the PATH may be a shim.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 \
	&& { command -v $$p; break; }; done)

DATA ?=
DATA_DIR ?=
EPOCHS ?=
SEED ?=
PARALLEL ?=
RUN ?=
ARGS ?=
JOBS ?= 2
TORCH_PYTHON ?= $(BIN)/python
FLAGS = $(if $(DATA),--data "$(DATA)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(EPOCHS),--epochs $(EPOCHS)) \
	$(if $(SEED),--seed $(SEED)) $(if $(PARALLEL),--parallel $(PARALLEL)) $(if $(RUN),--run-dir "$(RUN)") $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install svhn-optimal figure two-modalities test lint typecheck format bench bench-decoders clean

help: ## Show this list
	@echo "usage: make TARGET [DATA=svhn|mnist|images.npz|folder] [DATA_DIR=] [EPOCHS=] [SEED=] [PARALLEL=jit|pmap|sharded] [RUN=] [ARGS=]"
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/' | expand -t 18

install: $(VENV)/.installed ## Make .venv and install calibrax with its pinned dependencies

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "calibrax needs Python 3.11, 3.12 or 3.13 with venv; none that runs is on the PATH" >&2; exit 2; }
	@echo "Installing into $(VENV) with $$($(PYTHON) --version), a few minutes the first time"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

svhn-optimal: install ## Train and evaluate the optimal sigma-VAE on SVHN (or street-digits, where SVHN cannot be had)
	@$(BIN)/python -m experiments.svhn_optimal $(FLAGS)

figure: install ## Draw the front page's figure from a run (RUN=)
	@$(BIN)/python -m experiments.front_page $(if $(RUN),"$(RUN)",runs/street-digits-optimal-sigma-seed0) $(ARGS)

two-modalities: install ## Train a VAE of an image and a state with no weights between them (calibrax.joint)
	@$(BIN)/python -m experiments.two_modalities $(if $(SEED),--seed $(SEED)) $(ARGS)

test: install ## Run the tests
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: install ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

typecheck: install ## Check types
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: install ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: install ## Time the training step against a PyTorch eager twin (TORCH_PYTHON=an interpreter that has torch)
	@$(BIN)/python -m benchmarks.train_step --torch-python $(TORCH_PYTHON) $(ARGS)

bench-decoders: install ## Time the likelihoods against NumPyro, Distrax, TFP and PyTorch (those that are installed)
	@$(BIN)/python -m benchmarks.decoders --torch-python $(TORCH_PYTHON) $(ARGS)

clean: ## Remove .venv and caches; runs and data stay
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
