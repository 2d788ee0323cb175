"""The time limit and host memory that a job requests from a batch system. Torch-free: the Snakefile calls this module.

The full run requests the time and memory predicted from smoke's measurements, times `cluster.margin`. Other stages
have no measurements and request amounts that suffice for Dream 7B on a few thousand rows. The second attempt requests
twice as much, the third three times; no request exceeds `cluster.max_minutes` and `cluster.max_mem_gb`.
"""

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamtune.device.usage import AROUND_GIB
from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.formats.halving import rung_of
from dreamtune.formats.training import TRAINING_FILE
from dreamtune.prediction import slowdown, training_tokens
from dreamtune.settings.cluster import ClusterConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.workflow.verification import MANIFEST, verify

USUAL: dict[str, tuple[int, int]] = {  # minutes and GB that a stage's first attempt requests
    "prepare_shards": (60, 8),
    "audit_contamination": (20, 8),
    "audit_references": (20, 4),
    "train_adapter": (60, 32),
    "generate_answers": (720, 32),
    "evaluate_likelihood": (240, 32),
    "score_answers": (20, 4),
    "render_report": (20, 4),
    "study": (20, 4),
    "confirm": (20, 4),
    "merge_adapter": (60, 32),
}
# Added to the predictions: in the job, two Snakemake processes stand around the script, which alone smoke measured.
AROUND_MINUTES = 2


def minutes(spec: dict[str, Any], attempt: int) -> int:
    """Return the time limit of a job in minutes.

    If a full run is predicted to take 4,940 s and `cluster.margin` is 2, its first attempt requests
    2 * 4,940 / 60 + 2 minutes, rounded up to 167.

    Args:
        spec: frozen specification of the job's version.
        attempt: number of the attempt, from 1.

    Raises:
        FileNotFoundError: the smoke run is not finished; Snakemake calls again when it is.
        UserError: a file of the smoke run or of the shards is not what its manifest says.
    """
    cluster, gate = _cluster(spec), gate_of(spec)
    first = cluster.margin * full_run_s(spec, gate) / 60 + AROUND_MINUTES if gate else USUAL[spec["stage"]][0]
    return min(math.ceil(attempt * first), cluster.max_minutes)


def memory_mb(spec: dict[str, Any], attempt: int) -> int:
    """Return the host memory of a job in MB per node.

    Args:
        spec: frozen specification of the job's version.
        attempt: number of the attempt, from 1.

    Raises:
        FileNotFoundError: the smoke run is not finished; Snakemake calls again when it is.
        UserError: a file of the smoke run or of the shards is not what its manifest says.
    """
    cluster, gate = _cluster(spec), gate_of(spec)
    first: float = USUAL[spec["stage"]][1]
    if spec["stage"] == "train_adapter":  # smoke measures the memory of one process, and the request is for a node
        train = _train(spec)
        if gate:
            first = cluster.margin * _smoke(gate)[0]["host_memory_gib"] * train.gpus + AROUND_GIB
        else:  # full fine-tuning gathers a checkpoint in the memory of one process: 12 bytes per weight
            first = first * train.gpus if train.finetuning == "lora" else cluster.max_mem_gb
    return math.ceil(1024 * min(attempt * first, cluster.max_mem_gb))


def demand(spec: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the memory in MB and the minutes of a job's first attempt, to be told; None where they are not known.

    A finished job asks, whose result must not be lost because smoke's files, from which they follow, are gone.
    """
    try:
        return memory_mb(spec, attempt=1), minutes(spec, attempt=1)
    except (OSError, KeyError, UserError):
        return None, None


def check_measured(specs: Iterable[dict[str, Any]]) -> None:
    """Check the files from which the time of each training is predicted, where its smoke run is finished.

    Raises:
        UserError: one of these files is not what its manifest says.
    """
    for spec in specs:
        with suppress(FileNotFoundError):
            minutes(spec, attempt=1)


def full_run_s(spec: dict[str, Any], gate: str) -> float:
    """Return the predicted time of a full run in seconds: smoke's start, then steps and validations at its rates.

    Of a run that is cut into rungs, it is the time of this rung.

    Args:
        spec: frozen specification of the full run.
        gate: folder of the smoke run whose rates are taken: its own, or another of the same model.

    Smoke took 760 s, of which 700 s in its training loop, at 0.6 s per token and 20 s per validation: a full run of
    8,000 tokens and four validations is predicted to take 60 + 8,000 * 0.6 + 4 * 20 = 4,940 s.
    """
    smoke, wall_s = _smoke(gate)
    train = _train(spec)
    processes = train.gpus * train.nodes
    split = _verified(spec["reads"]["shards"], "shards.json")[1]["splits"]["train"]
    tokens = training_tokens(train, split["rows"], split["tokens"] / split["rows"])
    steps = math.ceil(tokens / smoke["tokens"] * smoke["steps"])
    validations = 2 + (steps // train.validate_every if train.validate_every else train.epochs)
    steps_s = tokens * smoke["seconds_per_token"] * slowdown(smoke, processes)
    rung = rung_of(spec)
    share = rung.until - rung.start
    each_s = smoke["validation_s"] / max(len(smoke["validation"]), 1) * smoke["processes"] / processes
    return wall_s - smoke["fit_s"] + share * steps_s + (1 + share * (validations - 1)) * each_s


def _smoke(gate: str) -> tuple[dict[str, Any], float]:
    """Return smoke's training.json, and the wall time of its process in seconds."""
    manifest, training = _verified(gate, TRAINING_FILE)
    return training, manifest["wall_s"]


def gate_of(spec: Mapping[str, Any]) -> str | None:
    """Return smoke's folder if the version is a full run; it reads the folder, or only waits for it."""
    gate: str | None = spec["order_only"].get("gate") or spec.get("reads", {}).get("gate")
    return gate


def _train(spec: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(spec["settings"]["train"] | spec["runtime"]["train"])


def _cluster(spec: dict[str, Any]) -> ClusterConfig:
    return ClusterConfig.model_validate(spec["cluster"])


def _verified(folder: str, file: str) -> tuple[dict[str, Any], Any]:
    """Return the manifest of a finished version, and the content of one of its JSON files."""
    os.stat(f"{folder}/{MANIFEST}")  # noqa: PTH116, its error names the path as Snakemake spells it, which then waits
    return verify(Path(folder), file), read_json(Path(folder) / file)
