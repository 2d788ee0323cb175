"""Plan the stages of each experiment and what each stage reads: the graph of jobs that Snakemake runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dreamtune.config import Config, Experiment
from dreamtune.data.template import prompt_lines
from dreamtune.errors import TooFewToChoose, UserError
from dreamtune.files import read_json
from dreamtune.formats.halving import DECIDED
from dreamtune.formats.names import BASE, FEW_SHOT_BASE, FEW_SHOT_TUNED, HEADLINE, TUNED, gives_verdict
from dreamtune.settings.base import Section
from dreamtune.settings.benchmark import Benchmark
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.rate import FIND
from dreamtune.settings.report import Comparison
from dreamtune.settings.score import ScoreConfig
from dreamtune.settings.study import FEWEST_QUESTIONS
from dreamtune.study.ended import Ended, finished_points
from dreamtune.workflow.canvases import note_canvases
from dreamtune.workflow.columns import check_columns
from dreamtune.workflow.models import check_models
from dreamtune.workflow.plan import Plan
from dreamtune.workflow.verification import verify

Folders = dict[str, Path]
COMPARED = ("smoke", "full", "likelihood", "answers/", "scores/test/greedy/")  # folders of a run that a study reads
READ_FILES = ("prepare_shards", "generate_answers", "audit_contamination")  # the stages that read parquet files
TAILS = {"max_tail", "long_tail", "long_tail_share", "padding_tokens"}  # what the likelihood takes from `train`


def make_plan(config: Config) -> tuple[Plan, dict[str, Folders]]:
    """Plan all experiments of a configuration.

    Returns:
        The plan; and for each experiment its version folders, by names such as "full" or "scores/test/greedy/tuned".

    Raises:
        UserError: an input file or a model folder does not exist, an input from the hub is not pinned, a model that is
            on this machine cannot be used, or a parquet file that is still to be read lacks a column.
    """
    check_models(config)
    plan = Plan()
    latest = {name: _plan_experiment(plan.under(e.cluster), name, e) for name, e in config.experiments.items()}
    note_canvases(plan, config, latest)
    plan.digests.save()
    check_columns(plan.todo(READ_FILES))
    return plan, latest


def _plan_experiment(plan: Plan, name: str, e: Experiment) -> Folders:
    # The shards depend on the benchmarks only if contaminated rows are dropped: under `keep`, another benchmark neither
    # makes the shards again nor trains again.
    against = e.evaluate.benchmarks if e.data.contaminated == "drop" else []
    avoided: dict[str, Section] = {f"benchmark/{benchmark.name}": benchmark for benchmark in against}
    shards = plan.add(
        "prepare_shards",
        {"data": e.data, **avoided},
        ("data", "tokenizer", *(["chat_template"] if e.data.chat_template else []), *avoided),
        unhashed={"model": e.model},
        names={"mask_token": e.model.mask_token, **_chat_names(e)},
    )
    # Before anybody trains; order only, so that an edit of the grader trains nothing again.
    references = plan.add("audit_references", {"score": _score(e)}, reads={"shards": shards})
    smoke = plan_training(plan, e, "smoke", shards, {"references": references})
    full = plan_training(plan, e, "full", shards, {"gate": smoke})
    likelihood = plan.add(
        "evaluate_likelihood",
        {"likelihood": e.evaluate.likelihood, "model": e.model},
        ("model",),
        {"shards": shards, "adapter": full},
        names={"tails": e.train.model_dump(include=TAILS)},
    )
    folders = {"shards": shards, "references": references, "smoke": smoke, "full": full, "likelihood": likelihood}
    for questions in [None, *e.evaluate.benchmarks]:
        for setting, generate in e.generations().items():
            folders |= _plan_answers(plan, e, folders, questions, setting, generate)
        if questions:
            folders[f"contamination/{questions.name}"] = plan.add(
                "audit_contamination",
                {"benchmark": questions},
                ("questions", "tokenizer"),
                {"shards": shards},
                unhashed={"model": e.model},
                names={"ngram": e.data.ngram},
            )
    report = plan.add(
        "render_report",
        {"report": e.report, "comparison": e.comparison},
        ("card",),
        folders,
        unhashed={"model": e.model},
        names={"experiment": name},
    )
    return folders | {"report": report}


def _chat_names(e: Experiment) -> dict[str, str | None]:
    """Return what else decides how a chat template renders data; {} for data without one."""
    if e.data.turns is None:
        return {}
    return {"family": e.model.family} | ({"graded": e.graded} if e.data.conversations else {})


def _score(e: Experiment) -> ScoreConfig:
    """Return the settings of grading, with the template's own texts where the configuration names none."""
    if e.score.stop_texts is not None:
        return e.score
    lines = [] if e.data.conversations else prompt_lines(e.data.layout.template)
    return e.score.model_copy(update={"stop_texts": lines})


