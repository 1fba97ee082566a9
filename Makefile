# make demo                          run notebooks/quickstart.ipynb here, in the terminal
# make demo MODEL=Qwen/Qwen3-0.6B    the same, with that model on the vLLM that is installed
# make lab                           open it in JupyterLab (MODEL= as well; FLAGS= for JupyterLab)
# make test, check, bench            every test; lint and types; the benchmark
# make performance                   docs/performance.*, from a run of the benchmark on a quiet machine
# make reliability                   docs/reliability.md, from a run of the fault matrix with all that it compares
# make pictures                      docs/panel-*.png, from the panel on the real vLLM
# make clean                         remove what these made in this folder (the cache of vLLM stays)
#
# All of them set up what they need first. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHON

.DEFAULT_GOAL := demo
.PHONY: demo lab test check bench performance reliability pictures clean real-vllm

demo: $(VENV)/.dev
	@tools/system_packages.sh numa
	@$(BIN)/python -m notebooks.demo

lab: $(VENV)/.dev $(VENV)/.lab
	@tools/system_packages.sh numa
	@$(BIN)/python -m notebooks.demo --lab $(FLAGS)

test: $(VENV)/.dev $(VENV)/.browser $(VENV)/.ipykernel6 $(VENV)/.ray real-vllm
	@tools/system_packages.sh gcc chromium
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev real-vllm
	@tools/system_packages.sh gcc
	$(BIN)/python bench/run.py

performance: $(VENV)/.dev real-vllm
	@tools/system_packages.sh gcc chromium
	$(BIN)/python bench/run.py --pairs 6 --save docs

reliability: $(VENV)/.dev
	@tools/system_packages.sh gcc
	VLLM_MAGIC_MATRIX=$(VENV)/matrix.json $(BIN)/python -m pytest tests/test_fault_matrix.py
	$(BIN)/python -m tests.matrix.report $(VENV)/matrix.json > docs/reliability.md

pictures: $(VENV)/.dev $(VENV)/.browser real-vllm
	@tools/system_packages.sh gcc chromium
	$(BIN)/python -m pytest tests/browser/test_panel.py -k real_vllm
	cp build/shots/panel-real-chat-lab.png docs/panel-ready.png
	cp build/shots/panel-real-released-lab.png docs/panel-released.png

real-vllm: $(VENV)/.dev
	@tools/system_packages.sh numa
	@$(BIN)/python tests/real_vllm/install.py

# The older ipykernel beside the one that is installed; the tests in a browser have a kernel of each.
$(VENV)/.ipykernel6: $(VENV)/.dev
	@$(BIN)/pip --disable-pip-version-check install --quiet --upgrade --no-deps --target $(VENV)/ipykernel6 'ipykernel>=6.29,<7' nest-asyncio
	@touch $@

# Ray, with what its nodes need besides vLLM, in an environment of its own: a kernel needs none of it.
$(VENV)/.ray: $(VENV)/.dev
	@echo "Ray in $(VENV)/ray, with pip ..."
	@$(PYTHON) -m venv $(VENV)/ray
	@$(VENV)/ray/bin/pip --disable-pip-version-check install --quiet 'ray[default]>=2.60,<3' httpx psutil prometheus-client pyyaml nvidia-ml-py
	@touch $@

# An extra of pyproject.toml, installed: .venv/.dev, .venv/.lab, .venv/.browser
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
