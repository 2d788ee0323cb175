from collections import defaultdict
from functools import wraps

from snakemake.settings.types import DeploymentMethod

from dreamtune.endings.plan import plan_runs
from dreamtune.forecast import cost
from dreamtune.formats.halving import DECIDED
from dreamtune.study.expand import TooManyRuns
from dreamtune.workflow import containers, launch
from dreamtune.workflow.canvases import warnings_of_finished
from dreamtune.workflow.columns import hub_columns
from dreamtune.config import Config, parse_config
from dreamtune.workflow.demand import check_measured, memory_mb, minutes
from dreamtune.workflow.experiments import plan_merge
from dreamtune.inputs.hub import hub_sources
from dreamtune.workflow.models import models_from
from dreamtune.workflow.parts import SECTIONS
from dreamtune.workflow.plan import RESULTS
from dreamtune.workflow.verification import Undecided, still_read
from dreamtune.digests import digest

IMAGE = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method

try:
    # A job on a node reads only its frozen config.json: the configuration may have been edited since the submission.
    CONFIG = parse_config(config) if workflow.is_main_process else Config(experiments={})
    RUNS = plan_runs(CONFIG)
    PLAN = RUNS.plan
    MERGED = plan_merge(PLAN, CONFIG, RUNS.latest)
    if IMAGE and MAIN:  # jobs inherit the binds from the driver, because only the driver knows the configuration
        containers.bind(PLAN.values())
    elif IMAGE:
        containers.bind_here()
except TooManyRuns as error:
    sys.exit(f"dreamtune: {cost.too_many_runs(error, config)}")
except UserError as error:
    sys.exit(f"dreamtune: {error}")

REPORTED = RUNS.going_on
LINKS = {name: [f"{key}={folder}" for key, folder in folders.items()] for name, folders in REPORTED.items()}
LAYOUT = 3  # of results/latest; raise it to publish all experiments again
MARKERS = {name: f"results/latest/{name}/.published-{digest([LAYOUT, links])}" for name, links in LINKS.items()}
DECISIONS = {run: grid.decisions[-1] for grid in RUNS.grids.values() for run in grid.rungs}  # the last one on each run


def once_decided(function):
    """Return what a function returns. If halving has not decided yet, Snakemake makes the decision and asks again."""
    try:
        return function()
    except Undecided as waits:
        return checkpoints.halve.get(version=waits.folder.name)  # raises what Snakemake waits by


def unless_stopped(run, paths):
    """Return targets of a run: its paths, or an input function that has none if halving stops the run."""
    if run not in DECISIONS:
        return paths
    reads = {DECIDED: DECISIONS[run], run: ""}
    return one_line(lambda wildcards: once_decided(lambda: paths if run in still_read(reads) else []))


HUB_COLUMNS = hub_columns(PLAN.values())
SOURCES = {digest(source): source for spec in PLAN.values() for source in hub_sources(spec["inputs"])}


def columns_of(sources):
    """Return the options by which download.py checks the columns of these sources."""
    return [word for file, name in HUB_COLUMNS if file in sources for word in ("--column", file, name)]


def one_of(names):
    """Return the wildcard constraint that matches exactly these names, and nothing if there are none."""
    return "|".join(names) or "(?!)"


def versions_of(stage):
    """Return the wildcard constraint of a stage's versions: the unfinished ones, so that no finished one is made again.

    It holds one stage's versions and not all, because Snakemake compiles the constraint again for every file.
    """
    return one_of(PLAN.unfinished(stage)) if MAIN else start.DIGEST


SIF = containers.image()
# Command that enters the image on a node. The image has no srun, so srun runs outside and its tasks enter the image.
IN_IMAGE = f"apptainer exec {workflow.deployment_settings.apptainer_args} {SIF} " if IMAGE else ""
ENVIRONMENT = containers.ENVIRONMENT if IMAGE else launch.own_environment()
# Without `pipefail`, a script that fails before `| tee` would succeed.
SETUP = f"set -euo pipefail; {ENVIRONMENT}; export PYTHONUNBUFFERED=1; "
SCRIPTS = launch.scripts()
# Params of every command. They are no globals, which a module's commands do not see, and no `shell.prefix`, which would
# hold for other workflows' commands; they take `output` for the reason that `about` has.
COMMAND = {
    "setup": lambda wildcards, output, resources: f"{SETUP}{launch.tell_asked(resources)}",
    "scripts": lambda wildcards, output: SCRIPTS,
}


LOCAL = workflow.resource_settings.nodes is None  # jobs run on this machine, and are not submitted to others
STAGES = sorted({stage for stage, _ in PLAN} - {"merge_adapter"})  # that the default target makes
if MAIN and LOCAL and (missing := start.missing_gpu(PLAN.todo(STAGES))):
    say([f"warning: {missing}"])  # it may not be asked for the jobs that need one


def begin():
    """Check the run, and freeze the plan: stop before the first job with one line if something is wrong."""
    STARTED.append(True)
    try:
        check_run()
        RUNS.freeze()
        if RUNS.stages:
            BEGUN.append(True)
    except UserError as error:
        say([error])  # itself, since Snakemake's scheduler drops what sys.exit says
        sys.exit(1)


def begin_module():
    """Do the same when a module's first job is about to start: Snakemake calls the onstart of no module.

    Before there is a scheduler, jobs are only planned.
    """
    if MODULE and MAIN and executes() and workflow.scheduler is not None and not STARTED:
        begin()


def executes():
    """Return whether this process runs jobs: it makes no dry run, does not only touch files, nor prints a graph."""
    return workflow.executor_plugin is not None and not workflow.dryrun and not workflow.touch


