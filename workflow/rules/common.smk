import shlex
import sys
from math import prod
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, f"{workflow.basedir}/src")
from dreamtune.workflow import containers
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


# Without an image the jobs run on Snakemake's own Python, whether or not its environment was activated.
OWN = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
# The image has no srun: what srun starts on each node enters it there.
IN_IMAGE = f"apptainer exec {workflow.deployment_settings.apptainer_args} {SIF} " if IMAGE else ""
# A prefix replaces Snakemake's own strict mode, without which a job that fails into `tee` would count as a success.
shell.prefix(f"set -euo pipefail; {containers.ENVIRONMENT if IMAGE else OWN}; export PYTHONUNBUFFERED=1; ")


def require_image():
    """Stop before the first job if jobs are to run in an image that is not there."""
    try:
        if IMAGE:
            trainings = [spec for spec in PLAN.values() if spec["stage"] == "train_adapter"]
            containers.require(SIF, max((spec["runtime"]["train"]["nodes"] for spec in trainings), default=1))
    except UserError as error:
        sys.exit(f"dreamtune: {error}")


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


def runs_on_gpu(stage, version):
    """Return whether a stage runs its model on a GPU; prepare_shards reads its tokenizer alone."""
    return stage != "prepare_shards" and PLAN[stage, version]["runtime"]["model"]["device"] != "cpu"


def processes(version):
    """Return how many GPUs a training takes on each node (processes, on a CPU), and how many nodes."""
    train = PLAN["train_adapter", version]["runtime"]["train"]
    return train["gpus"], train["nodes"]


def gpus(stage, part=False):
    """Return the resource function of a stage that runs a model: one GPU; none to gather what its parts made."""
    if stage == "train_adapter":
        return lambda w: runs_on_gpu(stage, w.version) * prod(processes(w.version))
    return lambda w: int(runs_on_gpu(stage, w.version) and (part or not PLAN.parts_of(stage, w.version)))


def require_gpus():
    """Stop before the first job if a training takes more GPUs than the run offers: Snakemake would count it as fewer."""
    offered = workflow.global_resources.get("gpu").value  # None: no limit, as on a cluster
    for job in workflow.dag.needrun_jobs():
        if job.rule.name == "train_adapter" and offered is not None:
            asked, (count, nodes) = gpus(job.rule.name)(job.wildcards), processes(job.wildcards.version)
            if asked > max(offered, 1):
                sys.exit(
                    f"dreamtune: a training takes {asked} GPUs (train.gpus is {count}, train.nodes {nodes}) and this "
                    f"run offers gpu={offered}; call with --resources gpu={asked}, or lower train.gpus"
                )


def across_nodes(value):
    """Return the resource function of a training on several nodes; on one it lacks the resource."""
    return lambda w: value(processes(w.version)[1]) if processes(w.version)[1] > 1 else None


NODES = {
    "nodes": lambda w: processes(w.version)[1],  # else several GPUs might come from several nodes
    "tasks": across_nodes(lambda nodes: nodes),
    "tasks_per_gpu": across_nodes(lambda nodes: 0),  # else the SLURM plugin asks for `tasks` of them for each GPU
    "mpi": across_nodes(lambda nodes: "srun"),  # the command starts its own tasks
}


def launcher(wildcards):
    """Return what starts a training: python; for several processes torchrun, which srun starts once on each node."""
    count, nodes = processes(wildcards.version)
    torchrun = f"python3 workflow/scripts/torchrun.py --nproc-per-node {count}"
    if nodes > 1:
        meeting = f"$(hostname):{20000 + int(wildcards.version, 16) % 12000}"  # on the job's first node
        srun = f"srun --nodes {nodes} --ntasks {nodes} --ntasks-per-node 1 --cpu-bind none --kill-on-bad-exit=1"
        return f"{srun} {IN_IMAGE}{torchrun} --nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint {meeting}"
    return f"{torchrun} --standalone" if count > 1 else "python3"
