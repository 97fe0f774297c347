# Everything that a developer or a CI job runs. Each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What `make test-fast` runs: rules, options, recipes, gate, report, targets. No model is trained or exported.
FAST := tests/project/test_architecture.py tests/project/test_style.py tests/project/test_ci.py tests/project/test_docs.py \
	tests/models tests/data tests/commands tests/benchmarks/gate tests/benchmarks/report \
	tests/pipeline/test_recipe*.py tests/pipeline/test_forecast*.py tests/targets/test_[egt]*.py

.PHONY: help setup demo test test-fast lint format slow compat deploy-test arm64 faults fuzz perf demo-model clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,eval,sweep,track,device,gguf,serve,tensorrt]'
	@touch $@

setup: $(VENV)/.ready  ## create .venv with the pinned dependencies

demo: setup  ## run the whole chain on the built-in model (7 minutes on 2 cores; seconds when nothing changed)
	$(BIN)/edgewright run recipes/demo.yaml --out runs/demo

test: setup  ## run the tests, as many at a time as there are cores (under 10 minutes on 2)
	$(BIN)/python -m pytest -n auto --maxprocesses 4

test-fast: setup  ## the tests that need seconds, for use while you write (under 60 s on 2 cores)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 $(wildcard $(FAST))

lint: setup  ## check style and types: ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --diff .
	$(BIN)/basedpyright

format: setup  ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

slow: setup  ## the tests that take minutes: kill and resume, whole recipes
	$(BIN)/python -m pytest -m slow

compat: setup  ## read our checkpoints with other projects' packages, each in its own environment
	$(BIN)/python -m pytest -m compat

deploy-test: setup  ## deploy to a real sshd on loopback (installs openssh-server where apt can)
	@test -x /usr/sbin/sshd || command -v sshd >/dev/null || apt-get install -y --no-install-recommends openssh-server
	$(BIN)/python -m pytest -m sshd

arm64: setup  ## run a bundle in an arm64 Debian under emulation (installs qemu-user-static and debootstrap where apt can; needs root)
	@command -v qemu-aarch64-static >/dev/null && command -v debootstrap >/dev/null \
		|| apt-get install -y --no-install-recommends qemu-user-static debootstrap
	$(BIN)/python -m pytest -m arm64

fuzz: setup  ## give every reader of files thousands of damaged ones (15 minutes on 1 core)
	$(BIN)/python -m edgewright.perf.fuzz --cases 20000 --seed 0

faults: setup  ## kill, interrupt and starve every command that writes, and run it again (1 hour on an idle core; resumes)
	$(BIN)/python -m edgewright.perf.faults --work runs/faults --page docs/reliability.md

perf: setup demo  ## decode speed of INT4 and INT8 against the float checkpoint; how often the gate is right
	$(BIN)/python -m edgewright.perf.decode runs/demo/export-int4 runs/demo/distill
	$(BIN)/python -m edgewright.perf.decode runs/demo/export-int8 runs/demo/distill
	$(BIN)/python -m edgewright.perf.gate --trials 300

demo-model: setup  ## train the built-in tiny reasoner again (55 minutes on 2 cores)
	$(BIN)/python -m edgewright.demo.train
	$(BIN)/python -m edgewright.demo.card

clean:  ## remove build products, keep runs and .venv
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
