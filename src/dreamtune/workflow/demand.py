"""What a job asks a batch system for: minutes and host memory. Torch-free: the Snakefile calls it at submission.

The full run asks for what smoke measured, times `cluster.margin`. The other stages have nothing to go by, so they ask
for what Dream 7B on a few thousand rows stays well within. A second attempt asks for twice as much, a third for three
times; nothing asks for more than `cluster.max_minutes` and `cluster.max_mem_gb`.
"""

import json
import math
from typing import Any

from dreamtune.prediction import slowdown, training_tokens
from dreamtune.settings.cluster import ClusterConfig
from dreamtune.settings.train import TrainConfig

USUAL: dict[str, tuple[int, int]] = {  # of a stage's first attempt: minutes, GB
    "prepare_shards": (60, 8),
    "audit_contamination": (20, 8),
    "train_adapter": (60, 32),
    "generate_answers": (720, 32),
    "evaluate_likelihood": (240, 32),
    "score_answers": (20, 4),
    "render_report": (20, 4),
    "merge_adapter": (60, 32),
}
# Around the script that smoke measured stand two Snakemake processes, which read the plan and start it.
AROUND_MINUTES, AROUND_GB = 2, 0.5


def minutes(spec: dict[str, Any], attempt: int) -> int:
    """Return the time limit in minutes.

    Args:
        spec: of the job's version, as planned.
        attempt: 1 for the first.

    Raises:
        FileNotFoundError: smoke is not finished; Snakemake asks again when it is.
    """
    cluster, gate = _cluster(spec), spec["order_only"].get("gate")
    first = cluster.margin * _full_run_s(spec, gate) / 60 + AROUND_MINUTES if gate else USUAL[spec["stage"]][0]
    return min(math.ceil(attempt * first), cluster.max_minutes)


def memory_mb(spec: dict[str, Any], attempt: int) -> int:
    """Return the host memory in MB, on each node; arguments and errors as for `minutes`."""
    cluster, gate = _cluster(spec), spec["order_only"].get("gate")
    first: float = USUAL[spec["stage"]][1]
    if spec["stage"] == "train_adapter":  # what smoke measures is one process's, and the request is for a node
        train = _train(spec)
        if gate:
            first = cluster.margin * _smoke(gate)[0]["host_memory_gib"] * train.gpus + AROUND_GB
        else:  # a checkpoint of all weights is gathered in the memory of one process: 12 bytes a weight
            first = first * train.gpus if train.finetuning == "lora" else cluster.max_mem_gb
    return math.ceil(1024 * min(attempt * first, cluster.max_mem_gb))


def _full_run_s(spec: dict[str, Any], gate: str) -> float:
    """Predict the full run from smoke's rates: its start, its steps and its validations, in seconds."""
    smoke, wall_s = _smoke(gate)
    train = _train(spec)
    processes = train.gpus * train.nodes
    split = _read(f"{spec['reads']['shards']}/shards.json")["splits"]["train"]
    tokens = training_tokens(train, split["rows"], split["tokens"] / split["rows"])
    steps = math.ceil(tokens / smoke["tokens"] * smoke["steps"])
    validations = 2 + (steps // train.validate_every if train.validate_every else train.epochs)
    steps_s = tokens * smoke["seconds_per_token"] * slowdown(smoke, processes)
    each_s = smoke["validation_s"] / max(len(smoke["validation"]), 1) * smoke["processes"] / processes
    return wall_s - smoke["fit_s"] + steps_s + validations * each_s


def _smoke(gate: str) -> tuple[dict[str, Any], float]:
    """Return smoke's training.json, and its wall time from the start of its process, in seconds."""
    wall_s = _read(f"{gate}/manifest.json")["wall_s"]  # first: the job's input, whose absence Snakemake understands
    return _read(f"{gate}/training.json"), wall_s


def _train(spec: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(spec["settings"]["train"] | spec["runtime"]["train"])


def _cluster(spec: dict[str, Any]) -> ClusterConfig:
    return ClusterConfig.model_validate(spec["cluster"])


def _read(path: str) -> Any:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123, its error then names the path as Snakemake knows it
        return json.load(file)
