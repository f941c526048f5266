# Every goal does its own set-up, in .venv beside this file. Nothing else on the machine is touched.
#
#   make demo          generate a video with the shipped model; PROMPT="..." to say what, OUT=x.mp4 to say where
#   make toybox-model  train the shipped model again, from nothing, and score it. Stopped at any time, it goes on when
#                      run again; SECONDS_PER_PIECE=500 stops it by itself, RUNS= says where, and VAE_OVERRIDES= and
#                      OVERRIDES= change single settings
#   make test          the quick tests: unit, laws, parity with diffusers, a short flow
#   make test-long     the rest: documentation, several processes, long runs
#   make test-gpu      the tests that need a GPU
#   make check         style, types, who may import whom, what an install without extras must be able to do
#   make docs          the API pages, in build/docs
#   make setup         everything the goals above install
#   make format        put the code into the house style
#   make clean         remove .venv and what the goals made

SHELL  := /bin/bash
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
JOBS   ?= 2
PROMPT ?=
OUT    ?= demo.mp4
RUNS   ?= runs/toybox-model

SECONDS_PER_PIECE ?=
NUM_PROMPTS       ?= 120
VAE_OVERRIDES     ?=
OVERRIDES         ?=

# The first Python that is new enough and can make an environment; PYTHON=/path/to/python to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

# pytest: one thread a worker, and whatever is left over once a worker has nothing to do goes to it.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# Rooms and files of the package, as Python names them.
MODULES = $(subst /,.,$(patsubst %/__init__.py,%,$(wildcard cogvideox/*/__init__.py)) \
	$(basename $(filter-out %/__init__.py %/__main__.py,$(wildcard cogvideox/*.py))))

.PHONY: help setup demo toybox-model test test-long test-gpu check docs format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/.dev

# Stamps, so that a goal installs only what is missing or has changed. Torch comes first, at the pinned version and under
# the same constraints as everything after it, so that nothing can replace it.
$(VENV)/.torch:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv was found: install one, or name it with 'make PYTHON=/path/to/python'." >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version); the first time, a few minutes go into downloads."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch==2.13.0
	@touch $@

$(VENV)/.base: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "Installing the package and what generating needs."
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml constraints.txt
	@echo "Installing what the tests and checks need."
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.base
	$(BIN)/cogvideox generate $(if $(PROMPT),"$(PROMPT)") -o "$(OUT)" --sheet
	@out=$$(realpath -- "$(OUT)"); echo "The video is $$out; all its frames on one picture are $${out%.*}-sheet.png"

# Exit status 75 of the tool: stopped and saved. Make itself then ends with 2, as it does for every failed goal.
toybox-model: $(VENV)/.base
	$(BIN)/python tools/toybox_model.py --out "$(RUNS)" --num-prompts $(NUM_PROMPTS) \
		$(if $(SECONDS_PER_PIECE),--seconds-per-piece $(SECONDS_PER_PIECE)) \
		$(if $(VAE_OVERRIDES),--vae $(VAE_OVERRIDES)) $(if $(OVERRIDES),--transformer $(OVERRIDES))

test: $(VENV)/.dev
	$(PYTEST) -m 'not slow and not gpu' --durations=10 tests

test-long: $(VENV)/.dev
	$(PYTEST) -m 'slow and not gpu' --durations=10 tests

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu --durations=10 tests

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/python tools/check_layers.py

docs: $(VENV)/.dev
	$(BIN)/pdoc --docformat google -o build/docs cogvideox $(MODULES)
	@echo "Open build/docs/index.html"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .import_linter_cache *.egg-info
