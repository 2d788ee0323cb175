# make setup | setup-slurm | demo | study | test | test-slow | attack | attack-seeded | test-processors | test-cluster | browser
# format | schema | lock | licences | image | prune
# (prerequisites: Python 3.11+, make, git)
PYTHON ?= python3
LOCK := containers/requirements.lock
SLURM_LOCK := containers/requirements-slurm.lock
ENVIRONMENT := $(PYTHON) containers/environment.py
# The environment's real path, because .venv may be switched to another environment while a target runs.
RUN = PATH="$(realpath .venv)/bin:$$PATH"
WORKERS ?= 2
PYTEST := pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: setup setup-slurm environment demo study test test-slow attack attack-seeded test-processors test-cluster browser format schema lock licences image prune

setup:
	@$(ENVIRONMENT) setup $(LOCK)

# For clusters only: with Snakemake's SLURM executor installed, every call of snakemake asks for a SLURM controller.
setup-slurm:
	@$(ENVIRONMENT) setup $(SLURM_LOCK)

# All other targets need an environment: this one makes it if it is missing, and never replaces an existing one.
environment:
	@$(ENVIRONMENT) require $(LOCK)

demo: environment
	@$(RUN) snakemake --cores 2 --quiet rules host --configfile config/demo.yaml

study: environment
	@$(RUN) snakemake --cores 2 --quiet rules host --configfile config/study.yaml

# The type checker runs beside the tests; its output is printed below their summary, and its errors fail the target, too.
test: environment
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(RUN) snakemake --lint --configfile config/demo.yaml
	@export $(RUN); said=$$(mktemp); trap 'rm -f "$$said"' EXIT; mypy > "$$said" 2>&1 & types=$$!; \
	$(RUN) $(PYTEST) -m 'not slow and not attack' --durations=10; \
	tests=$$?; wait $$types; types=$$?; echo "mypy: $$(cat "$$said")"; [ "$$tests $$types" = "0 0" ]
	@$(MAKE) --no-print-directory test-processors

# Run the tests that take minutes: real processes that are killed and stopped, a whole workflow on real interpreters,
# the benchmarks at toy scale. Only files that hold one are collected.
test-slow: environment
	$(RUN) $(PYTEST) -m slow --durations=0 $$(grep -rl --include='test_*.py' 'pytest.mark.slow' tests)

# Attack the workflow: kills, full disks, lack of memory, a clock set back, bad inputs (docs/reliability.md). It takes
# half an hour; attack-seeded, which continuous integration runs, takes a part of the cases, drawn by SEED.
ATTACK := pytest -n $(WORKERS) --dist worksteal -m attack tests/attacks
attack: environment
	$(RUN) $(ATTACK)

attack-seeded: environment
	$(RUN) SHARE=0.12 $(ATTACK)

# Run the numeric tests again as processors without AVX-512 compute: with AVX2, and with SSE. On machines other than
# x86-64 the variables have no effect. The files are listed because collecting all tests takes longer than these.
NUMERIC := $(addprefix tests/,test_tolerance.py model/test_loading.py generate/test_sampler.py generate/test_block_cache.py)
AVX2 := ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
SSE := ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2
test-processors: environment
	@export $(RUN) OMP_NUM_THREADS=1; $(AVX2) pytest --quiet -m numeric $(NUMERIC) & avx2=$$!; \
	$(SSE) pytest --quiet -m numeric $(NUMERIC); sse=$$?; wait $$avx2 && [ $$sse = 0 ]

# Tests with real containers and a real SLURM, as root on Debian: they install packages with apt and under /opt. They
# run in the environment that setup-slurm makes, not in .venv. Two files run at a time, first the one that builds the
# image and the one that needs none; a machine has one SLURM at a time.
test-cluster:
	environment=$$($(ENVIRONMENT) build $(SLURM_LOCK)) && PATH="$$environment/bin:$$PATH" \
		pytest --durations=0 --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		$(patsubst %,tests/cluster/test_%.py,container slurm preemption requeue nodes)

# Install a browser for the report's tests, which are skipped, with a message, if there is none.
browser:
	@which chromium chromium-browser google-chrome | grep -q . || { apt-get update --quiet && \
		apt-get install --quiet --yes --no-install-recommends chromium fonts-dejavu-core; }

format: environment
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(RUN) snakefmt Snakefile workflow/Snakefile workflow/rules

schema: environment
	$(RUN) python workflow/scripts/write_schema.py

lock: COMPILE = $(RUN) pip-compile --quiet --upgrade --strip-extras --allow-unsafe --no-emit-index-url \
	--no-emit-find-links --no-emit-options
lock: environment
	$(COMPILE) --annotation-style=line --extra dev --output-file $(LOCK) pyproject.toml
	@perl -pi -e 's/^(torch==[0-9.]+)\+\w+/$$1/' $(LOCK)
	$(COMPILE) --no-annotate --extra dev --extra slurm --constraint $(LOCK) --output-file $(SLURM_LOCK) pyproject.toml
	@perl -pi -e 's/^(torch==[0-9.]+)\+\w+/$$1/' $(SLURM_LOCK)

licences: environment
	$(RUN) python containers/licences.py

# Build the image in which --use-singularity runs jobs; BASE=debian needs no image registry.
image:
	@BASE="$(BASE)" PYTHON="$(PYTHON)" bash containers/build.sh

prune: environment
	$(RUN) python workflow/scripts/prune.py
