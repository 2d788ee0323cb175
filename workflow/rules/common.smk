import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, f"{workflow.basedir}/src")
from dreamtune import containers
from dreamtune.config import Config, parse_config
from dreamtune.demand import memory_mb, minutes
from dreamtune.errors import UserError
from dreamtune.experiments import make_plan, plan_merge
from dreamtune.plan import RESULTS
from dreamtune.versions import digest

MAIN = workflow.is_main_process and not any(argument.startswith("--report") for argument in sys.argv)
IMAGE = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method

try:
    # A job on a node goes by its frozen config.json alone, whatever has become of the configuration meanwhile.
    CONFIG = parse_config(config) if workflow.is_main_process else Config(experiments={})
    PLAN, LATEST = make_plan(CONFIG)
    MERGED = plan_merge(PLAN, CONFIG, LATEST)
    if IMAGE and MAIN:  # a job inherits what is bound from the driver, which alone knows the configuration
        containers.bind(PLAN.values())
except UserError as error:
    sys.exit(f"dreamtune: {error}")

LINKS = {name: [f"{key}={folder}" for key, folder in folders.items()] for name, folders in LATEST.items()}
LAYOUT = 2  # of results/latest; a higher number publishes everything once more
MARKERS = {name: f"results/latest/{name}/.published-{digest([LAYOUT, links])}" for name, links in LINKS.items()}


def one_of(names):
    """Return a constraint that matches just these; a finished version is among none, so nothing can re-make it."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    version=one_of(PLAN.unfinished()) if MAIN else "[0-9a-f]{12}",
    marker=one_of(m.rpartition("-")[2] for m in MARKERS.values() if not exists(m)) if MAIN else "[0-9a-f]{12}",


container: containers.image()


# Without an image the jobs run on Snakemake's own Python, whether or not its environment was activated.
OWN = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
# A prefix replaces Snakemake's own strict mode, without which a job that fails into `tee` would count as a success.
shell.prefix(f"set -euo pipefail; {containers.ENVIRONMENT if IMAGE else OWN}; export PYTHONUNBUFFERED=1; ")


def require_image():
    """Stop before the first job if jobs are to run in an image that is not there."""
    try:
        if IMAGE:
            containers.require(containers.image())
    except UserError as error:
        sys.exit(f"dreamtune: {error}")


def inputs_of(stage):
    """Return the input function of a stage: the manifests of what its version reads."""
    return lambda wildcards: PLAN.inputs_of(stage, wildcards.version)


def experiment_of(wildcards):
    """Return the name of the experiment that a report's version belongs to."""
    return PLAN["render_report", wildcards.version]["settings"]["experiment"]


def gpus(stage):
    """Return the resource function of a stage that runs a model: one GPU, unless the config says `cpu`."""
    return lambda wildcards: int(PLAN[stage, wildcards.version]["runtime"]["model"]["device"] != "cpu")


def demand(stage):
    """Return the resource functions of a stage's time limit and host memory; the full run's go by smoke's figures."""
    return {
        "runtime": lambda wildcards, attempt: minutes(PLAN[stage, wildcards.version], attempt),
        "mem_mb": lambda wildcards, attempt: memory_mb(PLAN[stage, wildcards.version], attempt),
    }


def shown(name, caption):
    """Return a file of the experiment's report, as Snakemake's own report lists it."""
    labels = lambda wildcards: {"experiment": experiment_of(wildcards), "file": Path(name).stem}
    path = f"results/render_report/{{version}}/{name}"
    return report(path, caption=f"../report/{caption}.rst", category="Verdicts", labels=labels)
