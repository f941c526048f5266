# Every goal does its own set-up, in .venv beside this file. Nothing else on the machine is touched.
#
#   make demo          generate a video with the shipped model; PROMPT="..." to say what, OUT=x.mp4 to say where
#   make toybox-model  train the shipped model again, from nothing, and score it. Stopped at any time, it goes on when
#                      run again; SECONDS_PER_PIECE=500 stops it by itself, RUNS= says where, and VAE_OVERRIDES= and
#                      OVERRIDES= change single settings
#   make test          the quick tests: unit, laws, parity with diffusers, a short flow; from Python 3.12 on with coverage
#   make test-long     the rest: documentation, several processes, long runs
#   make test-gpu      the tests that need a GPU
#   make coverage      the quick tests with line coverage, on any Python
#   make check         style, types, layers, and what an install without extras must be able to do
#   make docs          the documentation site, in build/docs; a broken link is an error
#   make dist          sdist and wheel in dist; the wheel is installed into an empty environment and generates a video
#   make setup         everything the goals above install
#   make format        format the code
#   make clean         remove .venv and what the goals made

SHELL  := bash
VENV   := .venv
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN    := $(VENV)/$(SCRIPTS)
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

.PHONY: help setup demo toybox-model test test-long test-gpu coverage check docs dist format clean
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

# Coverage costs a few percent where Python has sys.monitoring (3.12), and more than half of the time before.
MONITORING = $(shell $(BIN)/python -c 'import sys; print(*["--cov"] * hasattr(sys, "monitoring"))')

test: $(VENV)/.dev
	COVERAGE_CORE=sysmon $(PYTEST) $(MONITORING) -m 'not slow and not gpu' --durations=10 tests

coverage: $(VENV)/.dev
	$(PYTEST) --cov -m 'not slow and not gpu' tests

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
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Open build/docs/index.html"

WHEEL_VENV := build/wheel-venv

dist: $(VENV)/.dev
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build
	$(BIN)/python -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/$(SCRIPTS)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt dist/*.whl
	cd "$$(mktemp -d)" && "$(CURDIR)/$(WHEEL_VENV)/$(SCRIPTS)/cogvideox" generate -o wheel.mp4 && test -s wheel.mp4
	@echo "The wheel generates a video when installed alone:" dist/*.whl

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .coverage .pytest_cache .ruff_cache .import_linter_cache *.egg-info
