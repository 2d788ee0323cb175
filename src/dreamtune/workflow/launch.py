"""How a job is started: the command of a training, its processes, GPUs and nodes, and the message of each job.

Functions take a version's specification, as the plan has it; workflow/rules/common.smk binds them to Snakemake's
wildcards. Torch-free.
"""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from dreamtune.device.usage import ASKED
from dreamtune.errors import UserError
from dreamtune.workflow.code import ROOT
from dreamtune.workflow.start import RUN_A_MODEL

Spec = Mapping[str, Any]
PORTS = range(20_000, 32_000)  # below the ports that Linux gives to outgoing connections


def scripts() -> str:
    """Return the folder of the stages' scripts for a shell command: relative if Snakemake works in the project."""
    folder = Path("workflow", "scripts")
    return str(folder) if Path.cwd().resolve() == ROOT else shlex.quote(str(ROOT / folder))


def own_environment() -> str:
    """Return the shell command that puts Snakemake's own Python first on PATH, for jobs that run without an image.

    The path is resolved: when `.venv` is later pointed at another environment, a running job keeps its packages.
    """
    return f"export PATH={shlex.quote(str(Path(sys.executable).parent.resolve()))}:$PATH"


def tell_asked(resources: Mapping[str, Any]) -> str:
    """Return the shell command that tells a script what its job asks for; see `dreamtune.device.usage`.

    Resources that are not known, as those of the full run before smoke is finished, are left out.

    >>> tell_asked({"mem_mb": 4096, "runtime": 20, "cpus_per_task": 2, "_cores": 1, "gpu": 1})
    "export DREAMTUNE_ASKED='mem_mb=4096 runtime=20 cpus=2'; "
    """
    asked = {"mem_mb": resources.get("mem_mb"), "runtime": resources.get("runtime")}
    asked["cpus"] = resources.get("cpus_per_task") or resources.get("_cores")
    told = " ".join(f"{name}={value}" for name, value in asked.items() if isinstance(value, int))
    return f"export {ASKED}='{told}'; "


def processes(spec: Spec) -> tuple[int, int]:
    """Return a training's processes on each node (one for each GPU, where there are GPUs) and its number of nodes."""
    train = spec["runtime"]["train"]
    return train["gpus"], train["nodes"]


def gpus(spec: Spec, gathers: bool = False) -> int:
    """Return the number of GPUs that a job of this version takes, on all nodes together; 0 if it runs no model.

    Args:
        gathers: whether the job only joins the parts that other jobs made, and so loads no model.
    """
    if spec["stage"] not in RUN_A_MODEL or gathers or spec["runtime"]["model"]["device"] == "cpu":
        return 0
    return prod(processes(spec)) if spec["stage"] == "train_adapter" else 1


def check_gpus(trainings: Iterable[Spec], offered: int | None) -> None:
    """Check that no training takes more GPUs than the run offers; Snakemake would start it and count fewer.

    Args:
        trainings: specifications of the trainings that will run.
        offered: the run's `gpu` resource; None if there is no limit, as on a cluster.

    Raises:
        UserError: a training takes more.
    """
    for spec in trainings:
        count, nodes = processes(spec)
        if offered is not None and gpus(spec) > max(offered, 1):
            raise UserError(
                f"a training takes {gpus(spec)} GPUs (train.gpus is {count}, train.nodes {nodes}) and this run offers "
                f"gpu={offered}; call with --resources gpu={gpus(spec)}, or lower train.gpus"
            )


def most_nodes(specs: Iterable[Spec]) -> int:
    """Return the largest number of nodes that a training among the versions takes; 1 if there is no training."""
    return max((processes(spec)[1] for spec in specs if spec["stage"] == "train_adapter"), default=1)


def training_command(spec: Spec, scripts: str, in_image: str = "") -> str:
    """Return the command that runs a training script: python3, or torchrun for several processes.

    On several nodes, srun starts one torchrun on each, and these find each other at a port of the job's first node.

    >>> train = {"gpus": 2, "nodes": 1}
    >>> training_command({"version": "0123456789ab", "runtime": {"train": train}}, "workflow/scripts")
    'python3 workflow/scripts/torchrun.py --nproc-per-node 2 --standalone'

    Args:
        scripts: folder of the scripts, as `scripts` returns it.
        in_image: command that enters the image on a node, because srun itself runs outside of it; "" without an image.
    """
    count, nodes = processes(spec)
    torchrun = f"python3 {scripts}/torchrun.py --nproc-per-node {count}"
    if nodes > 1:
        meeting = f"$(hostname):{PORTS[int(spec['version'], 16) % len(PORTS)]}"
        srun = f"srun --nodes {nodes} --ntasks {nodes} --ntasks-per-node 1 --cpu-bind none --kill-on-bad-exit=1"
        return f"{srun} {in_image}{torchrun} --nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint {meeting}"
    return f"{torchrun} --standalone" if count > 1 else "python3"


def message(spec: Spec, experiments: Sequence[str] = ()) -> str:
    """Return the sentence that Snakemake shows while a version is being made.

    Args:
        experiments: names of the experiments that use the version; the first two are named, the others counted.

    >>> spec = {"stage": "score_answers", "version": "0123456789ab", "settings": {}, "reads": {"answers": "results/…"}}
    >>> message(spec, ["demo", "longer", "longest"])
    'demo, longer and 1 more: grade the answers (score_answers/0123456789ab)'
    """
    settings = spec["settings"]
    held_out = "the validation rows" if settings.get("split") == "validation" else "the held-out rows"
    questions = settings.get("benchmark", {}).get("name", held_out)
    who = "the tuned model" if "adapter" in spec["reads"] else "the base model"
    shots = settings.get("few_shot", {}).get("shots")
    worked = f" and {shots} worked {'example' if shots == 1 else 'examples'}" if shots else ""
    sentence = {
        "prepare_shards": "turn the rows into tokenised shards, and audit them",
        "audit_contamination": f"look for {questions} among the training rows",
        "audit_references": "count the held-out rows whose answers can be graded",
        "train_adapter": f"train, {_until(spec)}",
        "generate_answers": f"answer {questions} with {who}{worked}",
        "evaluate_likelihood": "measure the held-out likelihood of base and tuned",
        "score_answers": "grade the answers",
        "render_report": "write the report",
        "study": "compare the study's methods with each other",
        "halve": "decide which points of the grid go on",
        "confirm": "choose the best method on validation answers, and measure its gain on the test's",
        "merge_adapter": "merge the adapter into its base model",
    }[spec["stage"]]
    named, more = ", ".join(experiments[:2]), len(experiments) - 2
    of = f"{named}{f' and {more} more' if more > 0 else ''}: " if experiments else ""
    return f"{of}{sentence} ({spec['stage']}/{spec['version']})"


def _until(spec: Spec) -> str:
    """Return which run a training is, and of a rung where it ends."""
    rung = spec["settings"].get("rung")
    return f"up to {100 * rung['until']:.3g} % of the full run" if rung else f"{spec['settings'].get('run')} run"
