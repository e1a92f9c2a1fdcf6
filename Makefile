# Every target makes its own set-up first; `make help` lists them.
PYTHON     ?= python3
UV_VERSION := 0.13.9
BIN        := .venv/bin
NOTEBOOKS  := $(sort $(wildcard nbs/[0-9]*.ipynb)) $(wildcard nbs/tutorials/*.ipynb) nbs/index.ipynb
WORKERS    ?= auto
PYTEST     := -m pytest --numprocesses=$(WORKERS) --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
SOAK_TESTS := $(patsubst %,tests/test_%.py,kills faults fuzz properties mutations)
TORCH_TESTS := tests/test_models.py tests/test_train.py tests/test_gradcam.py tests/test_backends.py
BENCHMARKS := cache batches training memory prediction
COMPILED   := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.venv-jax/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
SUPPORTED  := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
stamp       = $(1)/setup-$(shell cat $(2) settings.ini setup.py | cksum | cut -d' ' -f1)
STAMP      := $(call stamp,.venv,requirements.lock)
JAX        := $(call stamp,.venv-jax,requirements-jax.lock)
TORCH      := $(call stamp,.venv-torch,requirements-torch.lock)

export TF_CPP_MIN_LOG_LEVEL ?= 3
export TF_ENABLE_ONEDNN_OPTS ?= 1
.DEFAULT_GOAL := help
.PHONY: help setup demo test soak bench test-jax test-torch coverage audit lab notebooks readme docs lint lock hooks

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP) ## make .venv from requirements.lock; a second call installs nothing

demo: setup ## train on the sample, evaluate, explain; DATA=folder takes real photos, OUT=folder another place
	@$(BIN)/skin-lesion demo $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)")

# What several processes do together is tested on JAX, in an environment beside.
test: setup $(JAX) ## run every notebook and every test, on up to four processes; WORKERS=0 takes one
	@$(BIN)/python $(PYTEST)

soak: setup ## the long form of kills, faults, bad files and broken lines; counts what was tried, survived and lost
	-@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps isic-challenge-scoring==5.6.0 rdp==0.8
	@SOAK=1 $(BIN)/python -m pytest $(or $(TESTS),$(SOAK_TESTS))

# JAX compiles every operation for every shape that it meets; what it made is kept for the next time.
test-jax: $(JAX) ## the same on JAX, in .venv-jax, where TensorFlow is not installed; TESTS="files" takes some
	@KERAS_BACKEND=jax $(COMPILED) .venv-jax/bin/python $(PYTEST) $(TESTS)

# On Linux the package registry's torch brings CUDA; the smaller build for CPUs is taken where pip knows the way to it.
test-torch: $(TORCH) ## models, training and Grad-CAM on PyTorch, in .venv-torch, without TensorFlow
	@KERAS_BACKEND=torch .venv-torch/bin/python $(PYTEST) $(or $(TESTS),$(TORCH_TESTS))

# A notebook runs the cells that the library is made of, not the library: here they are replaced by an import of it.
coverage: setup ## count the lines of the library that tests and notebooks run, together: 95 % at least
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run $(PYTEST) -q --ignore=tests/test_notebooks.py --ignore=tests/test_jupyterlab.py
	@env -u SKIN_LESION_DATA $(BIN)/python -m coverage run tools/read_as_user.py
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

audit: ## ask for known vulnerabilities of the packages in the lock; fails too where one could not be asked about
	@$(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements.lock

lab: setup ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab nbs

bench: setup ## run the benchmarks at a small size, to see that they run; the committed results stay as they are
	-@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(shell grep '^albumentations==' benchmarks/requirements.txt)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py --quick || exit 1; done

# What TensorFlow's native code writes while it loads is not part of a notebook: the kernel is told not to record it.
notebooks: setup ## run every notebook again on the sample and save its outputs, the library and README.md
	$(BIN)/nbdev_export
	@mkdir -p .venv/ipython/profile_default
	@echo 'c.IPKernelApp.capture_fd_output = False' > .venv/ipython/profile_default/ipython_kernel_config.py
	for notebook in $(NOTEBOOKS); do env -u SKIN_LESION_DATA IPYTHONDIR=$(CURDIR)/.venv/ipython \
	    $(BIN)/jupyter execute --inplace --timeout=600 $$notebook || exit 1; done
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py

readme: setup ## make README.md again from nbs/index.ipynb
	$(BIN)/python tools/readme.py

docs: setup ## build the site into _docs, with Quarto
	@command -v quarto >/dev/null || { echo "Building the site needs Quarto: https://quarto.org/docs/get-started/"; exit 1; }
	PYTHONPATH=tools $(BIN)/nbdev_docs
	$(BIN)/python tools/readme.py

lint: setup ## check the style of notebooks, library, tests and tools
	$(BIN)/ruff check

lock: setup ## choose the versions in requirements.lock again, keeping those that still fit; UPGRADE=1 takes the newest
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(call compile,requirements.lock,--extra demo --extra export --constraint tools/lock.txt)
	$(call compile,requirements-jax.lock,--extra jax --override tools/jax.txt --constraint requirements.lock)
	$(call compile,requirements-torch.lock,--extra torch --override tools/torch.txt --constraint requirements.lock)

hooks: setup ## let git clean the notebooks of a commit and merge notebooks cell by cell
	@sh tools/hooks.sh

define compile
$(BIN)/uv pip compile setup.py --extra lite --extra dev $(2) --universal --python-version 3.11 \
    --no-emit-index-url --no-header --quiet --refresh-package skin-lesion $(if $(UPGRADE),--upgrade) --output-file $(1)
endef

# make an environment: folder, lock, packages that pip installs first
# uv installs in seconds. It compiles the modules only when told to (imports then take half as long; pip always does), and does
# not read pip's configuration: where only that knows the way to the packages, pip installs them.
define environment
@$(1)/bin/python -c '$(SUPPORTED)' 2>/dev/null || $(PYTHON) -c '$(SUPPORTED)' || { \
    echo "skin_lesion needs Python 3.11 to 3.13, and $(PYTHON) is '$$($(PYTHON) --version 2>&1)'. Name another: make PYTHON=python3.12"; exit 1; }
@$(1)/bin/python -c '$(SUPPORTED)' 2>/dev/null || $(PYTHON) -m venv --clear $(1)
@$(if $(3),$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(3))
@{ $(1)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) \
    && $(1)/bin/uv pip install --compile-bytecode --python $(1)/bin/python --requirement $(2); } \
    || { echo "uv could not install the packages; pip does."; $(1)/bin/python -m pip install --requirement $(2); }
@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --use-pep517 --editable .
@rm -f $(1)/setup-* && touch $@
endef

$(STAMP):
	$(call environment,.venv,requirements.lock)
	-@sh tools/hooks.sh

$(JAX):
	$(call environment,.venv-jax,requirements-jax.lock)

$(TORCH):
	$(call environment,.venv-torch,requirements-torch.lock,$(shell grep '^torch==' requirements-torch.lock))
