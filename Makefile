# The commands of this project; `make` alone lists them.
#
# Each target makes .venv first, from requirements.lock. To use an environment of your own (a cluster's module, a
# container) name its interpreter instead, and nothing is installed:  make test PY=/path/to/python
PY = .venv/bin/python
PYTHON = $(firstword $(foreach name,python3.11 python3.12 python3,$(if $(shell command -v $(name)),$(name))))
SCRIPTS = $(wildcard slurm/*.sh) .ci/run

ifeq ($(PY),.venv/bin/python)
ENVIRONMENT = .venv/.stamp
endif

# Many container images set it. Without compiled files each start of the trainer compiles torch and what it imports again:
# 13 processor seconds instead of 6, hundreds of times in the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo tasks test check fix docs gpu chaos lock

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(ENVIRONMENT)  ## make .venv with the tested versions; the other targets do it by themselves

# uv installs the same packages as pip in a fraction of the time; pip serves where there is no uv.
.venv/.stamp: requirements.lock setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else \
		"error: $(PYTHON) is Python " + sys.version.split()[0] + "\nhint: install Python 3.11 or 3.12, or name it: make venv PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)" \
		&& .venv/bin/uv pip install --python $(PY) --requirement requirements.lock --editable . \
		|| .venv/bin/pip install --disable-pip-version-check --requirement requirements.lock --editable .
	@touch $@

demo: $(ENVIRONMENT)  ## the main job, whole, on the sample images: download, shard, pretrain, evaluate, export, report
	$(PY) -m demo

tasks: $(ENVIRONMENT)  ## learn every task of the paper on the generated world, over three seeds, and write the table
	$(PY) -m demo.tasks

# Up to four test files at a time: most tests wait for processes they started. A file stays in one process, and files
# start in the order of tests/conftest.py: xdist by itself starts with those of many tests, and the long ones come last.
test: check  ## what continuous integration runs: `check`, then every test that needs no GPU
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=15

check: $(ENVIRONMENT)  ## ruff, mypy, import rules, shellcheck
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest --quiet tests/test_imports.py tests/test_rooms.py tests/test_layout.py
	$(dir $(PY))shellcheck $(SCRIPTS)

fix: $(ENVIRONMENT)  ## let ruff repair and format what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(ENVIRONMENT)  ## write docs/recipes.md, the reference of every recipe key
	$(PY) -m pipeline.config.reference docs/recipes.md

# Each part in a process of its own, with a time limit; together under six minutes. REHEARSE=1: on the CPU.
gpu: $(ENVIRONMENT)  ## tests and benchmarks that need a GPU, into benchmarks/results; REHEARSE=1 tries them without one
	@$(PY) -m benchmarks.gpu $(if $(REHEARSE),--rehearse)

chaos: $(ENVIRONMENT)  ## 50 kill -9 over one run, and whether a bit differs in the end; twenty minutes
	$(PY) -m tests.chaos.storm

# dataclasses: a backport that img2dataset asks for; the newest version that pip accepts on this Python is 0.6.
lock: $(ENVIRONMENT)  ## write requirements.lock again from setup.cfg; the tests decide whether it is kept
	echo 'dataclasses==0.6' | .venv/bin/uv pip compile setup.cfg --all-extras --upgrade --constraints - \
		--python-version 3.11 --no-annotate --no-header --output-file requirements.lock
