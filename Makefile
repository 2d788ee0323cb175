# make setup | setup-slurm | demo | test | test-cluster | browser | format | schema | lock | image | prune
# (prerequisites: Python 3.11+, make, git)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := containers/requirements.lock
SLURM_LOCK := containers/requirements-slurm.lock
WORKERS ?= 2

.PHONY: setup setup-slurm demo test test-cluster browser format schema lock image prune

setup: $(VENV)/.complete

# The marker is written last: an installation that was interrupted is begun anew by the next call.
$(VENV)/.complete: $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; call: make PYTHON=/path/to/python3.11 " )'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(LOCK)
	@touch $@

# Snakemake's SLURM executor, for clusters alone: wherever it is installed, each call asks for a controller.
setup-slurm: $(VENV)/.slurm

$(VENV)/.slurm: $(SLURM_LOCK) $(VENV)/.complete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(SLURM_LOCK)
	@touch $@

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores 2 --quiet rules host --configfile config/demo.yaml
	@$(BIN)/python workflow/scripts/print_verdict.py demo demo-copy

# The type checker runs beside the tests; what it says stands below their summary, and fails the target as they do.
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --lint --configfile config/demo.yaml
	@said=$$(mktemp); trap 'rm -f "$$said"' EXIT; $(BIN)/mypy > "$$said" 2>&1 & types=$$!; \
	PATH="$(CURDIR)/$(BIN):$$PATH" pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10; \
	tests=$$?; wait $$types; types=$$?; echo "mypy: $$(cat "$$said")"; [ "$$tests $$types" = "0 0" ]

# Real containers and a real SLURM, as root on Debian; what they need is installed under /opt and with apt.
test-cluster: setup-slurm
	PATH="$(CURDIR)/$(BIN):$$PATH" pytest --durations=0 tests/cluster

# The report's tests drive a real browser; where none is found they are skipped, and say so.
browser:
	@which chromium chromium-browser google-chrome | grep -q . || { apt-get update --quiet && \
		apt-get install --quiet --yes --no-install-recommends chromium fonts-dejavu-core; }

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

schema: setup
	$(BIN)/python workflow/scripts/write_schema.py

lock: COMPILE := $(BIN)/pip-compile --quiet --upgrade --strip-extras --allow-unsafe --no-emit-index-url \
	--no-emit-find-links --no-emit-options
lock: setup
	$(COMPILE) --annotation-style=line --extra dev --output-file $(LOCK) pyproject.toml
	@sed -i 's/^torch==\([0-9.]*\)+[a-z0-9]*/torch==\1/' $(LOCK)
	$(COMPILE) --no-annotate --extra dev --extra slurm --constraint $(LOCK) --output-file $(SLURM_LOCK) pyproject.toml
	@sed -i 's/^torch==\([0-9.]*\)+[a-z0-9]*/torch==\1/' $(SLURM_LOCK)

# The image that --use-singularity runs jobs in; BASE=debian builds it without an image registry.
image:
	@BASE="$(BASE)" PYTHON="$(PYTHON)" bash containers/build.sh

prune: setup
	$(BIN)/python workflow/scripts/prune.py
