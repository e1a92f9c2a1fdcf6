# Every target makes its own set-up first; `make help` lists them.
PYTHON     ?= python3
UV_VERSION := 0.13.9
BIN        := .venv/bin
NOTEBOOKS  := $(sort $(wildcard nbs/[0-9]*.ipynb)) nbs/index.ipynb
SUPPORTED  := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
STAMP      := .venv/setup-$(shell cat requirements.lock settings.ini setup.py | cksum | cut -d' ' -f1)

export TF_CPP_MIN_LOG_LEVEL ?= 3
.DEFAULT_GOAL := help
.PHONY: help setup demo test notebooks readme docs lint lock hooks

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP) ## make .venv from requirements.lock; a second call installs nothing

demo: setup ## train on the sample, evaluate, explain; DATA=folder takes real photos, OUT=folder another place
	@$(BIN)/skin-lesion demo $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)")

test: setup ## run every notebook and every test
	@$(BIN)/python -m pytest

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
	$(BIN)/uv pip compile setup.py --extra lite --extra dev --universal --python-version 3.11 \
	    --no-emit-index-url --no-header --quiet --refresh-package skin-lesion $(if $(UPGRADE),--upgrade) --output-file requirements.lock

hooks: setup ## let git clean the notebooks of a commit and merge notebooks cell by cell
	@sh tools/hooks.sh

# uv installs in seconds, but does not read pip's configuration: where only that knows the way to the packages, pip installs them.
$(STAMP):
	@$(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || $(PYTHON) -c '$(SUPPORTED)' || { \
	    echo "skin_lesion needs Python 3.11 to 3.13, and $(PYTHON) is '$$($(PYTHON) --version 2>&1)'. Name another: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@{ $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) \
	    && $(BIN)/uv pip install --python $(BIN)/python --requirement requirements.lock; } \
	    || { echo "uv could not install the packages; pip does."; $(BIN)/python -m pip install --requirement requirements.lock; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --use-pep517 --editable .
	-@sh tools/hooks.sh
	@rm -f .venv/setup-* && touch $@
