"""The stage `study`: all methods of a configuration compared, and what may be said of them.

Each method is compared with the base model, and with the study's baseline. The comparisons of the methods that were
named beforehand are the family, with adjusted p; all others are exploratory. The reports keep their raw p.

Runs that ended without a report (see `ended`) are no evidence. Their comparisons stay in the family, and each sentence
about a method that lost a seed says so.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, replace
from math import nan
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.files import finite, write_json
from dreamtune.formats.names import BASE
from dreamtune.formats.study import CSV_FILE, STUDY, STUDY_FILE, TABLE_FILE
from dreamtune.settings.report import Comparison
from dreamtune.settings.study import StudyConfig
from dreamtune.study.choosing import looked_at_all
from dreamtune.study.curves import fit_curve
from dreamtune.study.effects import Effect, contrast, method_effect
from dreamtune.study.ended import Ended, finished_points, lost_by_method
from dreamtune.study.family import judge
from dreamtune.study.grid_effects import GridEffects, grid_effects
from dreamtune.study.measured import Primary, Run, match, read_run, reads_of_run, runs_by_method
from dreamtune.study.points import Point, by_curve, by_grid, by_method, named_methods
from dreamtune.study.steps import course_of
from dreamtune.study.wording import row

FORMAT = 1
RULE = (
    "A method is its seeds: SE² = SE² over questions (or clusters) + SE² over seeds, Student's t with Satterthwaite's "
    "degrees of freedom; p is the larger of t's and of a test over questions. The family is the primary measure by the "
    "named comparisons: its p are adjusted by Holm, and words are at one half of alpha each way. All others are "
    "exploratory. A run that ended without a report is no evidence; comparisons of a method without any finished run "
    "are not tested, and count in the family. Rules and their measured error rates: docs/statistics.md."
)


def run_study(
    study: StudyConfig,
    comparison: Comparison,
    members: Sequence[Point],
    reads: Mapping[str, Path],
    out: Path,
    ended: Sequence[Ended] = (),
) -> dict[str, Any]:
    """Write study.json, study.parquet and study.csv (see `formats.study`); return counts for the manifest.

    Args:
        study: baseline, named comparisons, margin of equivalence.
        comparison: primary measure, level and resamples.
        members: the study's runs, the ended ones among them.
        reads: version folders by "RUN/NAME", with the names of `formats.reads`; none of ended runs.
        out: folder for the files.
        ended: the runs that ended without a report.

    Raises:
        UserError: runs were measured on different questions, or lack the primary measure, or all of them ended.
    """
    primary = study.primary or comparison.primary
    finished = finished_points(members, ended)
    runs = {point.name: read_run(point.name, reads_of_run(reads, point.name), primary) for point in finished}
    methods = runs_by_method(members, runs)
    lost = lost_by_method(members, ended)
    stopped = {one.name for one in ended if one.by == "halving"}
    named = named_methods(study, members)
    baseline = study.baseline
    wanted = [(m, a) for m in methods for a in (BASE, baseline) if a and m != a]
    pairs = [pair for pair in wanted if pair[1] == BASE or _comparable(methods, *pair)]
    pairs.sort(key=lambda pair: pair[0] not in named)
    family = sum(pair[0] in named for pair in pairs)
    finer = comparison.model_copy(update={"resamples": _resamples(comparison, family)})
    effects = {pair: _effect(pair, methods, primary, finer if pair[0] in named else comparison) for pair in pairs}
    margin = study.equivalence_points / 100 if study.equivalence_points and primary == "accuracy" else None
    label = {pair: f"{pair[0]} against {'the base' if pair[1] == BASE else pair[1]}" for pair in wanted}
    judged = judge(
        {label[pair]: effect for pair, effect in effects.items() if pair[0] in named},
        {label[pair]: effect for pair, effect in effects.items() if pair[0] not in named},
        comparison.alpha,
        margin,
    )
    alpha, alone = comparison.alpha, family == 1
    rows = [row(pair, label[pair], judged[label[pair]], primary, alpha, lost, alone) for pair in pairs]
    content = {
        "format": FORMAT,
        "rule": RULE,
        "primary": primary,
        "unit": "share of right answers" if primary == "accuracy" else "nats per response token by which the NLL falls",
        "alpha": comparison.alpha,
        "baseline": baseline,
        "family": [label[pair] for pair in pairs if pair[0] in named],
        "margin": margin,
        "comparisons": rows,
        "not_compared": [label[pair] for pair in wanted if pair not in pairs],  # an exact NLL with a bound
        "choice": _choice(effects, methods, primary, comparison.alpha)
        if study.choose == "test"
        else None,  # else: `confirm`
        "curves": _curves(members, runs, primary, comparison.alpha, stopped),
        "steps": _courses(members, reads, runs, comparison.alpha, stopped),
        "grids": _grids(members, runs, primary, comparison.alpha, stopped),
        "methods": {
            name: {"runs": [run.name for run in found], "invalid": {r.name: r.fault for r in found if r.fault}}
            | {"lost": lost.get(name)}
            for name, found in methods.items()
        },
        "ended": [one.as_json() for one in ended],
    }
    write_json(out / STUDY_FILE, finite(content))
    table = pl.DataFrame(finite(rows), schema=STUDY)
    table.write_parquet(out / TABLE_FILE)
    table.write_csv(out / CSV_FILE)
    words = pl.Series([one["word"] for one in rows], dtype=pl.String).value_counts().sort("")
    return {"runs": len(runs), "ended": len(ended), "methods": len(methods), "words": dict(words.iter_rows())}


def _comparable(methods: Mapping[str, Sequence[Run]], one: str, other: str) -> bool:
    """Return whether two methods' runs measured numbers of one kind; others are never compared."""
    kinds = [{run.kind for run in methods[name]} for name in (one, other)]
    return kinds[0] == kinds[1] or not all(kinds)  # of a method without a finished run, nothing is known


