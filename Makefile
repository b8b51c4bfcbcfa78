# make demo: install, draw the data, train, evaluate, draw predictions.   make test: install, run all tests.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= work_dirs/demo
JOBS ?= 2
RUN := $(VENV)/bin/python

CONFIG := configs/mask_rcnn_shuffle_nano_shapes.py

# make docs: build the documentation as a site, in site/.
# make families: train every family's nano model under one budget; docs/families.md and .png.
# make chaos: kill a training fifty times and see that nothing is lost.   make soak: does memory grow in a long one?
# make fuzz: read files that were changed at random, SECONDS of each of five kinds.
# make gpu: on a machine with a GPU, all its tests and benchmarks in a quarter of an hour; docs/gpu.md.
# make matrix: install and try on many versions of Python, PyTorch and MMDetection by nox. Takes hours.
SECONDS ?= 60
SEED ?= 0
.PHONY: demo gpu families chaos soak fuzz matrix test quick lint docs package install clean
install: $(VENV)/.installed

$(VENV)/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --upgrade pip
	$(RUN) -m pip install -c constraints.txt -e '.[lite,dev,seg,pretrain,convert,tensorboard,export,int8,docs]'
	touch $@

# What the demo needs, unless everything is there: 1 GB less.
$(VENV)/.demo: constraints.txt pyproject.toml
	[ -e $(VENV)/.installed ] || { $(PYTHON) -m venv $(VENV) && $(RUN) -m pip install --upgrade pip && \
		$(RUN) -m pip install -c constraints.txt -e '.[lite]'; }
	touch $@

demo: $(VENV)/.demo
	$(RUN) tools/train.py $(CONFIG) --work-dir $(DEMO)
	$(RUN) tools/test.py $(CONFIG) $(DEMO) --work-dir $(DEMO)/test --show-dir $(DEMO)/images --report
	@echo "Predictions and ground truth: $(DEMO)/images   report: $(DEMO)/test/report.html"

families: install
	$(RUN) -m benchmarks.families

chaos: install
	$(RUN) tools/chaos.py --kills 50 --seed 0

soak: install
	$(RUN) tools/soak.py --iterations 2000

fuzz: install
	$(RUN) tools/fuzz.py --seconds $(SECONDS) --seed $(SEED)

gpu: install
	$(RUN) -m benchmarks.gpu

matrix: install
	$(RUN) -m nox $(SESSIONS)

test: install
	$(RUN) -m pytest -n $(JOBS) --dist worksteal

quick: install
	$(RUN) -m pytest -n $(JOBS) --dist worksteal -m "not slow and not measuring"

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: install
	$(RUN) -m mkdocs build --strict

package: install
	rm -rf dist
	$(RUN) -m build --no-isolation
	$(RUN) -m twine check --strict dist/*

clean:
	rm -rf $(VENV) work_dirs build dist site .mypy_cache *.egg-info
