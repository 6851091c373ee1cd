# Every target makes the virtual environment it needs; only Python and make have to be there.
#   make demo         train both heads, compare, explain, export, predict (about five minutes)
#   make test         the ordinary tests, on the newest TensorFlow with Keras 3
#   make test-addons  those that Keras 2 can break, on TensorFlow 2.15 with TensorFlow Addons
#   make test-slow, make test-addons-slow   the tests marked slow, on either stack
#   make test-torch   the tests that need PyTorch, which has an environment of its own
#   make test-all, make test-addons-all     every test, with all models of Keras and KerasCV
#   make lint         ruff for style, mypy for types
#   make docs         the site of docs/, to build/site; a warning is an error
# PYTHON=/path/to/python3 chooses the interpreter, DEMO="--flag=value" passes flags to the demo.

VENV := .venv
VENV_ADDONS := .venv-addons
VENV_TORCH := .venv-torch
PYTEST := -m pytest -n 2 --dist worksteal
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Importing TensorFlow takes three times as long where Python may not keep what it has compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-all test-addons test-addons-all test-addons-slow test-torch lint docs clean
.DEFAULT_GOAL := test

# $(call find_python,VERSIONS,WANTED): sets $$python to the first interpreter that runs, has one of
# the versions, and can make virtual environments; PYTHON=... is the only candidate if it is given.
find_python = for python in $(if $(PYTHON),'$(PYTHON)',python3 $(addprefix python,$(1))); do \
	  "$$python" -c 'import ensurepip, sys, venv; \
	    sys.exit("%d.%d" % sys.version_info[:2] not in "$(1)".split())' >/dev/null 2>&1 && break; \
	  python=; done; \
	if [ -z "$$python" ]; then \
	  echo "make: $(if $(PYTHON),$(PYTHON) is not,found no) $(2) with the module venv; install one (Debian: also python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	  exit 1; fi

# $(call make_venv,FOLDER,EXTRAS,MORE): makes the environment anew with $$python, the package with
# its extras and MORE in it; if that fails, the old one, if any, stays. Python compiles modules when
# they are imported; compiling all of them here would take as long as the rest of the installation.
make_venv = rm -rf $(1).old; [ ! -e $(1) ] || mv $(1) $(1).old; \
	if "$$python" -m venv $(1) \
	  && $(1)/bin/python -m pip install --quiet --quiet --upgrade pip \
	  && $(1)/bin/python -m pip install --quiet --quiet --no-compile --editable ".[$(2)]" $(3); \
	then touch $(1)/.installed; rm -rf $(1).old; \
	else echo "make: $(1) could not be set up; make needs the Python package index for that" >&2; \
	  rm -rf $(1); [ ! -e $(1).old ] || mv $(1).old $(1); exit 1; fi

$(VENV)/.installed: setup.cfg pyproject.toml
	@echo "Setting up $(VENV) (TensorFlow is a large download) ..."
	@$(call find_python,3.13 3.12 3.11 3.10,Python 3.10 to 3.13); $(call make_venv,$(VENV),test$(COMMA)lint$(COMMA)docs$(COMMA)hub$(COMMA)serving$(COMMA)onnx$(COMMA)demo$(COMMA)official$(COMMA)wandb)

$(VENV_ADDONS)/.installed: setup.cfg pyproject.toml
	@echo "Setting up $(VENV_ADDONS) (TensorFlow is a large download) ..."
	@$(call find_python,3.11 3.10,Python 3.10 or 3.11 (TensorFlow 2.15 needs one of them)); $(call make_venv,$(VENV_ADDONS),addons$(COMMA)test$(COMMA)serving$(COMMA)onnx$(COMMA)demo)

# One version, so that pip does not look for a newer one where a wheel of it lies at hand, and the
# torchvision for that version.
$(VENV_TORCH)/.installed: setup.cfg pyproject.toml
	@echo "Setting up $(VENV_TORCH) (TensorFlow and PyTorch are large downloads) ..."
	@$(call find_python,3.11 3.12 3.13 3.10,Python 3.10 to 3.13); $(call make_venv,$(VENV_TORCH),test$(COMMA)torch$(COMMA)torch-models$(COMMA)official,torch==2.13.0 torchvision==0.28.0)

COMMA := ,

demo: $(VENV)/.installed
	$(VENV)/bin/python trainers/demo.py $(DEMO)

test: $(VENV)/.installed
	$(VENV)/bin/python $(PYTEST) -m "not slow and not exhaustive and not gpu"

test-slow: $(VENV)/.installed
	$(VENV)/bin/python $(PYTEST) -m "slow and not exhaustive and not gpu"

test-all: $(VENV)/.installed
	$(VENV)/bin/python $(PYTEST) -m "not exhaustive and not gpu"
	@# One at a time: the largest model takes 13 GB.
	$(VENV)/bin/python $(PYTEST) -n 1 -m "exhaustive and not gpu"

test-addons: $(VENV_ADDONS)/.installed
	$(VENV_ADDONS)/bin/python $(PYTEST) -m "not one_stack and not slow and not exhaustive and not gpu"

test-addons-all: $(VENV_ADDONS)/.installed
	$(VENV_ADDONS)/bin/python $(PYTEST) -m "not exhaustive and not gpu"
	$(VENV_ADDONS)/bin/python $(PYTEST) -n 1 -m "exhaustive and not gpu"

test-addons-slow: $(VENV_ADDONS)/.installed
	$(VENV_ADDONS)/bin/python $(PYTEST) -m "not one_stack and slow and not exhaustive and not gpu"

test-torch: $(VENV_TORCH)/.installed
	$(VENV_TORCH)/bin/python $(PYTEST) -k torch tests/models/test_official_torch.py tests/models/test_other_libraries_torch.py tests/training/test_optimizer.py

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.installed
	$(VENV)/bin/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV_ADDONS) $(VENV_TORCH) build dist *.egg-info
