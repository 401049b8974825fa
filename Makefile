# `make demo` and `make test` are all a newcomer needs. Each target first sets up what it uses in .venv.
.PHONY: setup demo test test-slow test-lowest lint bench docs
.ONESHELL:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.bcdnet-installed

# What the installation is made from: when one of these is newer than the stamp, setup installs again.
CORE := $(shell find core bindings -name '*.h' -o -name '*.cc')

# All extras and the native core, editable.
setup: $(STAMP)

$(STAMP): pyproject.toml CMakeLists.txt cmake/highway.cmake $(CORE)
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') || {
	    echo "error: no '$(PYTHON)' here; install Python 3.11 or newer, or say make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	    echo "error: bcdnet needs Python >= 3.11, '$(PYTHON)' is $$version; say make PYTHON=/path/to/python" >&2; exit 1; }
	missing=()
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing+=("python$$version-venv")
	# The native core and, on the CPU, torch.compile need a compiler and Python's headers; the core needs Highway.
	command -v g++ >/dev/null || missing+=(g++)
	echo '#include <hwy/highway.h>' | g++ -x c++ -E - >/dev/null 2>&1 || missing+=(libhwy-dev)
	headers=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
	[ -e "$$headers/Python.h" ] || missing+=("python$$version-dev")
	if [ $${#missing[@]} -gt 0 ]; then
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	        echo "Installing system packages: $${missing[*]}"
	        apt-get update -qq
	        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null
	    else
	        echo "error: missing system packages; install them and run make again:" >&2
	        echo "    sudo apt-get install $${missing[*]}" >&2
	        exit 1
	    fi
	fi
	echo "Installing bcdnet with all extras in .venv; the first time takes some minutes."
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[train,explain,serve,onnx,ray,docs,dev]'
	touch $@

demo: setup
	@$(BIN)/python examples/demo.py

# Each pytest process keeps to one thread, so that several of them do not fight over the cores.
test: setup
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4

test-slow: setup
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

# The oldest versions that pyproject.toml promises, in an environment of their own; their warnings are long known.
test-lowest: setup
	@[ -x .venv-lowest/bin/python ] || $(PYTHON) -m venv .venv-lowest
	$(BIN)/python .ci/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install -qq --disable-pip-version-check --constraint .venv-lowest/constraints.txt \
	    '.[train,explain,serve,onnx,dev]' httpx # what the oldest starlette's test client needs
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -n auto --maxprocesses 4 -o filterwarnings=

lint: setup
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site in build/site.
docs: setup
	@$(BIN)/mkdocs build --strict --site-dir build/site

# The engines that peers.py measures against have environments of their own, so that they ask nothing of ours.
bench: setup .venv-bench/.installed .venv-lce/.installed
	@$(BIN)/python benchmarks/peers.py

.venv-%/.installed: benchmarks/requirements-%.txt
	@echo "Installing $< in .venv-$*; it takes a minute or two."
	[ -x .venv-$*/bin/python ] || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -qq --disable-pip-version-check -r $<
	touch $@
