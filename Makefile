# In a fresh clone, `make demo` and `make test` set up all that they need.
VENV := .venv
PYTHON ?= python3
# A stage's `python` must be the venv's, also when DVC starts it.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install demo repro bench-train test test-fast check clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(VENV)/.installed ## make .venv and install what requirements-dev.txt pins

$(VENV)/.installed: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --requirement requirements-dev.txt
	touch $@

demo: install ## run the whole pipeline on scikit-learn's digits, in a clone under demo/
	rm -rf demo
	git clone --quiet . demo
	cp presets/demo.yaml demo/params.yaml
	cd demo && dvc repro
	cd demo && dvc metrics show --md --precision 4
	@echo "The report lies in demo/reports/report.md, the models in demo/artifacts/fp32/ and demo/artifacts/int8/."

bench-train: install ## compare the speed of our training loop with the customary one
	python -m benchmarks.train

repro: install ## run whatever is out of date
	dvc repro

test: install ## run all tests
	pytest

test-fast: install ## run the tests that take seconds
	pytest -m "not slow"

check: install ## lint and type-check
	ruff check
	ruff format --check
	mypy

clean: ## delete the demo and caches of tools, never data or models
	rm -rf demo .mypy_cache .pytest_cache .ruff_cache
