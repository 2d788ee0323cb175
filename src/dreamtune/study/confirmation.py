"""The stage `confirm`: the best method by its validation answers, and its gain alone, measured on the test's.

The plan does not know who will win: the version hashes all candidates and the rule, and the job reads who won.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from dreamtune.errors import UserError
from dreamtune.files import finite, write_json
from dreamtune.formats.names import BASE, HEADLINE, TUNED
from dreamtune.formats.reads import Reads
from dreamtune.formats.scores import SCORES_FILE
from dreamtune.formats.study import CONFIRM_FILE
from dreamtune.settings.report import Comparison
from dreamtune.settings.study import FEWEST_QUESTIONS, StudyConfig
from dreamtune.study.choosing import choose, confirm
from dreamtune.study.effects import method_effect
from dreamtune.study.ended import Ended, finished_points, lost_by_method
from dreamtune.study.family import judge
from dreamtune.study.measured import match, read_run, reads_of_run, runs_by_method
from dreamtune.study.points import Point
from dreamtune.study.wording import row

RULE = (
    "The winner is the valid method with the largest share of right validation answers, on the questions that count "
    f"for all candidates, at least {FEWEST_QUESTIONS}; of equal ones, the first. Its gain on the test questions, which "
    "did not choose it, is not corrected. It is the gain of the adapters that were chosen among: that of the method "
    "takes seeds that were trained after the choice."
)


def run_confirm(
    members: Sequence[Point],
    study: StudyConfig,
    comparison: Comparison,
    reads: Mapping[str, Path],
    out: Path,
    ended: Sequence[Ended] = (),
) -> dict[str, Any]:
    """Write confirm.json: who won, and the winner's comparison with the base; return counts for the manifest.

    Args:
        members: the study's runs, the ended ones among them.
        study: the margin of equivalence.
        comparison: level and resamples.
        reads: version folders by "RUN/NAME", those of the validation answers' scores among them.
        out: folder for the file.
        ended: the runs that ended without a report; a method may win by the seeds that it has left.

    Raises:
        UserError: no run is valid, or fewer validation questions count than are needed.
    """
    finished = finished_points(members, ended)
    runs = {point.name: read_run(point.name, reads_of_run(reads, point.name), "accuracy") for point in finished}
    found = runs_by_method(members, runs)
    valid = {name: own for name, own in found.items() if own and not any(run.fault for run in own)}
    if not valid:
        raise UserError("no method is left to choose: a canary of each failed; the reports say what to change")
    answered = {run.name: validation_answers(reads_of_run(reads, run.name)) for own in valid.values() for run in own}
    counted = pl.concat(answered.values()).group_by("example_id").len().filter(pl.col("len") == len(answered))
    kept = {
        name: frame.filter(pl.col("example_id").is_in(counted["example_id"].implode()))["right"].to_numpy()
        for name, frame in answered.items()
    }
    choice = choose({name: [kept[run.name] for run in own] for name, own in valid.items()})
    matched = match(valid[choice.winner])
    gains = matched.tuned - matched.base
    effect = method_effect(gains, matched.clusters, None, comparison.resamples, comparison.seed)
    margin = study.equivalence_points / 100 if study.equivalence_points else None
    label = f"{choice.winner} against the base"
    judged = judge({label: effect}, {}, comparison.alpha, margin)[label]
    lost = lost_by_method(members, ended)
    content = {
        "format": 1,
        "rule": RULE,
        "choice": asdict(choice),
        "label": confirm(choice, effect, comparison.alpha).label,
        "left_out": {run.name: run.fault for run in runs.values() if run.fault} | {one.name: one.said for one in ended},
        "comparison": row((choice.winner, BASE), label, judged, "accuracy", comparison.alpha, lost, alone=True),
    }
    write_json(out / CONFIRM_FILE, finite(content))
    return {"candidates": len(valid), "questions": choice.questions, "winner": choice.winner, "word": judged.word}


def validation_answers(reads: Reads) -> pl.DataFrame:
    """Return example_id and the share of right answers, `right`, of a run's gradable validation questions, by id."""
    scores = reads.table(f"scores/validation/{HEADLINE}/{TUNED}", SCORES_FILE)
    if scores is None:
        return pl.DataFrame(schema={"example_id": pl.Int64, "right": pl.Float64})
    decided = (
        scores.filter("gradable")
        .group_by("example_id")
        .agg(right=pl.col("correct").cast(pl.Float64).mean(), undecided=pl.col("correct").is_null().any())
    )
    return decided.filter(~pl.col("undecided")).select("example_id", "right").sort("example_id")