def plan_training(
    plan: Plan, e: Experiment, run: str, shards: Path, before: Folders, until: float | None = None
) -> Path:
    """Plan the run `smoke` or `full` of a training, or a `rung` of the latter; return its version folder.

    The run's name is hashed: with equal settings, smoke and full would otherwise be one version and its own gate.

    Args:
        plan: receives the version.
        e: the experiment.
        run: which run.
        shards: version folder of its data.
        before: version folders that must be finished before, by name.
        until: for a rung, the share of the full run's steps after which it ends.
    """
    overrides = e.smoke if run == "smoke" else e.full
    ahead: dict[str, Section] = {"full": e.full.applied_to(e.train)} if run == "smoke" else {}
    takes_rate = run != "smoke" and e.train.learning_rate == FIND  # full then depends on smoke, which finds it
    return plan.add(
        "train_adapter",
        {"train": overrides.applied_to(e.train), "model": e.model},
        ("model",),
        {"shards": shards} | (before if takes_rate else {}),
        order_only={} if takes_rate else before,
        unhashed=ahead,  # smoke runs as the full run will
        names={"run": run} | ({} if until is None else {"rung": {"until": until}}),
    )


def _plan_answers(
    plan: Plan, e: Experiment, folders: Folders, questions: Benchmark | None, setting: str, generate: GenerateConfig
) -> Folders:
    """Plan the answers of base and tuned to one set of questions under one generation setting, and their scores.

    Where a verdict is given, those with worked examples are planned, too, if the experiment asks for them. `questions`
    is None for the test split. Return the version folders by name.
    """
    added: Folders = {}
    sections: dict[str, Section] = {"generate": generate, "model": e.model}
    inputs: tuple[str, ...] = ("model",)
    if questions:  # the user's own prompts are answered beside the test split only
        sections |= {"generate": generate.model_copy(update={"prompts": []}), "benchmark": questions}
        inputs = ("model", "questions")
    adapter = {"adapter": folders["full"]}
    asked: dict[str, tuple[dict[str, Section], Folders]] = {BASE: (sections, {}), TUNED: (sections, adapter)}
    if (worked := e.evaluate.worked) and gives_verdict(setting):
        few_shot = {**sections, "generate": generate.model_copy(update={"prompts": []}), "few_shot": worked}
        asked |= {FEW_SHOT_BASE: (few_shot, {})}
        asked |= {FEW_SHOT_TUNED: (few_shot, adapter)} if e.evaluate.few_shot_tuned else {}
    for who, (given, trained) in asked.items():
        key = f"{questions.name if questions else 'test'}/{setting}/{who}"
        answers = plan.add("generate_answers", given, inputs, {"shards": folders["shards"], **trained})
        added[f"answers/{key}"] = answers
        added[f"scores/{key}"] = plan.add("score_answers", {"score": _score(e)}, reads={"answers": answers})
    return added


def plan_merge(plan: Plan, config: Config, latest: dict[str, Folders]) -> dict[str, Path]:
    """Plan the merge (or export) of each experiment that trains an adapter; return the version folders by experiment.

    The default target does not ask for them: `snakemake merge` makes them.
    """
    return {
        name: plan.under(e.cluster).add(
            "merge_adapter",
            {"model": e.model, "likelihood": e.evaluate.likelihood, "merge": e.merge},
            ("model",),
            {key: latest[name][key] for key in ("shards", "full", "likelihood")},
        )
        for name, e in config.experiments.items()
        if e.train.finetuning == "lora" and "full" in latest[name]  # not in those of a run that ended before
    }


def is_study(config: Config) -> bool:
    """Return whether a configuration is a study: it multiplies its experiments, or says how they are compared."""
    multiplied = len(config.points) > len({point.experiment for point in config.points.values()})
    return multiplied or bool(config.study.model_fields_set - {"max_points", "failed"})


