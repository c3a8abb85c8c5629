# make demo: run the built-in demo experiment.  make test: the checks and all tests, as CI runs them.
# make test-cpus: the tests whose numbers a CPU's kernels or a number of threads could change, under
# each of CPUS; CPU_TESTS names other tests.
# make test-slurm: runs on a Slurm that is set up on this machine, and taken down again (as root on
# Debian or Ubuntu).
# make test-ray: runs on a Ray cluster of this machine; installs the extra ray.
# make bench: the benchmark suite; BENCH names measurements and options, BENCH="big --rows 1,10".
# make dist: a wheel and an sdist into dist/, each tried out in an empty environment. Needs npm, for the
# part of plotly.js that they bring.
# make docs: build the documentation into build/site (open index.html there).
# make docs-version VERSION="0.1.0 latest": commit it to the branch gh-pages as that version and
# alias, beside the others that are there.
# All set up .venv by themselves; PYTHON chooses the interpreter, 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := pyproject.toml constraints.txt

# what other CPUs and users have: older instructions for PyTorch's own loops and for MKL (the last
# two variables work on Intel's CPUs only; MKL_CBWR=COMPATIBLE on all), and another number of threads
CPUS := default POLARS_MAX_THREADS=4 OMP_NUM_THREADS=2 ATEN_CPU_CAPABILITY=avx2 \
  ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE MKL_ENABLE_INSTRUCTIONS=AVX2 \
  MKL_ENABLE_INSTRUCTIONS=SSE4_2
CPU_TESTS := tests/laws tests/runs tests/test_resume.py

SLURM_HERE := /tmp/slurm_here

# as a wheel's pages are: with the part of plotly.js that they need
SMALLER_PAGES = command -v npm >/dev/null && $(BIN)/python tools/plotly_bundle.py || \
  echo "not fetched by npm: report pages bring the whole of plotly.js, 2 MB in place of 0.9"

.PHONY: demo test test-cpus test-ray test-slurm bench dist docs docs-version clean

demo: $(VENV)/.installed
	$(BIN)/realdataexp run demo

test: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-cpus: $(VENV)/.installed-dev
	@for cpu in $(CPUS); do \
	  echo "== $$cpu"; \
	  env $${cpu#default} $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(CPU_TESTS) || exit 1; \
	done

test-slurm: $(VENV)/.installed-dev
	tools/slurm_here.sh start $(SLURM_HERE)
	SLURM_CONF=$(SLURM_HERE)/slurm.conf $(BIN)/python -m pytest tests/cluster/test_slurm.py; \
	  code=$$?; tools/slurm_here.sh stop $(SLURM_HERE); exit $$code

test-ray: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[ray]"
	$(BIN)/python -m pytest tests/cluster/test_ray.py

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench $(BENCH)

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python tools/plotly_bundle.py
	$(BIN)/python -m build -q --outdir dist
	PYTHON=$(PYTHON) tools/check_dist.sh

docs: $(VENV)/.installed-dev
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Wrote build/site/index.html"

# mike calls mkdocs by its name; the site opens at latest once there is one
docs-version: export PATH := $(CURDIR)/$(BIN):$(PATH)
docs-version: export NO_MKDOCS_2_WARNING := 1
docs-version: $(VENV)/.installed-dev
	@test -n "$(VERSION)" || { echo 'name the version: make docs-version VERSION="0.1.0 latest"' >&2; exit 1; }
	python tools/reference.py
	mike --quiet deploy --update-aliases $(VERSION)
	mike --quiet set-default $$(mike list latest >/dev/null 2>&1 && echo latest || echo $(firstword $(VERSION)))

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "realdataexp needs Python 3.11 or newer; '$(PYTHON)' is not. Name one: make PYTHON=python3.11 ..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(SETUP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[charts]'
	@$(SMALLER_PAGES)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created $(SETUP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@$(SMALLER_PAGES)
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
