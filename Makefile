# In a fresh clone, `make demo` and `make test` set up all that they need.
VENV := .venv
BENCH_VENV := .venv-bench
PYTHON ?= python3
AS_DEMO := git -c user.name=demo -c user.email=demo@localhost
# A stage's `python` must be the venv's, also when DVC starts it.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help

.PHONY: help install demo params repro bench-train bench-here bench-compress bench-channels bench-eager tune-lowrank sweep sweep-demo test test-fast check lock audit clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-15s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv and install what requirements.lock pins

$(VENV)/.installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes --requirement requirements.lock
	touch $@

demo: install ## run the pipeline on digits under demo/, then measure the shipped models on this machine
	rm -rf demo
	git clone --quiet . demo
	$(VENV)/bin/python -m stages.lib.params presets/demo.yaml > demo/params.yaml
	cd demo && ../$(VENV)/bin/dvc repro
	git clone --quiet . demo/shipped
	cd demo/shipped && ../../$(VENV)/bin/dvc pull --quiet --allow-missing 2> /dev/null || true
	@$(VENV)/bin/python -m benchmarks.demo demo
	@echo && echo "CIFAR-100, the shipped models on this machine:"
	@cd demo/shipped && ../../$(VENV)/bin/python -m benchmarks.here --rounds 8
	@echo && echo "Next: open demo/reports/report.html for the digits, reports/report.md for CIFAR-100."

PRESET ?= reference
params: install ## write the complete params.yaml of presets/$(PRESET).yaml
	$(VENV)/bin/python -m stages.lib.params presets/$(PRESET).yaml > .params.yaml.tmp
	mv .params.yaml.tmp params.yaml

repro: install ## run whatever is out of date
	$(VENV)/bin/dvc repro

bench-train: install ## compare the speed of our training loop with the customary one
	$(VENV)/bin/python -m benchmarks.train

bench-here: install ## measure the shipped models on this machine; SAVE=NAME keeps the latencies for the report
	$(VENV)/bin/python -m benchmarks.here $(if $(SAVE),--save $(SAVE))

bench-compress: $(BENCH_VENV)/.installed ## compare our int8 base with those of ONNX Runtime, NNCF and OpenVINO
	$(BENCH_VENV)/bin/python -m benchmarks.compress

bench-eager: install ## try PyTorch's own static quantization on the base, as the original did
	$(VENV)/bin/python -m benchmarks.eager_quantization

$(BENCH_VENV)/.installed: requirements.txt requirements-bench.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --disable-pip-version-check --quiet --requirement requirements-bench.txt
	touch $@

bench-channels: install ## time a pruned base whose channel counts are multiples of 8, of 16, or of neither
	$(VENV)/bin/python -m benchmarks.channels

tune-lowrank: install ## measure which layers gain from a factorization
	$(VENV)/bin/python -m benchmarks.tune_lowrank

sweep: install ## run the trials of sweep.yaml, measure them and write reports/sweep.md
	$(VENV)/bin/python -m sweep

sweep-demo: install ## a small sweep on the digits, under demo/
	rm -rf demo
	git clone --quiet . demo
	$(VENV)/bin/python -m stages.lib.params presets/demo.yaml > demo/params.yaml
	cp sweep/demo.yaml demo/sweep.yaml
	cd demo && $(AS_DEMO) commit --quiet --all --message "Use the digits" && ../$(VENV)/bin/dvc repro --quiet train
	cd demo && $(AS_DEMO) commit --quiet --all --message "Train the base" && ../$(VENV)/bin/python -m sweep
	@cd demo && ../$(VENV)/bin/python -m sweep choose --max-loss 5 --max-mb 0.2

test: install ## run all tests
	$(VENV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-fast: install ## run the tests that take seconds
	$(VENV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not slow"

check: install ## lint and type-check
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

lock: install ## regenerate requirements.lock
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" requirements-dev.txt --output-file requirements.lock

audit: install ## check the packages for known vulnerabilities (needs the network)
	$(VENV)/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip || echo "see above: a vulnerability, or no network"

clean: ## delete the demo and tool caches, never data or models
	rm -rf demo .mypy_cache .pytest_cache .ruff_cache
