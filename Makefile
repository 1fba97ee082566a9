# make demo                          run notebooks/quickstart.ipynb here, in the terminal
# make demo MODEL=Qwen/Qwen3-0.6B    the same, with that model on the vLLM that is installed
# make lab                           open it in JupyterLab (MODEL= as well; FLAGS= for JupyterLab)
# make quick                         the tests that start no process, lint and types: less than a minute, once set up
# make test                          every test, side by side; make test TIERS="unit ray" some folders of tests/
# make check, bench                  lint and types; the benchmark
# make coverage                      every test, and the lines and branches that they ran: build/coverage
# make performance                   docs/performance.*, from a run of the benchmark on a quiet machine
# make reliability                   docs/reliability.md, from a run of the whole fault matrix
# make versions                      docs/compatibility-vllm.md, from checks of several versions of vLLM (VERSIONS="0.28.0")
# make house                         docs/house.svg, the floors of the package, from its imports
# make pictures                      docs/panel-*.png, from the panel on the real vLLM
# make clean                         remove what these made in this folder (the cache of vLLM stays)
#
# All of them set up what they need first. PYTHON=python3.12 chooses the interpreter; WORKERS=8 says how many tests of
# `make test` run at the same time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHON
# The tests start Python thousands of times; without .pyc files each would compile all of it.
unexport PYTHONDONTWRITEBYTECODE
WORKERS ?= 4# for two cores: most tests wait, the slow ones compute
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)

# What the tests of a folder need besides the extra 'dev': of the system, and of us.
TIERS ?= real versions ray matrix browser environments process unit gpu
real_system := gcc numa
versions_system := numa
ray_system := gcc numa
browser_system := gcc numa chromium
process_system := gcc
matrix_system := gcc
real_needs := real-vllm
versions_needs := oldest-vllm
ray_needs := $(VENV)/.ray real-vllm
browser_needs := $(VENV)/.browser $(VENV)/.ipykernel6 $(VENV)/.marimo other-environments real-vllm
environments_system := gcc
environments_needs := other-environments
# Those of tests/environments/catalog.py that `make test` tries.
OTHERS := oldest newest colab kaggle

.DEFAULT_GOAL := demo
.PHONY: demo lab quick unit test environments check bench coverage performance reliability versions compatibility house pictures clean
.PHONY: real-vllm oldest-vllm other-environments

demo: $(VENV)/.dev
	@tools/system_packages.sh numa
	@$(BIN)/python -m notebooks.demo

lab: $(VENV)/.dev $(VENV)/.lab
	@tools/system_packages.sh numa
	@$(BIN)/python -m notebooks.demo --lab $(FLAGS)

quick: $(VENV)/.dev
	@$(MAKE) --no-print-directory --jobs 2 --output-sync check unit

unit: $(VENV)/.dev
	$(PYTEST) tests/unit

test: environments
	$(PYTEST) $(TIERS:%=tests/%)

environments:
	@tools/system_packages.sh venv $(sort $(foreach tier,$(TIERS),$($(tier)_system)))
	@$(MAKE) --no-print-directory --jobs 4 $(VENV)/.dev $(sort $(foreach tier,$(TIERS),$($(tier)_needs)))

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house.py --check

bench: $(VENV)/.dev real-vllm
	@tools/system_packages.sh gcc
	$(BIN)/python bench/run.py

performance: $(VENV)/.dev real-vllm
	@tools/system_packages.sh gcc chromium
	$(BIN)/python bench/run.py --pairs 6 --save docs

coverage: environments
	tools/coverage.sh $(PYTEST) $(TIERS:%=tests/%)

reliability: $(VENV)/.dev
	@tools/system_packages.sh gcc
	rm -rf build/matrix && mkdir -p build/matrix
	VLLM_MAGIC_MATRIX=build/matrix $(BIN)/python -m pytest --numprocesses 2 tests/matrix
	PYTHONPATH=tests $(BIN)/python -m matrix.report build/matrix > build/reliability.md
	mv build/reliability.md docs/reliability.md