def _resamples(comparison: Comparison, tests: int) -> int:
    """Return the number of sign flips with which the smallest p, adjusted, is far below alpha."""
    return max(comparison.resamples, round(20 * tests / comparison.alpha))


def _effect(
    pair: tuple[str, str], methods: Mapping[str, Sequence[Run]], primary: Primary, comparison: Comparison
) -> Effect:
    """Return the effect of a method against the base or another one; untested if a run is invalid or none finished."""
    names = pair[:1] if pair[1] == BASE else pair
    sides = [methods[name] for name in names]
    if empty := [name for name in names if not methods[name]]:
        return Effect(nan, nan, None, nan, None, f"no run of {empty[0]} finished", tuple(map(len, sides)), 0, 0)
    own, others = sides[0], sides[1] if len(sides) > 1 else []
    runs = [*own, *others]
    found = match(runs)
    better = 1 if primary == "accuracy" else -1
    weights = None if primary == "accuracy" else found.weights
    rest = (found.clusters, weights, comparison.resamples, comparison.seed)
    if others:
        effect = contrast(better * found.tuned[: len(own)], better * found.tuned[len(own) :], *rest)
    else:
        effect = method_effect(better * (found.tuned - found.base), *rest)
    faults = [f"{run.name}: {run.fault}" for run in runs if run.fault]
    return replace(effect, p=None, test=f"invalid: {faults[0]}") if faults else effect


