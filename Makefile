# Two commands: `make lab` opens the notebooks, `make test` runs every test. Both set up what they lack.
#
# PYTHON=python3.12         which Python makes the environment (3.11 to 3.13)
# JOBS=4                    how many tests run side by side, each on one thread (2 to 3 GiB of memory each)
# TORCH_INDEX=<address>     where to take torch from, to choose a CPU or CUDA build (see the README)

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?=
JOBS ?= 2
BIN := .venv/bin
BASE := .venv/labkit-base.stamp
DEV := .venv/labkit-dev.stamp
AXE := .venv/axe.min.js
# the widget libraries of Google Colab, older than those labkit is tested with elsewhere
COLAB := .venv/colab/labkit-colab.stamp
COLAB_VERSIONS := ipywidgets==7.7.1 widgetsnbextension==3.6.10 jupyterlab_widgets==1.1.11 ipython_genutils==0.2.0 \
	anywidget==0.9.21 plotly==5.24.1
# torchao prints warnings at every import of transformers, so it stands beside the environment and its test puts it in
TORCHAO := .venv/torchao/labkit-torchao.stamp
TORCHAO_VERSION := torchao==0.18.0
SITE := import sysconfig; print(sysconfig.get_path("purelib"))

# what the notebooks' own run has solved and guessed is nobody's progress
PROGRESS := $(CURDIR)/.venv/nbval-progress.json

# as root, or as somebody who may become root without being asked
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo "sudo -n")
INSTALL_BROWSER := { command -v apt-get >/dev/null && $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q chromium; }

.PHONY: help lab test check browser colab model notebooks pictures constraints bench clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -5

lab: $(BASE) model
	$(BIN)/labkit lab

# Every test: code style and types, unit tests, widgets in a browser, notebooks (the solved ones run in tests/notebooks).
test: $(DEV) model browser check $(AXE) $(COLAB) $(TORCHAO)
	LABKIT_AXE=$(AXE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
	$(MAKE) colab
	rm -f $(PROGRESS)
	LABKIT_PROGRESS=$(PROGRESS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=400 notebooks/*.ipynb

check: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/javascript/check.py

# The Python side of every view, with the widget libraries of Colab.
colab: $(DEV) model $(COLAB)
	LABKIT_COLAB=1 JUPYTER_PATH=$(CURDIR)/.venv/share/jupyter OMP_NUM_THREADS=1 .venv/colab/bin/python -m pytest -n $(JOBS) --dist loadfile -m "not browser" tests/views tests/test_colab_versions.py

model: $(BASE)
	$(BIN)/labkit get default

# Widgets are tested in a real Chromium. Where it is missing it is installed if that is allowed here.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || $(INSTALL_BROWSER) || { \
	echo "No Chromium here, and it could not be installed (no network, or your password is needed): the browser tests will be skipped."; \
	echo "To run them, install it: sudo apt-get install chromium (Debian, Ubuntu), brew install chromium (macOS)."; }

# axe-core finds what a screen reader would stumble over. Where npm can't bring it, those tests are skipped and say so.
$(AXE): | .venv/bin/python
	@cd .venv && { npm pack --silent axe-core@4.14.1 >/dev/null 2>&1 && tar -xzOf axe-core-4.14.1.tgz package/axe.min.js > axe.min.js; } \
		|| { rm -f axe.min.js; echo "axe-core could not be fetched: its tests will be skipped"; }; rm -f axe-core-*.tgz

# The notebooks from their one source: run, cleaned, badges written.
notebooks: $(DEV) model
	$(BIN)/python notebooks/build.py

# The pictures of the README and the notebooks, from the views themselves.
pictures: $(DEV) model browser
	$(BIN)/python docs/pictures.py

bench: $(DEV) model
	$(BIN)/labkit bench

# Write down the versions that are installed and tested now.
constraints: $(DEV)
	$(BIN)/python -m pip freeze --exclude-editable --exclude labkit | sed 's/+cpu$$//' > constraints.new
	@printf '# The exact versions labkit is tested with; the set-up installs these. Written by `make constraints`.\n' > constraints.txt
	@cat constraints.new >> constraints.txt && rm constraints.new

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "labkit needs Python 3.11, 3.12 or 3.13; give one with: make PYTHON=/path/to/python3.12 lab"; exit 1; fi
	$(PYTHON) -m venv .venv || { echo "No virtual environment can be made: on Debian and Ubuntu, sudo apt-get install python3-venv"; rm -rf .venv; exit 1; }

$(BASE): pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24.1"
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --index-url $(TORCH_INDEX) torch)
	@echo "Installing labkit and what it needs; the first time this takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on --constraint constraints.txt --editable .
	@touch $@

# Its own packages come first; everything else is .venv's, seen through a .pth file, so that this takes seconds.
$(COLAB): Makefile | $(DEV)
	rm -rf .venv/colab
	$(BIN)/python -m venv --without-pip .venv/colab
	$(BIN)/python -m pip --python .venv/colab/bin/python install --quiet --disable-pip-version-check --no-deps $(COLAB_VERSIONS)
	@outer=$$($(BIN)/python -c '$(SITE)') own=$$(.venv/colab/bin/python -c '$(SITE)'); \
		echo "import site; site.addsitedir('$$outer')" > "$$own/labkit-outer.pth"
	@touch $@

$(TORCHAO): Makefile | $(DEV)
	rm -rf .venv/torchao
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/torchao $(TORCHAO_VERSION)
	@touch $@

$(DEV): $(BASE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@