versions: $(VENV)/.dev
	@tools/system_packages.sh venv numa
	$(BIN)/python -m tests.versions.run $(VERSIONS)

compatibility: $(VENV)/.dev
	rm -rf build/compatibility && mkdir -p build/compatibility
	-PYTHONPATH=tests $(BIN)/python -m environments.make all
	-ENVIRONMENTS=made COMPATIBILITY=build/compatibility $(BIN)/python -m pytest tests/environments/test_environments.py
	PYTHONPATH=tests $(BIN)/python -m environments.report build/compatibility > build/compatibility.md
	mv build/compatibility.md docs/compatibility.md

house: $(VENV)/.dev
	$(BIN)/python tools/house.py

pictures: $(VENV)/.dev $(VENV)/.browser real-vllm other-environments
	@tools/system_packages.sh gcc chromium
	$(BIN)/python -m pytest tests/browser/test_panel.py tests/browser/test_classic_notebook.py -k 'real_vllm or classic'
	cp build/shots/panel-real-chat-lab.png docs/panel-ready.png
	cp build/shots/panel-real-released-lab.png docs/panel-released.png
	cp build/shots/panel-ready-classic.png docs/panel-classic-notebook.png

real-vllm:
	@tools/system_packages.sh venv numa
	@$(PYTHON) tests/real/install.py

# The oldest version that is promised, beside it.
oldest-vllm: $(VENV)/.dev
	@tools/system_packages.sh numa
	@$(BIN)/python -m tests.versions.install

# In build/environments, each with a Python and versions of its own.
other-environments: $(VENV)/.dev
	@PYTHONPATH=tests $(BIN)/python -m environments.make $(OTHERS)

# The older ipykernel beside the one that is installed; the tests in a browser have a kernel of each.
$(VENV)/.ipykernel6: | $(VENV)/.browser
	@$(BIN)/pip --disable-pip-version-check install --quiet --upgrade --no-deps --target $(VENV)/ipykernel6 'ipykernel>=6.29,<7' nest-asyncio
	@touch $@

# Ray, with what its nodes need besides vLLM, in an environment of its own: a kernel needs none of it.
$(VENV)/.ray: | $(VENV)/.dev
	@echo "Ray in $(VENV)/ray, with pip ..."
	@$(PYTHON) -m venv $(VENV)/ray
	@$(VENV)/ray/bin/pip --disable-pip-version-check install --quiet 'ray[default]>=2.60,<3' certifi pyyaml nvidia-ml-py
	@touch $@

# marimo in an environment of its own, which has what its users have: no Jupyter, no ipykernel. It is no extra, since nothing
# of vllm_magic imports it.
$(VENV)/.marimo: pyproject.toml | $(VENV)/.dev
	@echo "marimo in $(VENV)/marimo, with pip ..."
	@$(PYTHON) -m venv $(VENV)/marimo
	@$(VENV)/marimo/bin/pip --disable-pip-version-check install --quiet --editable . 'marimo>=0.25.2,<0.26'
	@touch $@

# An extra of pyproject.toml, installed: .venv/.dev, .venv/.lab, .venv/.browser. The first one makes the environment.
$(VENV)/.lab $(VENV)/.browser: | $(VENV)/.dev
$(VENV)/.%: pyproject.toml
	@tools/system_packages.sh venv
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "vllm_magic with its extra '$*' in $(VENV), with pip (a minute the first time) ..."
	@began=$$(date +%s); \
	if ! $(BIN)/pip --disable-pip-version-check install --editable '.[$*]' >$(VENV)/pip.log 2>&1; then \
		tail -n 15 $(VENV)/pip.log; exit 1; \
	fi; \
	echo "  done in $$(($$(date +%s) - began)) s"
	@touch $@

clean:
	rm -rf $(VENV) build dist .*_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
