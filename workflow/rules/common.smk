import sys
from collections import defaultdict
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, f"{workflow.basedir}/src")
from dreamtune.workflow import containers, launch
from dreamtune.config import Config, parse_config
from dreamtune.workflow.demand import memory_mb, minutes
from dreamtune.errors import UserError
from dreamtune.workflow.experiments import make_plan, plan_merge
from dreamtune.inputs.hub import hub_sources
from dreamtune.workflow.parts import SECTIONS
from dreamtune.workflow.plan import RESULTS
from dreamtune.digests import digest

MAIN = workflow.is_main_process and not any(argument.startswith("--report") for argument in sys.argv)
IMAGE = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method

try:
    # A job on a node goes by its frozen config.json alone, whatever has become of the configuration meanwhile.
    CONFIG = parse_config(config) if workflow.is_main_process else Config(experiments={})
    PLAN, LATEST = make_plan(CONFIG)
    MERGED = plan_merge(PLAN, CONFIG, LATEST)
    if IMAGE and MAIN:  # a job inherits what is bound from the driver, which alone knows the configuration
        containers.bind(PLAN.values())
    elif IMAGE:
        containers.bind_here()
except UserError as error:
    sys.exit(f"dreamtune: {error}")

LINKS = {name: [f"{key}={folder}" for key, folder in folders.items()] for name, folders in LATEST.items()}
LAYOUT = 2  # of results/latest; a higher number publishes everything once more
MARKERS = {name: f"results/latest/{name}/.published-{digest([LAYOUT, links])}" for name, links in LINKS.items()}


SOURCES = {digest(source): source for spec in PLAN.values() for source in hub_sources(spec["inputs"])}


def one_of(names):
    """Return a constraint that matches just these; a finished version is among none, so nothing can re-make it."""
    return "|".join(names) or "(?!)"


def versions_of(stage):
    """Return the constraint of a rule's versions: only its own stage's, as Snakemake reads it again for each file."""
    return one_of(PLAN.unfinished(stage)) if MAIN else "[0-9a-f]{12}"


wildcard_constraints:
    source="[0-9a-f]{12}",
    cut="[0-9a-f]{12}",
    marker=one_of(m.rpartition("-")[2] for m in MARKERS.values() if not exists(m)) if MAIN else "[0-9a-f]{12}",


SIF = containers.image()


container: SIF


# The image has no srun: what srun starts on each node enters it there.
IN_IMAGE = f"apptainer exec {workflow.deployment_settings.apptainer_args} {SIF} " if IMAGE else ""
ENVIRONMENT = containers.ENVIRONMENT if IMAGE else launch.own_environment()
# A prefix replaces Snakemake's own strict mode, without which a job that fails into `tee` would count as a success.
shell.prefix(f"set -euo pipefail; {ENVIRONMENT}; export PYTHONUNBUFFERED=1; ")


def check_run():
    """Stop before the first job if the image is not there, or a training takes more GPUs than the run offers."""
    trainings = [job for job in workflow.dag.needrun_jobs() if job.rule.name == "train_adapter"]
    offered = workflow.global_resources.get("gpu").value
    try:
        if IMAGE:
            containers.require(SIF, launch.most_nodes(PLAN.values()))
        launch.check_gpus([PLAN["train_adapter", job.wildcards.version] for job in trainings], offered)
    except UserError as error:
        sys.exit(f"dreamtune: {error}")


def of_version(stage, function):
    """Return a Snakemake function of wildcards that applies `function` to the planned version."""
    return lambda wildcards: function(PLAN[stage, wildcards.version])


EXPERIMENTS = defaultdict(list)  # that a version folder belongs to
for NAME, FOLDERS in LATEST.items():
    for FOLDER in set(FOLDERS.values()):
        EXPERIMENTS[FOLDER].append(NAME)


def about(stage):
    """Return the function of the sentence that a person reads while a version is made."""
    return lambda w: launch.message(PLAN[stage, w.version], EXPERIMENTS[RESULTS / stage / w.version])


def inputs_of(stage):
    """Return the input function of a stage: the manifests of what its version reads, and that the hub's is fetched."""
    return lambda wildcards: PLAN.inputs_of(stage, wildcards.version) | downloads(stage, wildcards.version)


def downloads(stage, version):
    """Return the markers of what a version takes from the hub; a job on a node has been submitted after them."""
    sources = hub_sources(PLAN[stage, version]["inputs"]) if MAIN else []
    return {"downloads": [f"results/downloads/{digest(source)}" for source in sources]} if sources else {}


def parts_of(stage):
    """Return the input function of the job that gathers a version's parts; a version in one piece has none."""
    return lambda wildcards: PLAN.parts_of(stage, wildcards.version)


def experiment_of(wildcards):
    """Return the name of the experiment that a report's version belongs to."""
    return PLAN["render_report", wildcards.version]["settings"]["experiment"]


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


def gpus(stage, part=False):
    """Return the resource function of a stage that runs a model; the job that gathers parts takes no GPU."""
    return lambda w: launch.gpus(PLAN[stage, w.version], gathers=not part and bool(PLAN.parts_of(stage, w.version)))


def nodes(value):
    """Return the resource function of a training on several nodes; on one node it lacks the resource."""

    def resource(spec):
        count = launch.processes(spec)[1]
        return value(count) if count > 1 else None

    return of_version("train_adapter", resource)


NODES = {
    # Else several GPUs might come from several nodes.
    "nodes": of_version("train_adapter", lambda spec: launch.processes(spec)[1]),
    "tasks": nodes(lambda count: count),
    "tasks_per_gpu": nodes(lambda count: 0),  # else the SLURM plugin asks for `tasks` of them for each GPU
    "mpi": nodes(lambda count: "srun"),  # the command starts its own tasks
}
