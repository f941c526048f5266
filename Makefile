# Every target installs what it needs into .venv in this folder, and changes nothing else on the machine.
#
#   make demo          generate a video with the shipped model; PROMPT="..." sets the prompt, OUT=x.mp4 the output file
#   make toybox-model  train the shipped model from scratch and score it; after an interruption, run it again to continue.
#                      SECONDS_PER_PIECE=500 stops after this time, RUNS= sets the folder, VAE_OVERRIDES= and OVERRIDES=
#                      change settings of the recipes
#   make test          quick tests: unit, laws, parity with diffusers, a short run; with coverage in Python 3.12 or newer
#   make test-long     slow tests: documentation, several processes, long runs
#   make test-real     fetch published weights (780 MB) into build, and test the curation signals and captions with them
#   make test-gpu      tests that need a GPU
#   make gpu-check     check and measure one GPU in ten minutes; OUT=DIR sets the folder of the report. Installs nothing:
#                      without .venv, GPU_PYTHON=python3 needs PyTorch (docs/benchmarks.md)
#   make fuzz          fuzz all commands with damaged files; N=10000 sets the number of cases, SEED=1 the random seed
#   make coverage      quick tests with line coverage, on any Python version
#   make check         style, types, import layers, and an installation without extras
#   make docs          build the documentation site in build/docs; broken links are errors
#   make dist          build sdist and wheel in dist, install the wheel into a new environment and generate a video
#   make setup         install everything that these targets need
#   make format        format the code
#   make clean         delete .venv and all build outputs

SHELL  := bash
VENV   := .venv
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN    := $(VENV)/$(SCRIPTS)
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
JOBS   ?= 2
N      ?= 300
SEED   ?= 0
PROMPT ?=
OUT    ?= demo.mp4
RUNS   ?= runs/toybox-model
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

SECONDS_PER_PIECE ?=
NUM_PROMPTS       ?= 120
VAE_OVERRIDES     ?=
OVERRIDES         ?=

# The first Python >= 3.11 that can create a virtual environment; PYTHON=/path/to/python overrides it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

# pytest: one thread per worker; idle workers take tests from busy ones. A test that hangs ends its worker and fails with
# its name, and the run goes on. Not an option in pyproject.toml, because `make gpu-check` needs no plugins.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --timeout=600 --timeout-method=thread

.PHONY: help setup demo toybox-model test test-long test-real test-gpu gpu-check fuzz coverage check docs dist format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/.dev

# Stamp files, so that a target installs only what is missing or changed. Torch is installed first, at the pinned version,
# and all installs use the same constraints, so nothing can replace it.
$(VENV)/.torch:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv found: install one, or set it with 'make PYTHON=/path/to/python'." >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version); the first time, downloads take a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch==2.13.0
	@touch $@

$(VENV)/.base: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "Installing the package and its dependencies."
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml constraints.txt
	@echo "Installing the dependencies of tests and checks."
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.base
	$(BIN)/cogvideox generate $(if $(PROMPT),"$(PROMPT)") -o "$(OUT)" --sheet --overwrite
	@out=$$(realpath -- "$(OUT)"); echo "The video is $$out; all frames in one image: $${out%.*}-sheet.png"

# The tool exits with 75 if it was stopped and saved; make then exits with 2, as for every failed target.
toybox-model: $(VENV)/.base
	$(BIN)/python tools/toybox_model.py --out "$(RUNS)" --num-prompts $(NUM_PROMPTS) \
		$(if $(SECONDS_PER_PIECE),--seconds-per-piece $(SECONDS_PER_PIECE)) \
		$(if $(VAE_OVERRIDES),--vae $(VAE_OVERRIDES)) $(if $(OVERRIDES),--transformer $(OVERRIDES))

# Coverage costs a few percent of the time with sys.monitoring (Python 3.12), and more than half of it before.
MONITORING = $(shell $(BIN)/python -c 'import sys; print(*["--cov"] * hasattr(sys, "monitoring"))')

test: $(VENV)/.dev
	COVERAGE_CORE=sysmon $(PYTEST) $(MONITORING) -m 'not slow and not gpu' --durations=10 tests

coverage: $(VENV)/.dev
	$(PYTEST) --cov -m 'not slow and not gpu' tests

test-long: $(VENV)/.dev
	$(PYTEST) -m 'slow and not gpu' --durations=10 tests

test-real: $(VENV)/.dev
	$(BIN)/python tools/fetch_signal_models.py build/signal-models
	$(BIN)/python tools/fetch_caption_models.py build/caption-models
	COGVIDEOX_SIGNAL_MODELS=build/signal-models COGVIDEOX_CAPTION_MODELS=build/caption-models $(PYTEST) tests/real

# One thread per process, because the cases are forked.
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m tests.hostile.test_fuzz $(N) --seed $(SEED) --jobs $(JOBS)

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu --durations=10 tests

gpu-check:
	$(GPU_PYTHON) benchmarks/gpu_check.py --out "$(if $(filter file,$(origin OUT)),build/gpu,$(OUT))"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/python tools/check_layers.py

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Open build/docs/index.html"

WHEEL_VENV := build/wheel-venv

dist: $(VENV)/.dev
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build
	$(BIN)/python -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/$(SCRIPTS)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt dist/*.whl
	cd "$$(mktemp -d)" && "$(CURDIR)/$(WHEEL_VENV)/$(SCRIPTS)/cogvideox" generate -o wheel.mp4 && test -s wheel.mp4
	@echo "Installed the wheel into a new environment and generated a video with it:" dist/*.whl

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .coverage .pytest_cache .ruff_cache .import_linter_cache *.egg-info