def _choice(
    effects: Mapping[tuple[str, str], Effect], methods: Mapping[str, Sequence[Run]], primary: Primary, alpha: float
) -> dict[str, Any] | None:
    """Return the best of several valid methods with its gain over its base, and limits that hold for all.

    The best by its own answers (or NLL), since bases can differ: that of a causal model writes from left to right, that
    of its diffusion twin fills in masks. None of fewer than two, or of a bound beside an exact NLL.
    """
    found = {pair[0]: effect for pair, effect in effects.items() if pair[1] == BASE and effect.p is not None}
    runs = [(name, run) for name in found for run in methods[name]]
    if len(found) < 2 or len({run.kind for _, run in runs}) > 1:
        return None
    matched = match([run for _, run in runs])
    better = 1 if primary == "accuracy" else -1
    means = better * matched.tuned.sum(axis=1) / matched.weights.sum()  # [runs]
    reached = {name: float(means[[own == name for own, _ in runs]].mean()) for name in found}
    stated = looked_at_all(found, alpha, reached)
    low, high = stated.limits
    return asdict(stated.choice) | {"gain": stated.effect.value, "low": low, "high": high, "label": stated.label}


def _curves(
    members: Sequence[Point], runs: Mapping[str, Run], primary: Primary, alpha: float, stopped: Set[str]
) -> dict[str, Any]:
    """Return the learning curves over data sizes by name, of what was trained with several.

    None of a point that halving stopped on some sizes: those that are left were chosen by how well they do.
    """
    curves = {}
    for name, found in by_curve(members).items():
        finished = [runs[point.name] for point in found if point.name in runs]
        valid = [run for run in finished if not run.fault and run.rows]
        if not stopped & {point.name for point in found} and len({run.rows for run in valid}) > 1:
            matched = match(valid)
            weights = None if primary == "accuracy" else matched.weights
            curve = fit_curve([run.rows or 0 for run in valid], matched.tuned, matched.clusters, weights, alpha)
            curves[name] = {"runs": [run.name for run in valid]} | asdict(curve)
    return curves


def _courses(
    members: Sequence[Point], reads: Mapping[str, Path], runs: Mapping[str, Run], alpha: float, stopped: Set[str]
) -> dict[str, Any]:
    """Return by method how its validation NLL falls over the steps, of methods whose runs are all valid.

    None of an experiment of which halving stopped runs: it chose the others by this very NLL.
    """
    chosen = {point.experiment for point in members if point.name in stopped}
    found: dict[str, Any] = {}
    for name, own in by_method(members).items():
        valid = [point.name for point in own if point.name in runs and not runs[point.name].fault]
        if valid and own[0].experiment not in chosen:
            course = course_of([reads_of_run(reads, run) for run in valid], alpha)
            found |= {name: asdict(course)} if course else {}
    return found


def _grids(
    members: Sequence[Point], runs: Mapping[str, Run], primary: Primary, alpha: float, stopped: Set[str]
) -> list[dict[str, Any]]:
    """Return what each grid says about its settings, of its valid runs; the data size is a setting like others.

    A grid of which halving stopped runs says nothing: those that are left were chosen by how well they do.
    """
    better, said = 1 if primary == "accuracy" else -1, []
    for (experiment, _), found in by_grid(members).items():
        valid = [point for point in found if point.name in runs and not runs[point.name].fault]
        if gone := stopped & {point.name for point in found}:
            why = f"halving stopped {len(gone)} of {len(found)} runs, and chose the others by how well they did"
            effects = GridEffects(len(valid), (), (), f"{why}, so that nothing is said of single settings")
            said.append({"experiment": experiment, "left_out": len(found) - len(valid)} | asdict(effects))
            continue
        if len(valid) > 1 and len({runs[point.name].kind for point in valid}) == 1:
            matched = match([runs[point.name] for point in valid])
            weights = None if primary == "accuracy" else matched.weights
            sizes = {"data_size"} if len({point.data_size for point in valid}) > 1 else set()
            settings = [point.coordinates | {name: point.data_size or "all" for name in sizes} for point in valid]
            effects = grid_effects(settings, better * matched.tuned, matched.clusters, weights, alpha)
            said.append({"experiment": experiment, "left_out": len(found) - len(valid)} | asdict(effects))
    return said
