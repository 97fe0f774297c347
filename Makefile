# Everything that a developer or a CI job runs. Each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,compress,eval,sweep,track,device,gguf,serve,tensorrt,docs
# The tools of the supply chain have an environment of their own.
AUDIT := .compat/audit
COMPILE = $(AUDIT)/bin/uv pip compile pyproject.toml $(addprefix --extra ,$(subst $(comma), ,$(EXTRAS))) \
	--python-version 3.11 --no-header --no-annotate --no-emit-index-url --quiet
comma := ,

# What `make test-fast` runs: rules, options, recipes, gate, report, targets. No model is trained or exported.
FAST := tests/project/test_architecture.py tests/project/test_style.py tests/project/test_ci.py tests/project/test_docs.py \
	tests/models tests/data tests/commands tests/benchmarks/gate tests/benchmarks/report \
	tests/pipeline/test_recipe*.py tests/pipeline/test_forecast*.py tests/targets/test_[egt]*.py

.PHONY: help setup demo test test-fast lint format docs slow compat deploy-test sandbox-test arm64 perf demo-model clean faults soak audit lock sbom dist lowest browser fuzz
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

setup: $(VENV)/.ready  ## create .venv with the pinned dependencies

demo: setup  ## run the whole chain on the built-in model (5 to 8 minutes on 2 cores; seconds when nothing changed)
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

docs: setup  ## these pages as a site, in build/site: a broken link fails (python3 -m http.server --directory build/site)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

slow: setup  ## the tests that take minutes: kill and resume, whole recipes
	$(BIN)/python -m pytest -m slow

compat: setup  ## read our checkpoints with other projects' packages, each in its own environment
	$(BIN)/python -m pytest -m compat

deploy-test: setup  ## deploy to a real sshd on loopback (installs openssh-server where apt can)
	@test -x /usr/sbin/sshd || command -v sshd >/dev/null || apt-get install -y --no-install-recommends openssh-server
	$(BIN)/python -m pytest -m sshd

sandbox-test: setup  ## escape attempts in bubblewrap (installs it where apt can)
	@command -v bwrap >/dev/null || apt-get install -y --no-install-recommends bubblewrap
	$(BIN)/python -m pytest -m bubblewrap

arm64: setup  ## run a bundle in an arm64 Debian under emulation (installs qemu-user-static and debootstrap where apt can; needs root)
	@command -v qemu-aarch64-static >/dev/null && command -v debootstrap >/dev/null \
		|| apt-get install -y --no-install-recommends qemu-user-static debootstrap
	$(BIN)/python -m pytest -m arm64

soak: setup  ## 200 clients, some of them hostile, use and attack the HTTP server (10 minutes)
	$(BIN)/python -m edgewright.perf.soak.run --clients 200 --minutes 10

$(AUDIT)/.ready: compat/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --requirement compat/audit.txt
	@touch $@

audit: $(AUDIT)/.ready  ## known vulnerabilities of what we install (pip-audit), and risky code (bandit)
	$(AUDIT)/bin/bandit --quiet --configfile pyproject.toml --recursive .
	$(AUDIT)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock

lock: $(AUDIT)/.ready  ## write requirements.lock from constraints.txt, with the checksum of every file
	printf '%s\n' '# Exact versions with the checksums of their files, of every package that `make setup` installs, for Python 3.11 to' \
		'# 3.14. Made by `make lock`. Install with: pip install --require-hashes --requirement requirements.lock' > requirements.lock.new
	$(COMPILE) --universal --generate-hashes --constraint constraints.txt --output-file $(AUDIT)/locked.txt
	cat $(AUDIT)/locked.txt >> requirements.lock.new
	mv requirements.lock.new requirements.lock

sbom: setup $(AUDIT)/.ready  ## write dist/edgewright.cdx.json: what is installed, as a CycloneDX bill of materials
	mkdir -p dist
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON \
		--output-file dist/edgewright.cdx.json $(BIN)/python

dist: $(AUDIT)/.ready  ## write the wheel and the sdist to dist/, check them, and try the wheel on every Python that is here
	rm -rf build dist/*.whl dist/*.tar.gz
	$(AUDIT)/bin/python -m build --outdir dist
	$(AUDIT)/bin/python -m build --wheel --outdir build/direct
	$(AUDIT)/bin/twine check --strict dist/*.whl dist/*.tar.gz
	$(PYTHON) perf/release.py dist build/direct/*.whl

lowest: $(AUDIT)/.ready  ## the fast tests with the lowest versions that pyproject.toml allows, in an environment of its own
	$(COMPILE) --resolution lowest-direct --output-file $(AUDIT)/lowest.txt
	$(AUDIT)/bin/uv venv --quiet --clear --python $(PYTHON) .compat/lowest
	$(AUDIT)/bin/uv pip install --quiet --python .compat/lowest/bin/python --requirement $(AUDIT)/lowest.txt --editable .
	.compat/lowest/bin/python -m pytest -n auto --maxprocesses 4 $(wildcard $(FAST))

browser: setup  ## reports in headless Chromium: no request, no script, no sideways scrolling, and axe-core finds nothing (apt-get install chromium)
	$(BIN)/python -m pytest -m browser

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
