import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, f"{workflow.basedir}/src")
from dreamtune.config import Config, parse_config
from dreamtune.errors import UserError
from dreamtune.experiments import make_plan, plan_merge
from dreamtune.hub import hub_sources
from dreamtune.plan import RESULTS
from dreamtune.versions import digest

try:
    # A job on a node goes by its frozen config.json alone, whatever has become of the configuration meanwhile.
    CONFIG = parse_config(config) if workflow.is_main_process else Config(experiments={})
    PLAN, LATEST = make_plan(CONFIG)
    MERGED = plan_merge(PLAN, CONFIG, LATEST)
except UserError as error:
    sys.exit(f"dreamtune: {error}")

LINKS = {name: [f"{key}={folder}" for key, folder in folders.items()] for name, folders in LATEST.items()}
LAYOUT = 2  # of results/latest; a higher number publishes everything once more
MARKERS = {name: f"results/latest/{name}/.published-{digest([LAYOUT, links])}" for name, links in LINKS.items()}
MAIN = workflow.is_main_process and not any(argument.startswith("--report") for argument in sys.argv)


SOURCES = {digest(source): source for spec in PLAN.values() for source in hub_sources(spec["inputs"])}


def one_of(names):
    """Return a constraint that matches just these; a finished version is among none, so nothing can re-make it."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    source="[0-9a-f]{12}",
    version=one_of(PLAN.unfinished()) if MAIN else "[0-9a-f]{12}",
    marker=one_of(m.rpartition("-")[2] for m in MARKERS.values() if not exists(m)) if MAIN else "[0-9a-f]{12}",


container: "containers/dreamtune.sif"


# Without an image the jobs run on Snakemake's own Python, whether or not its environment was activated.
IMAGE = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
PYTHON = "" if IMAGE else f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
# A prefix replaces Snakemake's own strict mode, without which a job that fails into `tee` would count as a success.
shell.prefix(f"set -euo pipefail; export {PYTHON} PYTHONUNBUFFERED=1; ")


def inputs_of(stage):
    """Return the input function of a stage: the manifests of what its version reads, and that the hub's is fetched."""
    return lambda wildcards: PLAN.inputs_of(stage, wildcards.version) | downloads(stage, wildcards.version)


def downloads(stage, version):
    """Return the markers of what a version takes from the hub; a job on a node has been submitted after them."""
    sources = hub_sources(PLAN[stage, version]["inputs"]) if MAIN else []
    return {"downloads": [f"results/downloads/{digest(source)}" for source in sources]} if sources else {}


def experiment_of(wildcards):
    """Return the name of the experiment that a report's version belongs to."""
    return PLAN["render_report", wildcards.version]["settings"]["experiment"]


def gpus(stage):
    """Return the resource function of a stage that runs a model: one GPU, unless the config says `cpu`."""
    return lambda wildcards: int(PLAN[stage, wildcards.version]["runtime"]["model"]["device"] != "cpu")
