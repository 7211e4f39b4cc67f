# make demo    compile the digits example, from nothing but Python >= 3.11 and make
# make test    run the tests
# make check   ruff and mypy
#
# PYTHON names another interpreter (make demo PYTHON=python3.13), VENV another folder for the virtual environment, JOBS
# how many test processes there are at most, one a core (make test JOBS=1).

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 8
BIN := $(VENV)/bin

.PHONY: demo test check

demo: $(VENV)/examples.stamp build/digits.npz
	$(BIN)/edgeprune compile examples/digits/digits.safetensors --arch examples/digits/model.py:digits \
	    --data build/digits.npz --effort quick --out build/digits
	@echo "report: build/digits/report.html"

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses $(JOBS) --dist loadfile

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy -p edgeprune
	$(BIN)/mypy benchmarks

build/digits.npz: examples/digits/prepare.py | $(VENV)/examples.stamp
	$(BIN)/python examples/digits/prepare.py $@

# Editable, so that what is installed is what stands here. A stamp is written only after an install that went well.
$(VENV)/examples.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[examples]'
	@touch $@

# dev holds everything the demo needs.
$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/examples.stamp

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgeprune needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
