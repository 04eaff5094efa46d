# make run [RUN=quick] [FORCE=1]   an experiment from data to report, without an activated environment; FORCE: anew,
#                                  data and weights too
# make test                        ruff, the unit tests, and every notebook strictly against its committed outputs
# make notebooks                   execute the notebooks anew and save them in place
# make lab                         JupyterLab on the notebooks
# make address                     in a fork: README, badges and install cells name the repository of pyproject.toml
# make EXTRAS=identity,lab,notebooks,scale,test,train       where moonshine-voice has no wheel: Linux before glibc 2.35
# make clean                       caches and the environment; never data or results

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := run
.PHONY: run test lint notebooks lab address setup clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= quick
EXTRAS ?= identity,lab,notebooks,scale,speech,test,train
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
TESTS ?= tests
# Kernels draw their figures into the notebook, whatever backend the caller's shell names; no progress bars in outputs.
KERNEL := MPLBACKEND=module://matplotlib_inline.backend_inline TQDM_DISABLE=1
ENCRYPTED := --KernelManager.transport_encryption=auto  # kernels that talk in the clear warn of it

# The stamp is younger than what it was installed from; with everything in place pip only looks and returns.
STAMP := $(VENV)/.installed
setup: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (the first time downloads torch: some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

run: $(STAMP)
	@$(BIN)/python -m papermill_runs $(RUN) $(if $(FORCE),--force)

lint: $(STAMP)
	@$(BIN)/python -m ruff check .

# The unit tests, a file a core, then the notebooks one after another, which use each other's results. They get an empty
# working folder: they prepare and train for real and cannot find results of an earlier day.
test: lint
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile $(TESTS) --durations=15 --durations-min=1
	@$(if $(NOTEBOOKS),work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	LIPFORMER_WORK="$$work" $(BIN)/python -m pytest --nbval $(NOTEBOOKS) --durations=15 --durations-min=1)

notebooks: $(STAMP)
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	$(KERNEL) LIPFORMER_WORK="$$work" $(BIN)/python -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.timeout=-1 --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.kernel_name=python3 $(ENCRYPTED) $(NOTEBOOKS)

lab: $(STAMP)
	@$(BIN)/python -m jupyterlab notebooks $(ENCRYPTED)

address:
	@$(PYTHON) -m papermill_runs.address

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
