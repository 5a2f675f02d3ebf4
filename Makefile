# make reproduce [DATA=planted|mosi|iemocap|mosei|…-features|mechanisms|probes|errata]   set up, tune and run what is missing into runs/, draw there, compare with what is published
# make publish DATA=…                             write results/<study>/ from the finished runs in runs/
# make verify                                     compare every run and every published file with its digest
# make figures                                    redraw every table and figure from published results
# make pages                                      execute the figure notebooks in place: they show what is committed
# make test                                       set up, pass every test
# make lab                                        set up, open JupyterLab
# make readme                                     render README.md from nbs/index.ipynb
# make benchmark                                  time graph, layers and a training step on this machine
# make mmsa                                       compare outputs, gradients and step times with MMSA 2.2.1

DATA ?= planted
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
export MSA_PAPER_DATA ?= $(abspath $(firstword $(wildcard ../shared/data) data))
export PATH := $(abspath $(VENV))/bin:$(PATH)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false
export MPLBACKEND ?= Agg
# a parameter of papermill and of Jupyter: no debugger, no check of frozen modules
export PYDEVD_DISABLE_FILE_VALIDATION = 1

READY = $(VENV)/.ready
BENCHMARK = mkdir -p runs/notebooks && papermill --no-progress-bar --stdout-file - nbs/runs/benchmark.ipynb runs/notebooks/benchmark.ipynb

.PHONY: reproduce publish verify figures pages test lab readme benchmark mmsa setup
reproduce: $(READY)
	msa-paper reproduce --data $(DATA)

publish: $(READY)
	msa-paper publish $(DATA)

verify: $(READY)
	msa-paper verify

figures: $(READY)
	msa-paper figures

pages: $(READY)
	jupyter nbconvert --log-level WARN --to notebook --execute --inplace nbs/figures/*.ipynb
	nbdev_clean

test: $(READY)
	bash tests/run.sh

lab: $(READY)
	jupyter lab nbs

readme: $(READY)
	msa-paper readme

benchmark: $(READY)
	$(BENCHMARK)

mmsa: $(READY)
	python -m pytest -q -ra tests/test_mmsa_fusion.py tests/test_mmsa_memory.py
	$(BENCHMARK)

setup: $(READY)
# stale when a version or a requirement changes: installed anew then, and only then
$(READY): constraints.txt settings.ini setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,text,cluster]'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps MMSA==2.2.1   # what it asks for is not needed to compare models
	touch $@
