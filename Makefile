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
SEEDS ?=
FRACTION ?=
COLUMN ?=
INCEPTION ?=
OUT ?=
PARALLEL ?=
RUN ?=
ARGS ?=
JOBS ?= 2
LOWEST_PYTHON ?= python3.11
TORCH_PYTHON ?= $(BIN)/python
FLAGS = $(if $(DATA),--data "$(DATA)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(EPOCHS),--epochs $(EPOCHS)) \
	$(if $(SEED),--seed $(SEED)) $(if $(PARALLEL),--parallel $(PARALLEL)) $(if $(RUN),--run-dir "$(RUN)") $(ARGS)

SWEEP = $(if $(DATA),--data "$(DATA)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(EPOCHS),--epochs $(EPOCHS)) \
	$(if $(SEEDS),--seeds $(SEEDS)) $(if $(FRACTION),--fraction $(FRACTION)) $(if $(INCEPTION),--inception "$(INCEPTION)") \
	$(if $(OUT),--out "$(OUT)") $(if $(PARALLEL),--parallel $(PARALLEL)) $(ARGS)
TABLES := table1 table2-svhn table3 table5
FIGURES := figure3 figure4 figure5 figure8 figure9
QUESTIONS := question-beta question-learned-sigma question-test-sigma question-other-weights question-collapse question-calibrated

.DEFAULT_GOAL := help
.PHONY: help install svhn-optimal $(TABLES) table2-cifar table2-celeba table2-bair table4 learned-scales moving-digits $(FIGURES) $(QUESTIONS) figures paper figure two-modalities regression counts world-model test test-slow test-lowest test-all lint typecheck format wheel docs bench bench-gpu bench-decoders faults soak clean

help: ## Show this list
	@echo "usage: make TARGET [DATA=svhn|mnist|images.npz|folder] [DATA_DIR=] [EPOCHS=] [SEED=] [PARALLEL=jit|pmap|sharded] [RUN=] [ARGS=]"
	@echo "       make table1|table3|... [DATA=] [EPOCHS=] [SEEDS=] [FRACTION=] [INCEPTION=FILE|download] [OUT=] [ARGS=]"
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/' | expand -t 26

install: $(VENV)/.installed ## Make .venv and install calibrax with its pinned dependencies

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "calibrax needs Python 3.11, 3.12 or 3.13 with venv; none that runs is on the PATH" >&2; exit 2; }
	@echo "Installing into $(VENV) with $$($(PYTHON) --version), a few minutes the first time"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

svhn-optimal: install ## Train and evaluate the optimal sigma-VAE on SVHN (or street-digits, where SVHN cannot be had)
	@$(BIN)/python -m experiments.svhn_optimal $(FLAGS)

table1: ## Table 1: hand-tuned β against learned σ on SVHN
table2-svhn: ## Table 2, SVHN column: eleven decoders
table3: ## Table 3: decoders on MNIST
table5: ## Table 5: -log p of 256 levels on CIFAR-10
figure3: ## Figure 3: samples over β, rate and distortion on SVHN
figure4: ## Figure 4: mutual information and marginal KL on SVHN
figure5: ## Figure 5: samples on SVHN, optimal σ beside Gaussian
figure8: ## Figure 8: samples on CIFAR-10, optimal σ beside Gaussian
figure9: ## Figure 9: σ against training step on SVHN
question-beta: ## Does one σ find the best β: a sweep of twelve β beside the optimal and the shared σ
question-learned-sigma: ## How much slower is learning σ: -ELBO against training steps (EPOCHS=60)
question-test-sigma: ## Whose σ at test time: what the running average, calibrate and each batch's own σ cost in nats
question-other-weights: ## What GECO and the Beta-Sigma VAE need to be told, and where they land
question-collapse: ## When does a VAE encode nothing: active units and rate against a constant σ, beside a linear VAE
question-calibrated: ## Is it calibrated: coverage of intervals per pixel and per image, eight decoders on SVHN
$(TABLES) $(FIGURES) $(QUESTIONS): install
	@$(BIN)/python -m experiments.$(subst -,_,$@) $(SWEEP)

table4: install ## Table 4: CIFAR-10, CelebA and Frey Face (COLUMN=frey-face for one)
	@$(BIN)/python -m experiments.table4 $(if $(COLUMN),--column $(COLUMN)) $(SWEEP)

table2-cifar: install ## Table 2, CIFAR-10 column: ten decoders in the hierarchical VAE (a GPU's work)
	@$(BIN)/python -m experiments.table2_hvae --column cifar10 $(SWEEP)

table2-celeba: install ## Table 2, CelebA column: the same
	@$(BIN)/python -m experiments.table2_hvae --column celeba $(SWEEP)

table2-bair: install ## Table 2, BAIR column: eight decoders in SVG-LP, the video model (a GPU's work)
	@$(BIN)/python -m experiments.table2_bair $(SWEEP)

learned-scales: install ## Table of ways to learn σ on SVHN: per pixel, by β-NLL, faithfully, from the data's scale
	@$(BIN)/python -m experiments.learned_scales $(SWEEP)

moving-digits: install ## Decoders of a small video model on moving digits (two: ARGS="--only optimal-sigma gaussian")
	@$(BIN)/python -m experiments.moving_digits $(SWEEP)

figures: $(FIGURES) ## All figures of the small network

paper: install ## All of these that the data at hand allow, and a page of results (SVHN= MNIST= FREY_FACE= CIFAR10=)
	@$(BIN)/python -m experiments.paper $(if $(SVHN),--svhn "$(SVHN)") $(if $(MNIST),--mnist "$(MNIST)") \
		$(if $(FREY_FACE),--frey-face "$(FREY_FACE)") $(if $(CIFAR10),--cifar10 "$(CIFAR10)") \
		$(SWEEP)

figure: install ## Draw the front page's figure from a run (RUN=)
	@$(BIN)/python -m experiments.front_page $(if $(RUN),"$(RUN)",runs/street-digits-optimal-sigma-seed0) $(ARGS)

two-modalities: install ## Train a VAE of an image and a state with no weights between them (calibrax.joint)
	@$(BIN)/python -m experiments.two_modalities $(if $(SEED),--seed $(SEED)) $(ARGS)

regression: install ## Likelihoods on scikit-learn's data, beside Bayesian linear regression: nll and coverage
counts: install ## A VAE of scikit-learn's digits as counts: four decoders in bits per pixel
world-model: install ## A world model of Pendulum and CartPole with no loss weights, beside weights by hand (10 minutes)
regression counts world-model:
	@$(BIN)/python -m examples.$(subst -,_,$@) $(if $(OUT),--out "$(OUT)") $(ARGS)

SLOW := tests/end_to_end tests/robustness

test: install ## Run the fast tests, at most 5 minutes on two cores
	@$(BIN)/python -m pytest -n $(JOBS) $(SLOW:%=--ignore=%) $(ARGS)

test-slow: install ## Run the other tests: whole runs, damage, faults, fuzzing
	@$(BIN)/python -m pytest -n $(JOBS) $(SLOW) $(ARGS)

test-lowest: ## Test the lowest versions that pyproject.toml allows, in new virtual environments (LOWEST_PYTHON=python3.11)
	@JOBS=$(JOBS) $(LOWEST_PYTHON) benchmarks/lowest.py $(ARGS)

test-all: test test-slow ## Run all tests, at most 30 minutes on two cores

lint: install ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

typecheck: install ## Check types
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: install ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

wheel: ## Build the wheel and the sdist, and use the wheel in a new virtual environment; .venv is not touched
	@$(PYTHON) benchmarks/wheel.py

docs: install ## Build the documentation site into docs/_build/html; runs the Python of all its pages, some 5 minutes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@rm -rf docs/_build
	@$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@$(BIN)/python docs/check_html.py docs/_build/html

bench: install ## Time the training step beside PyTorch, start-up, rates, growth (TORCH_PYTHON=an interpreter that has torch)
	@$(BIN)/python -m benchmarks.suite --torch-python $(TORCH_PYTHON) $(ARGS)

bench-gpu: install ## Time the steps of all models on a GPU, the CPU's results first (TORCH_PYTHON=one that has torch with CUDA)
	@$(BIN)/python -m benchmarks.accelerator --torch-python $(TORCH_PYTHON) $(ARGS)

bench-decoders: install ## Time the likelihoods against NumPyro, Distrax, TFP and PyTorch (those that are installed)
	@$(BIN)/python -m benchmarks.decoders --torch-python $(TORCH_PYTHON) $(ARGS)

faults: install ## Kill training at 120 moments, resume it, compare to the bit (ARGS="--kills 20 --terms 5" for fewer)
	@$(BIN)/python -m benchmarks.faults $(ARGS)

soak: install ## Take 20,000 small steps and watch memory, compilations, files and threads
	@$(BIN)/python -m benchmarks.soak $(ARGS)

clean: ## Remove .venv and caches; runs and data stay
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
