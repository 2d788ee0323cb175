"""What a run will take before it starts: its jobs, and the GPU minutes of those whose like has been measured.

A full run takes what smoke predicts: its own, or that of a run with the same model and precision. Any other job of a
model takes what finished ones with the same settings took, whatever adapter they read. Torch-free.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from dreamtune.config import Config, parse_config
from dreamtune.digests import digest
from dreamtune.errors import UserError
from dreamtune.study.expand import GRID, SEEDS, SIZES, STUDY, TooManyRuns
from dreamtune.study.grid import OF
from dreamtune.study.points import by_method
from dreamtune.workflow.demand import full_run_s, gate_of
from dreamtune.workflow.experiments import Folders, make_plan
from dreamtune.workflow.launch import gpus
from dreamtune.workflow.plan import RESULTS, Plan
from dreamtune.workflow.start import RUN_A_MODEL
from dreamtune.workflow.verification import MANIFEST, read_manifest

Spec = Mapping[str, Any]
READ = 200  # manifests that are read of each stage
MEASURED = 3  # finished versions of one kind whose times are averaged


@dataclass(frozen=True)
class Cost:
    """What jobs will take.

    Attributes:
        jobs: their number.
        model_jobs: those of them that run a model, which take nearly all of the time.
        known: those of the latter whose time is known.
        minutes: of the known ones together, times the GPUs of each.
        gpu: whether any of them may take a GPU.
    """

    jobs: int
    model_jobs: int
    known: int
    minutes: float
    gpu: bool

    def sentence(self) -> str:
        """Return the cost in words.

        >>> print(Cost(jobs=60, model_jobs=40, known=30, minutes=123.4, gpu=True).sentence())
        60 jobs, 40 of which run the model; 30 of these take about 123 GPU minutes, the others are unknown until one of their kind has run
        """  # noqa: E501
        unit, said = "GPU minutes" if self.gpu else "minutes", f"{self.jobs:,} jobs, {self.model_jobs:,} of which run"
        if not self.model_jobs:
            return f"{self.jobs:,} jobs, none of which runs the model"
        if not self.known:
            return f"{said} the model; how many {unit} they take is unknown before a smoke run"
        if self.known == self.model_jobs:
            return f"{said} the model, which takes about {_amount(self.minutes)} {unit}"
        return (
            f"{said} the model; {self.known:,} of these take about {_amount(self.minutes)} {unit}, the others are "
            "unknown until one of their kind has run"
        )


class Prices:
    """The seconds of jobs, by what the newest finished versions in `results/` took."""

    def __init__(self) -> None:
        self.finished: dict[str, list[dict[str, Any]]] = defaultdict(list)  # manifests by kind
        for stage in RUN_A_MODEL:
            for path in _newest((RESULTS / stage).glob(f"*/{MANIFEST}")):
                with suppress(OSError, KeyError, UserError):
                    record = read_manifest(path.parent)
                    self.finished[_kind(record)].append(record)

    def seconds(self, spec: Spec) -> float | None:
        """Return the seconds that a version's job takes; None if they are unknown."""
        gate = gate_of(spec)
        if gate is None:
            times = [float(record["wall_s"]) for record in self.finished.get(_kind(spec), [])[:MEASURED]]
            return mean(times) if times else None
        own = [gate] if (Path(gate) / MANIFEST).exists() else []
        alike = self.finished.get(_kind(spec, run="smoke"), [])[:1]
        for smoke in [*own, *(f"{RESULTS}/{record['stage']}/{record['version']}" for record in alike)]:
            with suppress(OSError, KeyError, UserError, ZeroDivisionError):
                return full_run_s(dict(spec), smoke)
        return None


def runs_in_words(config: Config) -> str:
    """Return how many runs and methods a configuration has, and what its data sizes have in common."""
    runs, methods = len(config.experiments), len(by_method(config.points.values()))
    said = f"{runs:,} run{'s' if runs > 1 else ''}" + (f" of {methods:,} methods" if methods < runs else "")
    sized = [config.experiments[name].train for name, point in config.points.items() if point.data_size is not None]
    return said + (f", data sizes at equal {'steps' if sized[0].epochs_of == 'all' else 'epochs'}" if sized else "")


def cost_of(specs: Iterable[Spec], jobs: int) -> Cost:
    """Return what the jobs of these versions will take.

    Args:
        specs: of the versions that are to be made.
        jobs: number of jobs, those that make no version or parts of one included.
    """
    prices, models = Prices(), [spec for spec in specs if spec["stage"] in RUN_A_MODEL]
    each = [(prices.seconds(spec), gpus(spec)) for spec in models]
    minutes = sum(seconds / 60 * max(count, 1) for seconds, count in each if seconds is not None)
    known = sum(seconds is not None for seconds, _ in each)
    return Cost(jobs, len(models), known, minutes, any(count for _, count in each))


def too_many_runs(error: TooManyRuns, raw: Mapping[str, Any]) -> str:
    """Return one line on a study that is too large: its runs, their (GPU) hours if they are known, and what to do.

    Of each experiment one run is planned, and its time is taken for all.

    Args:
        error: with the number of runs by experiment.
        raw: the configuration.
    """
    hours, unit = None, "GPU hours"
    with suppress(UserError):
        config = parse_config(first_points(raw))
        plan, latest = make_plan(config)
        hours = _hours(error.runs, config, plan, latest)
        unit = "GPU hours" if any(map(gpus, plan.values())) else "hours"
    said = f"their {unit} are unknown before a smoke run" if hours is None else f"about {_amount(hours)} {unit}"
    return f"{error}; {said}; make it smaller, or set study.max_points to {sum(error.runs.values())}"


def first_points(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with one run of each experiment: the first point of its grid.

    >>> first_points({"grid": {"of": ["a"], "train.epochs": [3, 9]}, "seeds": 3, "experiments": {"a": {}}})
    {'grid': {'of': ['a'], 'train.epochs': [3]}, 'experiments': {'a': {}}}
    """
    kept = {name: value for name, value in raw.items() if name not in (SEEDS, SIZES, STUDY)}
    if grids := kept.get(GRID):
        one = grids[0] if isinstance(grids, list) else grids
        kept[GRID] = {name: values if name == OF else values[:1] for name, values in one.items()}
    return kept


def _hours(runs: Mapping[str, int], config: Config, plan: Plan, latest: Mapping[str, Folders]) -> float | None:
    """Return the GPU hours of so many runs of each experiment; None if those of a full run are unknown."""
    prices, total = Prices(), 0.0
    for name, point in config.points.items():
        folders = {key: folder for key, folder in latest[name].items() if _of_one_run(key)}
        for key, folder in folders.items():
            spec = plan[folder.parent.name, folder.name]
            seconds = prices.seconds(spec) if spec["stage"] in RUN_A_MODEL else 0.0
            if seconds is None and key == "full":
                return None
            total += runs[point.experiment] * (seconds or 0.0) / 3600 * max(gpus(spec), 1)
    return total


def _newest(paths: Iterable[Path]) -> list[Path]:
    """Return the most recently written of these files, the newest first; one that vanishes meanwhile is left out."""
    times = []
    for path in paths:
        with suppress(OSError):
            times.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(times, reverse=True)[:READ]]


def _of_one_run(key: str) -> bool:
    """Return whether a version belongs to one run alone: the base's answers are shared by all."""
    return key in ("smoke", "full", "likelihood") or (key.startswith("answers/") and key.endswith("tuned"))


def _kind(spec: Spec, run: str | None = None) -> str:
    """Return what jobs of one length have in common: stage, settings but those of training, and inputs.

    Args:
        run: "smoke" or "full" in place of the training's own.
    """
    settings = {name: value for name, value in spec["settings"].items() if name != "train"}
    settings |= {"run": run} if run else {}
    train = spec["settings"].get("train", {})
    alike = {name: train.get(name) for name in ("finetuning", "products", "complementary")}
    return digest([spec["stage"], settings, alike, spec["inputs"], "adapter" in spec["reads"]])


def _amount(value: float) -> str:
    """Return an amount of time in at most three digits or whole numbers.

    >>> _amount(0.123), _amount(7.26), _amount(1234.5)
    ('0.12', '7.3', '1,234')
    """
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"
