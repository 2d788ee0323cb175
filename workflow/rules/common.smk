import shlex
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, f"{workflow.basedir}/src")
from dreamtune.config import Config, parse_config
from dreamtune.errors import UserError
from dreamtune.experiments import make_plan, plan_merge
from dreamtune.parts import SECTIONS
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


def one_of(names):
    """Return a constraint that matches just these; a finished version is among none, so nothing can re-make it."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    version=one_of(PLAN.unfinished()) if MAIN else "[0-9a-f]{12}",
    cut="[0-9a-f]{12}",
    marker=one_of(m.rpartition("-")[2] for m in MARKERS.values() if not exists(m)) if MAIN else "[0-9a-f]{12}",


container: "containers/dreamtune.sif"


# Without an image the jobs run on Snakemake's own Python, whether or not its environment was activated.
IMAGE = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
PYTHON = "" if IMAGE else f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
# A prefix replaces Snakemake's own strict mode, without which a job that fails into `tee` would count as a success.
shell.prefix(f"set -euo pipefail; export {PYTHON} PYTHONUNBUFFERED=1; ")


def inputs_of(stage):
    """Return the input function of a stage: the manifests of what its version reads."""
    return lambda wildcards: PLAN.inputs_of(stage, wildcards.version)


def parts_of(stage):
    """Return the input function of the job that gathers a version's parts; a version in one piece has none."""
    return lambda wildcards: PLAN.parts_of(stage, wildcards.version)


def experiment_of(wildcards):
    """Return the name of the experiment that a report's version belongs to."""
    return PLAN["render_report", wildcards.version]["settings"]["experiment"]


def runs_on_gpu(stage, version):
    """Return whether a stage runs its model on a GPU; prepare_shards reads its tokenizer alone."""
    return stage != "prepare_shards" and PLAN[stage, version]["runtime"]["model"]["device"] != "cpu"


def gpus(stage, part=False):
    """Return the resource function of a stage that runs a model: one GPU; none to gather what its parts made."""
    return lambda w: int(runs_on_gpu(stage, w.version) and (part or not PLAN.parts_of(stage, w.version)))