def check_run():
    """Raise a UserError if the image is missing, a file that decides on a job's resources is damaged, a training takes
    more GPUs than the run offers, there is none, or parts are to be a SLURM job array.

    Warn of canvases that training does not show, where the shards are finished: prepare_shards warns while it makes them.
    """
    start.check_arrays(workflow.executor_settings)
    wanted = needed_specs()
    trainings = [spec for spec in wanted if spec["stage"] == "train_adapter"]
    offered = workflow.global_resources.get("gpu").value
    if IMAGE:
        containers.require(SIF, launch.most_nodes(PLAN.values()))
    launch.check_gpus(trainings, offered)
    check_measured(trainings)
    if LOCAL and (missing := start.missing_gpu(wanted)):
        raise UserError(missing)
    shared = start.shared_gpus(wanted, offered) if LOCAL else None
    say(f"warning: {warning}" for warning in [*filter(None, [shared]), *warnings_of_finished(PLAN)])


def needed_jobs():
    """Return the jobs of this run that run something."""
    jobs = workflow.dag.needrun_jobs(exclude_finished=False)  # at its end a dry run counts as finished
    return [job for job in jobs if not job.is_norun]


def needed_specs():
    """Return the specifications of the versions that this run is going to make."""
    versions = {job.wildcards.version for job in needed_jobs() if "version" in job.wildcards.keys()}
    return [spec for (_, version), spec in PLAN.items() if version in versions]


BEGUN = []  # set by `begin`, when a study's first job may start
STARTED = []  # set by `begin`, when the first job is about to start


def one_line(function):
    """Return a Snakemake function that stops with the line of a UserError; otherwise a traceback would be printed."""

    @wraps(function)  # Snakemake looks at the names of the parameters
    def call(*arguments, **named):
        try:
            return function(*arguments, **named)
        except UserError as error:
            sys.exit(f"dreamtune: {error}")

    return call


def of_version(stage, function):
    """Return a Snakemake function of wildcards that applies `function` to the planned version."""
    return one_line(lambda wildcards: function(PLAN[stage, wildcards.version]))


EXPERIMENTS = defaultdict(list)  # version folder -> names of the experiments that use it
for NAME, FOLDERS in RUNS.folders.items():
    for FOLDER in set(FOLDERS.values()):
        EXPERIMENTS[FOLDER].append(NAME)
for NAME, FOLDER in MERGED.items():
    EXPERIMENTS[FOLDER].append(NAME)


def about(stage):
    """Return the params function of a job's message: the sentence shown while a version is made.

    It takes `output` because Snakemake records the value of any other params function, and would make finished parts
    again as soon as another experiment shares their version. As each job's message is put together in the main process
    before the job starts, a module is begun here.
    """

    def sentence(wildcards, output):
        begin_module()
        version = wildcards.version
        return launch.message(PLAN[stage, version], EXPERIMENTS[RESULTS / stage / version])

    return one_line(sentence)


def inputs_of(stage):
    """Return the input function of a stage: the manifests of the versions read, and the markers of its downloads."""
    return one_line(lambda w: once_decided(lambda: PLAN.inputs_of(stage, w.version)) | downloads(stage, w.version))


def downloads(stage, version):
    """Return the markers of a version's downloads; none on a node, whose job was submitted after the downloads."""
    sources = hub_sources(PLAN[stage, version]["inputs"]) if MAIN else []
    return {"downloads": [f"results/downloads/{digest(source)}" for source in sources]} if sources else {}


def parts_of(stage):
    """Return the input function of the job that gathers a version's parts; a version made by one job has none."""
    return one_line(lambda wildcards: PLAN.parts_of(stage, wildcards.version))


def experiment_of(wildcards):
    """Return the name of the experiment that a report's version belongs to."""
    return PLAN["render_report", wildcards.version]["settings"]["experiment"]


def demand(stage):
    """Return the resource functions of a stage's time limit and host memory."""
    return {
        "runtime": one_line(lambda wildcards, attempt: minutes(PLAN[stage, wildcards.version], attempt)),
        "mem_mb": one_line(lambda wildcards, attempt: memory_mb(PLAN[stage, wildcards.version], attempt)),
    }


def shown(name, caption):
    """Return an output file of the report, marked for Snakemake's report (snakemake --report)."""
    labels = lambda wildcards: {"experiment": experiment_of(wildcards), "file": Path(name).stem}
    path = f"results/render_report/{{version}}/{name}"
    return report(path, caption=f"../report/{caption}.rst", category="Verdicts", labels=labels)


def gpus(stage, part=False):
    """Return the resource function of a stage's GPUs; the job that gathers parts loads no model and takes none."""
    return one_line(
        lambda w: launch.gpus(PLAN[stage, w.version], gathers=not part and bool(PLAN.parts_of(stage, w.version)))
    )


def nodes(value):
    """Return the resource function that applies `value` to a training's number of nodes; None if that is 1."""

    def resource(spec):
        count = launch.processes(spec)[1]
        return value(count) if count > 1 else None

    return of_version("train_adapter", resource)


NODES = {
    # Also for one node: otherwise SLURM might take several GPUs from several nodes.
    "nodes": of_version("train_adapter", lambda spec: launch.processes(spec)[1]),
    "tasks": nodes(lambda count: count),
    "tasks_per_gpu": nodes(lambda count: 0),  # otherwise the SLURM plugin requests `tasks` tasks for each GPU
    "mpi": nodes(lambda count: "srun"),  # so that the plugin leaves srun to the command itself
}
