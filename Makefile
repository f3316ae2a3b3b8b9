# Needs make and Python 3.11 or newer with its venv module; everything else is installed into VENV.
PYTHON ?= python3
VENV ?= .venv

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# exists while VENV is being created, so that an interrupted installation is recognised and redone
MAKING := $(VENV)/.making

# SCALE of `make table4`: paper or mini; ARGS: more overrides, such as hydra/launcher=ray shards=8
SCALE ?= paper
ARGS ?=
# seconds of `make gpu`
BUDGET ?= 540
# number of processes of `make test`, with one thread each
JOBS ?= 2
EXPERIMENTS := $(filter-out demo methods,$(basename $(notdir $(wildcard experiments/*.yaml))))
# the file that the script writes last
TEXTURED := data/fashion_textured/t10k-labels-idx1-ubyte.gz
# the experiments that exist at SCALE
HERE = $(shell grep -l '^  $(SCALE):' experiments/*.yaml | xargs -n 1 basename -s .yaml)

.DEFAULT_GOAL := help
.PHONY: help venv run joint overview findings tables figures report status benchmark gpu test format clean $(EXPERIMENTS)
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## create the virtual environment; updated only when pyproject.toml changes

$(STAMP): pyproject.toml
	@if [ -e $(MAKING) ]; then rm -rf $(VENV); fi
	@if [ ! -x $(PY) ]; then \
		command -v $(PYTHON) > /dev/null || \
			{ echo "error: no command '$(PYTHON)'; install Python 3.11 or newer, or name it: make PYTHON=..." >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
			{ echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), but 3.11 or newer is needed; name another: make PYTHON=..." >&2; exit 1; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
			{ echo "error: $(PYTHON) lacks its venv module; install it (Debian and Ubuntu: the package python3-venv)" >&2; exit 1; }; \
	fi
	@if [ ! -e $(VENV) ]; then mkdir -p $(VENV) && touch $(MAKING); fi
	@if [ ! -x $(PY) ]; then echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); fi
	@echo "installing into $(VENV) (the first time takes a few minutes)"
	@$(PY) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@rm -f $(MAKING) && touch $@

run findings overview benchmark gpu test: export HF_HUB_OFFLINE = 1
ifeq ($(SCALE),mini)
tables figures report $(EXPERIMENTS): export HF_HUB_OFFLINE = 1
report: $(TEXTURED)
endif

run: $(STAMP) ## run the demo experiment and write its table
	$(PY) run.py -m experiment=demo
	$(PY) -m bigain.reporting table demo

overview: $(STAMP) ## draw accuracy and FID of both models in one figure: results/overview.png
	$(PY) -m bigain.reporting overview

joint: ## compute accuracy and FID of every method at every strength: results/mini/figure2.*
	$(MAKE) figure2 SCALE=mini
	$(MAKE) overview

budgets texture benchmark findings: $(TEXTURED)

$(TEXTURED): | $(STAMP)
	$(PY) scripts/prepare_fashion_textured.py

$(EXPERIMENTS): $(STAMP)
	$(PY) run.py -m experiment=$@ scale=$(SCALE) $(ARGS)
	$(PY) -m bigain.reporting table $@ --scale $(SCALE)

tables: $(filter table%,$(HERE)) ## make every table at SCALE=paper or mini; a single one: make table4

figures: $(filter figure%,$(HERE)) ## make every figure at SCALE=paper or mini; a single one: make figure2

findings: $(STAMP) ## make the tables of docs/findings.md, with the runs that they need
	for name in figure2 budgets destinations table14 texture table8 table15 table16 retention; do \
		$(PY) run.py -m experiment=$$name scale=mini $(ARGS) || exit 1; done
	$(PY) -m bigain.reporting findings

report: $(STAMP) ## write one page with all tables and figures at SCALE: results/SCALE/report.html
	$(PY) -m bigain.reporting report --scale $(SCALE)

status: $(STAMP) ## say what is done, running, missing or failed, and which commands complete it
	$(PY) -m bigain.reporting status --scale $(SCALE) --ahead

benchmark: $(STAMP) ## time everything against its peers, into results/benchmarks; stop other work first
	$(PY) scripts/benchmark.py $(ARGS)

gpu: $(STAMP) ## measure on a GPU what is worth most in BUDGET seconds; the next call goes on
	$(PY) scripts/gpu.py budget=$(BUDGET) $(ARGS)

test: $(STAMP) ## lint, check layers and types, and run the tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(PY) -m mypy
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=10

format: $(STAMP) ## fix what ruff can fix, and format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove caches and Hydra's scratch folders; VENV and results stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache build dist outputs multirun *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
