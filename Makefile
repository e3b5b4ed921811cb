# In a fresh clone, `make demo` and `make test` set up all that they need.
VENV := .venv
BENCH_VENV := .venv-bench
PYTHON ?= python3
# A stage's `python` must be the venv's, also when DVC starts it.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help

define SUMMARY
import pandas
columns = ["top1_error_pct", "num_parameters", "macs", "file_bytes", "latency_cpu_ms", "memory_mb"]
metrics = pandas.read_json("demo/metrics.json", orient="index", precise_float=True)[columns]
print(metrics.map("{:,}".format).to_markdown(disable_numparse=True, stralign="right"))
endef
export SUMMARY

.PHONY: help install demo repro bench-train bench-here bench-compress tune-lowrank test test-fast check clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-15s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	cd demo && ../$(VENV)/bin/dvc repro
	@$(VENV)/bin/python -c "$$SUMMARY"
	@echo "The report lies in demo/reports/report.md, the models in demo/artifacts/fp32/ and demo/artifacts/int8/."

bench-train: install ## compare the speed of our training loop with the customary one
	$(VENV)/bin/python -m benchmarks.train

bench-here: install ## measure the pulled models on this machine
	$(VENV)/bin/python -m benchmarks.here

bench-compress: $(BENCH_VENV)/.installed ## compare our int8 base with what ONNX Runtime and NNCF make of it
	$(BENCH_VENV)/bin/python -m benchmarks.compress

$(BENCH_VENV)/.installed: requirements.txt requirements-bench.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --requirement requirements-bench.txt
	touch $@

tune-lowrank: install ## measure which layers gain from a factorization
	$(VENV)/bin/python -m benchmarks.tune_lowrank

repro: install ## run whatever is out of date
	$(VENV)/bin/dvc repro

test: install ## run all tests
	$(VENV)/bin/pytest

test-fast: install ## run the tests that take seconds
	$(VENV)/bin/pytest -m "not slow"

check: install ## lint and type-check
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

clean: ## delete the demo and caches of tools, never data or models
	rm -rf demo .mypy_cache .pytest_cache .ruff_cache
