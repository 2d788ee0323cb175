"""Two runs side by side: the test questions on which they differ, their answers beside each other, and both replays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from dreamtune.errors import UserError
from dreamtune.files import replace_with
from dreamtune.formats.names import BASE, HEADLINE, TUNED
from dreamtune.formats.reads import Reads
from dreamtune.formats.scores import SCORES_FILE
from dreamtune.overview.members import Member, Members, read_members
from dreamtune.overview.states import State
from dreamtune.report.explorer import bounded, choose_examples
from dreamtune.report.text import POLICY, allowed, environment
from dreamtune.study.fields import hint

HERE, REPORT = Path(__file__).parent, Path(__file__).parents[1] / "report"
PAGE = "side-by-side.html"
MOST_PAIRS, MOST_QUESTIONS = 10, 30  # on one page, and of one pair
MOST_BYTES = 7_000_000  # of the answers of all pairs together


@dataclass(frozen=True)
class Pair:
    """Two runs and how their answers to the test questions differ.

    Attributes:
        first, second: names of the runs.
        anchor: of its section on the page.
        counts: questions by "only the first", "only the second", "both right", "both wrong", "not graded".
        examples: questions on which they differ, as `report.explorer` has them: `base` is the first run's answer.
        refusal: why they are not compared, in one line; "" if they are.
    """

    first: str
    second: str
    anchor: str
    counts: dict[str, int]
    examples: list[dict[str, Any]]
    refusal: str = ""

    @property
    def differ(self) -> int:
        """On how many questions exactly one of them is right."""
        return self.counts.get("only the first", 0) + self.counts.get("only the second", 0)


def choose_pairs(members: Members, states: Sequence[State], ranked: Sequence[str]) -> list[tuple[Member, Member]]:
    """Return the pairs that are shown: each method beside the baseline, or beside the best one; first seeds.

    Args:
        ranked: names of methods with a run that may be compared, those of the family first, then the best.
    """
    runs: dict[str, Member] = {}
    for state in states:
        if state.summary and state.member.method not in runs:
            runs[state.member.method] = state.member
    others = [method for method in ranked if method in runs]
    if not others:
        return []
    beside = members.baseline if members.baseline in runs else others[0]
    return [(runs[method], runs[beside]) for method in others if method != beside][:MOST_PAIRS]


def compare_answers(first: Member, second: Member, count: int = MOST_QUESTIONS) -> Pair:
    """Return two runs' answers beside each other, at most `count` of the questions on which exactly one is right."""
    key = f"test/{HEADLINE}"
    folders = {"shards": first.folders["shards"]}
    for who, run in ((BASE, first), (TUNED, second)):
        for kind in ("answers", "scores"):
            folders[f"{kind}/{key}/{who}"] = run.folders.get(f"{kind}/{key}/{TUNED}", "")
    reads = Reads({name: Path(path) for name, path in folders.items() if path})
    anchor = f"{first.name}--{second.name}"
    scores = [reads.table(f"scores/{key}/{who}", SCORES_FILE) for who in (BASE, TUNED)]
    if scores[0] is None or scores[1] is None:
        return Pair(first.name, second.name, anchor, {}, [], "one of them has no graded answers to the test questions")
    if not _same_questions(scores[0], scores[1]):
        return Pair(first.name, second.name, anchor, {}, [], "they were not measured on the same questions")
    examples = choose_examples(reads, "test", HEADLINE, count, ("won", "lost"))
    return Pair(first.name, second.name, anchor, _counts(scores[0], scores[1]), [e for e in examples if not e["own"]])


def render_pairs(pairs: Sequence[Pair], title: str) -> str:
    """Return the page of several pairs; of their answers, as many as fit into MOST_BYTES."""
    share = MOST_BYTES // max(1, len(pairs))
    shown = [Pair(**vars(pair) | {"examples": list(bounded(pair.examples, share))}) for pair in pairs]
    script = (REPORT / "page.js").read_text(encoding="utf-8")
    return (
        environment(HERE, REPORT)
        .get_template("side_by_side.html.j2")
        .render(
            title=title,
            pairs=shown,
            style=Markup((REPORT / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            policy=POLICY.format(allowed(script)),
        )
    )


def write_pair(latest: Path, first: str, second: str, count: int) -> Path:
    """Write the page of two runs of the study; return its path.

    Raises:
        UserError: there is no study, or one of the runs is not of it.
    """
    members = read_members(latest)
    if members is None:
        raise UserError(f"{latest} holds no study; run snakemake on a configuration with grid, seeds or data_sizes")
    runs = {member.name: member for member in members.runs}
    for name in (first, second):
        if name not in runs:
            raise UserError(f"there is no run {name!r} in the study; {hint(name, runs)}")
    pair = compare_answers(runs[first], runs[second], count)
    path = latest / f"{pair.anchor}.html"
    with replace_with(path) as private:
        private.write_text(render_pairs([pair], f"{first} and {second}"), encoding="utf-8")
    return path


def _asked(scores: pl.DataFrame) -> pl.DataFrame:
    return scores.filter(pl.col("example_id") >= 0).sort("example_id", "sample")


def _same_questions(first: pl.DataFrame, second: pl.DataFrame) -> bool:
    same = ["example_id", "sample", "reference"]
    return _asked(first).select(same).equals(_asked(second).select(same))


def _counts(first: pl.DataFrame, second: pl.DataFrame) -> dict[str, int]:
    """Return how many answers are right in one, in both, or in none."""
    both = pl.DataFrame({"first": _asked(first)["correct"], "second": _asked(second)["correct"]})
    known = both.drop_nulls()
    a, b = pl.col("first"), pl.col("second")
    kinds: Mapping[str, pl.Expr] = {"only the first": a & ~b, "only the second": b & ~a}
    kinds = dict(kinds) | {"both right": a & b, "both wrong": ~a & ~b}
    counts = {name: known.filter(kind).height for name, kind in kinds.items()}
    return counts | {"not graded": both.height - known.height}
