# make demo   install what a CPU host needs and watch the node score generated studies  (ARGS=--once: stop when done)
# make test   install what the tests need, check and test               (ARGS="-k spool": pytest arguments)
# make test-full  the same, with soak, fuzz, packaging and the long kill runs
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= auto
TESTS ?= not full and not load and not gpu
CHECKED := dicom_qa_node training tests benchmarks

.PHONY: help demo test test-full check fmt docs site clean peers dist deb sbom lock audit
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/  make/p' Makefile
	@echo "  make check  format, lint, types, import rules"
	@echo "  make fmt    format and fix what can be fixed"
	@echo "  make docs   write config.yaml, docs/configuration.md and the tables of docs/measurements.md"
	@echo "  make site   build the documentation into dist/site/ (strict: a broken link is an error)"
	@echo "  make dist   build wheel and sdist into dist/"
	@echo "  make deb    build the Debian package into dist/ (needs debhelper)"
	@echo "  make sbom   list what is installed as CycloneDX, dist/sbom.json"
	@echo "  make lock   write requirements.lock and requirements-gpu.lock from what is installed (asks the package index for checksums)"
	@echo "  make audit  look for known weaknesses of the locked packages (asks a service on the network)"
	@echo "  make clean  remove the virtual environment, caches and the demo's folder"

$(BIN)/python:
	@if ! $(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; \
	  else echo "needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)" >&2; exit 1; fi; fi
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/dicom-qa-node demo $(ARGS)

peers:
	@.ci/peers

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports

test: peers check
	PYTHON=$(BIN)/python WORKERS=$(WORKERS) .ci/test "$(TESTS)" $(ARGS)

test-full: peers check
	PYTHON=$(BIN)/python WORKERS=$(WORKERS) .ci/test "not gpu" $(ARGS)

fmt: $(VENV)/.installed-test
	$(BIN)/ruff format $(CHECKED)
	$(BIN)/ruff check --fix $(CHECKED)

docs: $(VENV)/.installed
	$(BIN)/dicom-qa-node config schema --yaml > config.yaml.new && mv config.yaml.new config.yaml
	$(BIN)/dicom-qa-node config schema --markdown > docs/configuration.md
	$(BIN)/python -m dicom_qa_node.score.physics.reference_tables docs/measurements.md
	$(BIN)/python -m dicom_qa_node.quality_log.export_columns docs/exports.md

site: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir dist/site

dist: $(VENV)/.installed-test
	rm -f dist/dicom_qa_node-*
	$(BIN)/python -m build --no-isolation --outdir dist .

deb: dist
	DEB_RULES_REQUIRES_ROOT=no debian/rules clean binary

sbom: $(VENV)/.installed-test
	mkdir -p dist
	$(BIN)/python .ci/sbom dist/sbom.json

lock: $(VENV)/.installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check pip-tools
	$(BIN)/python .ci/lock > requirements.lock.new && mv requirements.lock.new requirements.lock
	$(BIN)/python .ci/lock gpu > requirements-gpu.lock.new && mv requirements-gpu.lock.new requirements-gpu.lock

# It sends the names and versions to the advisory database of the Python Package Index, and fails where that is out of reach.
audit: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	PATH="$(abspath $(VENV))/audit/bin:$$PATH" .ci/audit --strict

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +
