"""How an experiment is made of stages: the graph that the Snakefile runs."""

from pathlib import Path
from typing import Any

from dreamtune.config import Config, Experiment
from dreamtune.plan import RESULTS, Plan
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.generate import GenerateConfig
from dreamtune.sources import HUB, resolve_files
from dreamtune.versions import FileDigests

Folders = dict[str, Path]


def make_plan(config: Config) -> tuple[Plan, dict[str, Folders]]:
    """Return the plan and, for each experiment, its newest version folders by name.

    Raises UserError where an input file or model folder does not exist.
    """
    plan, digests = Plan(), FileDigests(RESULTS / ".digests.json")
    latest = {name: _plan_experiment(plan, digests, name, e) for name, e in config.experiments.items()}
    digests.save()
    return plan, latest


def _plan_experiment(plan: Plan, digests: FileDigests, name: str, e: Experiment) -> Folders:
    base_model = digests.of_model(e.model.path, e.model.revision)
    shards = plan.add(
        "prepare_shards",
        {"data": e.data},
        {"data": _data(digests, e.data.files), "tokenizer": digests.of_tokenizer(e.model.path, e.model.revision)},
        unhashed={"model": e.model},
    )
    training: dict[str, Any] = {"inputs": {"model": base_model}, "reads": {"shards": shards}}
    full_train = e.full.applied_to(e.train)
    smoke_train = e.smoke.applied_to(e.train)
    # What smoke predicts of the full run is beside its result, so the full run's settings do not re-run it.
    smoke = plan.add(
        "train_adapter", {"train": smoke_train, "model": e.model}, **training, unhashed={"full": full_train}
    )
    full = plan.add("train_adapter", {"train": full_train, "model": e.model}, **training, order_only={"gate": smoke})
    likelihood = plan.add(
        "evaluate_likelihood",
        {"likelihood": e.evaluate.likelihood, "model": e.model},
        {"model": base_model},
        {"shards": shards, "adapter": full},
    )
    folders = {"shards": shards, "smoke": smoke, "full": full, "likelihood": likelihood}
    for questions in [None, *e.evaluate.benchmarks]:
        for setting, generate in e.generate.by_name().items():
            folders |= _plan_answers(plan, digests, e, folders, questions, setting, generate)
        if questions:
            folders[f"contamination/{questions.name}"] = plan.add(
                "audit_contamination",
                {"benchmark": questions},
                {"questions": _data(digests, questions.files)},
                {"shards": shards},
                names={"ngram": e.data.ngram},
            )
    report = plan.add(
        "render_report",
        {"report": e.report, "comparison": e.evaluate.comparison},
        reads=folders,
        names={"experiment": name},
    )
    return folders | {"report": report}


def _plan_answers(
    plan: Plan,
    digests: FileDigests,
    e: Experiment,
    folders: Folders,
    questions: Benchmark | None,
    setting: str,
    generate: GenerateConfig,
) -> Folders:
    """Plan the answers of base and tuned to one set of questions under one setting, and their scores."""
    added: Folders = {}
    for who, adapter in {"base": {}, "tuned": {"adapter": folders["full"]}}.items():
        key = f"{questions.name if questions else 'test'}/{setting}/{who}"
        inputs: dict[str, Any] = {"model": digests.of_model(e.model.path, e.model.revision)}
        sections: dict[str, Any] = {"generate": generate, "model": e.model}
        if questions:
            inputs["questions"] = _data(digests, questions.files)
            sections["benchmark"] = questions
        answers = plan.add("generate_answers", sections, inputs, {"shards": folders["shards"], **adapter})
        added[f"answers/{key}"] = answers
        added[f"scores/{key}"] = plan.add("score_answers", {"score": e.score}, reads={"answers": answers})
    return added


def plan_merge(plan: Plan, config: Config, latest: dict[str, Folders]) -> dict[str, Path]:
    """Plan the merged checkpoint of each experiment; it is made only on request."""
    digests = FileDigests(RESULTS / ".digests.json")
    return {
        name: plan.add(
            "merge_adapter",
            {"model": e.model, "likelihood": e.evaluate.likelihood},
            {"model": digests.of_model(e.model.path, e.model.revision)},
            {key: latest[name][key] for key in ("shards", "full", "likelihood")},
        )
        for name, e in config.experiments.items()
    }


def _data(digests: FileDigests, patterns: list[str]) -> list[str]:
    """Return what identifies the files: a pinned hub path itself, or the digest of a local file's content."""
    return [
        identity
        for pattern in patterns
        for identity in ([pattern] if pattern.startswith(HUB) else [digests.of(f) for f in resolve_files([pattern])])
    ]