def plan_study(
    plan: Plan,
    config: Config,
    latest: dict[str, Folders],
    ended: Sequence[Ended] = (),
    decisions: Mapping[str, Path] | None = None,
) -> list[Path]:
    """Plan the comparison of all runs; return its version folders: of `study`, and of `confirm` where the best method
    is chosen on validation answers. A configuration that is no study has none.

    A version hashes the versions that it reads, the runs, the ended ones with their reasons, the family and the rule;
    so it is made again when a point is added, and the reports are not. Who wins is known only to the job of `confirm`,
    which reads all candidates.

    Args:
        latest: the version folders of each run, from `make_plan`; those of its validation answers are added, so that
            they are published, and kept by `make prune`.
        ended: the runs that ended without a report, of which nothing is read; see `endings.runs.leave_out_ended`.
        decisions: version folders of the last decisions on each halved grid, from `rungs.plan.plan_halving`; the jobs
            read who was stopped, and leave their versions out.

    Raises:
        UserError: the runs are compared by different rules, or are to be chosen by the NLL on validation answers, or
            all of them ended.
    """
    if not is_study(config):
        return []
    comparison = _common_rule(config)
    gone = {one.name: one.as_json() for one in ended}
    if len(gone) == len(config.points):
        finished_points(list(config.points.values()), ended)
    read = {
        f"{name}/{key}": folder
        for name, folders in latest.items()
        for key, folder in folders.items()
        if key.startswith(COMPARED) and name not in gone
    }
    read |= {f"{DECIDED}{grid}": folder for grid, folder in (decisions or {}).items()}
    points = {"points": [point.as_json() for point in config.points.values()], "ended": list(gone.values())}
    sections: dict[str, Section] = {"study": config.study, "comparison": comparison}
    cluster = next(iter(config.experiments.values())).cluster
    study = plan.under(cluster).add("study", sections, reads=read, names=points)
    if config.study.choose == "test":
        return [study]
    if (config.study.primary or comparison.primary) == "nll":
        raise UserError("study.choose: validation chooses by answers, and the primary measure is nll; set it to test")
    for name, e in ((name, e) for name, e in config.experiments.items() if name not in gone):
        _check_validation(plan, latest[name])
        answered = _plan_validation(plan, e, latest[name])
        latest[name] |= answered
        read |= {f"{name}/{key}": folder for key, folder in answered.items() if key.startswith("scores/")}
    return [study, plan.under(cluster).add("confirm", sections, reads=read, names=points)]


def _common_rule(config: Config) -> Comparison:
    """Return the comparison of all experiments; a UserError if they differ in it."""
    rules = {name: experiment.comparison for name, experiment in config.experiments.items()}
    first = next(iter(rules))
    for name, rule in rules.items():
        primary = {} if config.study.primary is None else {"primary": rules[first].primary}
        if rule.model_copy(update=primary) != rules[first]:
            raise UserError(
                f"study: {first} and {name} differ in evaluate.primary, alpha, resamples or seed; runs that are "
                "compared need the same (or set study.primary)"
            )
    return rules[first]


def _check_validation(plan: Plan, folders: Folders) -> None:
    """Check that there are validation questions enough to choose by, as far as it is known; else the audit will do so.

    Raises:
        TooFewToChoose: there are fewer.
    """
    audit = folders["references"]
    plan[audit.parent.name, audit.name]["fewest_validation"] = FEWEST_QUESTIONS  # not hashed
    for folder, file, of in ((audit, "references.json", "gradable"), (folders["shards"], "shards.json", "rows")):
        if (folder / "manifest.json").exists():
            verify(folder, file)
            content = read_json(folder / file)
            there = content.get("splits", content).get("validation", {}).get(of, 0)
            if there < FEWEST_QUESTIONS:
                raise TooFewToChoose(FEWEST_QUESTIONS, f"{there} can be" if folder == audit else f"there are {there}")


def _plan_validation(plan: Plan, e: Experiment, folders: Folders) -> Folders:
    """Plan the tuned model's answers to the validation split and their scores; return the version folders by name."""
    headline = e.generations()[HEADLINE].model_copy(update={"prompts": []})
    if headline.max_prompts is not None and headline.max_prompts < FEWEST_QUESTIONS:
        raise UserError(
            f"study.choose: validation takes at least {FEWEST_QUESTIONS} validation questions, and "
            f"generate.max_prompts is {headline.max_prompts}; raise it, or set study.choose: test"
        )
    answers = plan.under(e.cluster).add(
        "generate_answers",
        {"generate": headline, "model": e.model},
        ("model",),
        {"shards": folders["shards"], "adapter": folders["full"]},
        names={"split": "validation"},
    )
    key = f"validation/{HEADLINE}/{TUNED}"
    scores = plan.add("score_answers", {"score": _score(e)}, reads={"answers": answers})
    return {f"answers/{key}": answers, f"scores/{key}": scores}
