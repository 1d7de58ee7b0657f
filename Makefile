# make demo: the paper in miniature. make test: the everyday tests. make check: all that CI checks.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
# Three at a time on two cores: a third of the time they wait, for processes and for Slurm.
MANY := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check lint types contracts format slow slurm-test docs wheel clean

demo: $(INSTALLED)
	$(BIN)/sweep demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not slurm" $(MANY)

# All tests in one run: those on Slurm mostly wait, and the others compute meanwhile.
check: lint types contracts
	$(BIN)/python -m pytest $(MANY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

slow: $(READY)
	$(BIN)/python -m pytest -m "slow or slurm" $(MANY)

# On a real Slurm, which the tests start and stop themselves; its packages come from apt-get.
slurm-test: $(READY)
	$(BIN)/python -m slurm.testbed install
	$(BIN)/python -m pytest -m slurm $(MANY)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site, in build/site. Warnings (dead links, pages that no list has) are errors.
docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/site
	cp build/site/README.html build/site/index.html

wheel: $(READY)
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation -q -w dist .

# pip compiles its files on one core, which takes longer than all else here; compileall uses every
# core. It reports failure for the few files of some packages that are not meant to be compiled.
$(INSTALLED): pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "epsweep needs Python 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -c .ci/constraints.txt -e .
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $(INSTALLED)

$(READY): $(INSTALLED)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c .ci/constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
