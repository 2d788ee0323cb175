"""The verdict of the report: did fine-tuning work?

The rule is fixed before anything is measured. The verdict is "improved" or "worse" if a two-sided paired test on the
primary measure (`comparison.primary`) is significant at `alpha`, and the interval of the same level leaves out 0. Only
the primary measure decides. A hard canary that failed, a gate that did not pass, or canaries that never ran make every
number meaningless: the verdict is then "invalid", whatever the numbers are.

Where accuracy decides and the base also answered with worked examples (`evaluate.few_shot`), the tuned model must be
better than both bases to be "improved". Without these answers, or where the examples did not teach the base the format,
the verdict says that format and skill are not told apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dreamtune.evaluate.faults import count_passed, find_faults
from dreamtune.evaluate.few_shot import few_shot_fact, few_shot_name, format_not_shown
from dreamtune.formats.likelihood import BOUND, KINDS
from dreamtune.readable import nats, number, p_value, points
from dreamtune.settings.report import Comparison

Name = Literal[
    "improved", "improved over the zero-shot base only", "no evidence of change", "worse",
    "likelihood improved but accuracy unproven", "invalid",
]  # fmt: skip
NOT_TOLD_APART = "format and skill are not told apart"
ENOUGH_ROWS = 100  # for the NLL's test where changes are skewed


@dataclass(frozen=True)
class Verdict:
    """The verdict, its headline, the numbers behind it, its reasons, and the smallest effect the data could show."""

    name: Name
    headline: str
    detail: str
    reasons: tuple[str, ...]
    detectable: float | None
    remedy: str | None = None  # what to change, if the verdict is invalid

    @property
    def sentence(self) -> str:
        """Headline and numbers in one line."""
        return f"{self.headline} ({self.detail})" if self.detail else self.headline


def decide(
    comparison: Comparison,
    accuracy: Mapping[str, Any],
    nll: Mapping[str, Any],
    canaries: Sequence[Mapping[str, Any]],
    gates: Mapping[str, bool | None],
    collapse: Sequence[str] = (),
    few_shot: Mapping[str, Any] | None = None,
) -> Verdict:
    """Return the verdict.

    Args:
        comparison: the primary measure, and the level of the test.
        accuracy: block of `comparison.compare_scores` for the test split, greedy.
        nll: block of `comparison.compare_nll`.
        canaries: each {"name", "hard", "passed", "value", "expected", "fault", "source"} (see `dreamtune.checks`).
        gates: by training run, whether its gate passed; None where the run left no gate.json.
        collapse: how the tuned model's greedy answers to the test split collapsed, see `scoring.form.collapse`.
        few_shot: the base with worked examples: their number "shots"; "accuracy", a block of `compare_few_shot` on the
            same questions; and "unread", the share of its answers in which none was found. None if it did not answer.

    Ten of 20 questions right before and 19 after, with p < alpha and an interval above 0, and no likelihood:

    >>> side = {"value": 0.5, "low": 0.3, "high": 0.7, "n": 20}
    >>> gain = {"value": 0.45, "low": 0.2, "high": 0.65, "n": 20, "p": 0.004, "test": "exact McNemar"}
    >>> tuned = side | {"value": 0.95}
    >>> accuracy = {"base": side, "tuned": tuned, "gain": gain, "detectable": 0.3, "clusters": 20, "level": 0.95}
    >>> nll = {"delta": {"value": None, "low": None, "high": None, "n": 0, "p": None, "test": None}, "clusters": 0}
    >>> passed = {"name": "targets_hidden", "hard": True, "passed": True, "source": "full"}
    >>> decide(Comparison(primary="accuracy"), accuracy, nll, [passed], {"full": True}).headline
    'Improved: 10 → 19 of 20 held-out questions correct'
    >>> few_shot = {"shots": 4, "accuracy": accuracy | {"base": side | {"value": 0.85}, "gain": gain | {"p": 0.5}}}
    >>> decide(Comparison(primary="accuracy"), accuracy, nll, [passed], {"full": True}, (), few_shot).headline
    'Improved over the zero-shot base only: 10 → 19 of 20 held-out questions correct, few-shot base 17'
    >>> decide(Comparison(primary="accuracy"), accuracy, nll, [], {"full": None}).headline
    'Invalid: the full run left no record of its canaries, so nothing says what its loss measured'
    """
    detectable = (accuracy if comparison.primary == "accuracy" else nll)["detectable"]
    if faults := find_faults(canaries, gates):
        measured = accuracy["gain"]["value"] is not None
        fact = _accuracy_words(accuracy)[0] if measured else _nll_words(nll)[0]
        fact = fact.removesuffix(_cluster_words(accuracy if measured else nll))
        passed, judged = count_passed(canaries, hard=True)
        count = f"{judged - passed} of {judged} hard canaries failed; " if passed < judged else ""
        detail = f"{count}no number below says what was learned, not even {fact}"
        reasons = (*(fault.sentence for fault in faults), *_collapse_words(collapse))
        first = faults[0]
        return Verdict("invalid", f"Invalid: {first.wrong}", detail, reasons, detectable, remedy=first.change)
    accuracy_says = _direction(accuracy["gain"], comparison.alpha, better=1)
    nll_says = _direction(nll["delta"], comparison.alpha, better=-1)
    few_shot_says = _direction(few_shot["accuracy"]["gain"], comparison.alpha, better=1) if few_shot else None
    reasons = (
        _reason("accuracy", accuracy["gain"], accuracy_says, comparison, *_accuracy_words(accuracy)),
        *([_few_shot_reason(few_shot, few_shot_says, comparison)] if few_shot and few_shot_says else []),
        _reason("likelihood", nll["delta"], nll_says, comparison, *_nll_words(nll), kind=nll.get("kind", BOUND)),
        _detectable_words(comparison, accuracy if comparison.primary == "accuracy" else nll),
        *_few_rows_words(nll),
        *_not_told_apart(few_shot),
        *_collapse_words(collapse),
        *(
            f"warning from {c['source']}: {c['name']} ({number(c['value'], 4)}; expected {c['expected']})"
            for c in canaries
            if not c["hard"] and c["passed"] is False
        ),
    )
    name = _name(comparison.primary, accuracy_says, nll_says, few_shot_says)
    return Verdict(name, *_headline(name, comparison.primary, accuracy, nll, few_shot), reasons, detectable)


def _direction(change: Mapping[str, Any], alpha: float, better: int) -> str:
    """Return "better", "worse", "unproven", or "no data".

    Test and interval must agree. They rest on different approximations, each of which fails in its own cases: a
    sign-flip test takes differences for symmetric, and the NLL's test for only slightly skewed.

    Args:
        change: estimate of tuned − base, with its p.
        alpha: level of the test.
        better: 1 if higher is better, −1 if lower is.
    """
    if change["p"] is None or change["value"] is None:
        return "no data"
    if change["p"] >= alpha or change["low"] <= 0 <= change["high"]:
        return "unproven"
    return "better" if change["value"] * better > 0 else "worse"


def _name(primary: str, accuracy: str, nll: str, few_shot: str | None) -> Name:
    """Return the verdict that follows from the directions (see `_direction`) of accuracy and NLL.

    `few_shot` is the direction of accuracy against the base with worked examples, None if it did not answer.
    """
    decisive = accuracy if primary == "accuracy" else nll
    if decisive == "better":
        both = primary == "nll" or few_shot in (None, "better")
        return "improved" if both else "improved over the zero-shot base only"
    if decisive == "worse":
        return "worse"
    if primary == "accuracy" and nll == "better":
        return "likelihood improved but accuracy unproven"
    return "no evidence of change"


def _headline(
    name: Name, primary: str, accuracy: Mapping[str, Any], nll: Mapping[str, Any], few_shot: Mapping[str, Any] | None
) -> tuple[str, str]:
    """Return the verdict's headline, and the numbers behind it."""
    said = f"{name[0].upper()}{name[1:]}"
    if primary == "nll":
        fact, *numbers = _apart(nll, _nll_words)
        return f"{said}: {fact}", "; ".join(filter(None, numbers))
    fact, *numbers = _apart(accuracy, _accuracy_words)
    if few_shot:
        fact += f", {few_shot_fact(few_shot, accuracy['base']['n'])}"
        change = _accuracy_words(few_shot["accuracy"])[1]
        shown = "the same" if change == numbers[-1] else change
        numbers += [f"{shown} against {few_shot_name(few_shot['shots'])}"] if change else []
    if name == "improved":
        numbers += _not_told_apart(few_shot)
    if name == "likelihood improved but accuracy unproven":
        return f"Likelihood improved, accuracy unproven: {fact}", ", ".join(_nll_words(nll))
    return f"{said}: {fact}", "; ".join(filter(None, numbers))


def _apart(block: Mapping[str, Any], words: Callable[[Mapping[str, Any]], tuple[str, str]]) -> tuple[str, str, str]:
    """Return what happened without its clusters, the clusters, and the numbers."""
    (fact, numbers), clusters = words(block), _cluster_words(block)
    return fact.removesuffix(clusters), clusters.removeprefix(", "), numbers


def _accuracy_words(accuracy: Mapping[str, Any]) -> tuple[str, str]:
    """Return what happened, and its interval and p."""
    base, tuned, gain = accuracy["base"], accuracy["tuned"], accuracy["gain"]
    undecided = accuracy.get("undecided", 0)
    if gain["value"] is None:
        no_grade = f"the grader left all {undecided} held-out questions undecided"
        return f"not enough data, {no_grade if undecided else 'no held-out question has a checkable answer'}", ""
    n = base["n"]
    before, after = (f"{block['value'] * n:.1f}".removesuffix(".0") for block in (base, tuned))
    fact = f"{before} → {after} of {n} held-out {'question' if n == 1 else 'questions'} correct"
    fact += f", {undecided} left out as undecided" if undecided else ""
    return fact + _cluster_words(accuracy), _change_words(
        gain, accuracy["level"], f"{points(gain['value'])} points", points
    )


def _nll_words(nll: Mapping[str, Any]) -> tuple[str, str]:
    """Return what happened, and its interval and p."""
    delta = nll["delta"]
    if delta["value"] is None:
        return "not enough data, no held-out row has a likelihood", ""
    fact = f"held-out NLL {nll['base']['value']:.3f} → {nll['tuned']['value']:.3f} nats per token"
    change = nats(delta["value"], signed=True)
    return fact + _cluster_words(nll), _change_words(
        delta, nll["level"], change, lambda value: nats(value, signed=True)
    )


def _cluster_words(block: Mapping[str, Any]) -> str:
    """Return ", in 30 clusters of similar questions that count as 87 unrelated ones"; "" without such clusters."""
    clusters = block["clusters"]
    if clusters == block["base"]["n"]:
        return ""
    change = block["gain"] if "gain" in block else block["delta"]
    alike = "1 cluster" if clusters == 1 else f"{clusters} clusters"
    return f", in {alike} of similar questions that count as {change['effective_n']:.0f} unrelated ones"


def _change_words(change: Mapping[str, Any], level: float, value: str, show: Callable[[float], str]) -> str:
    """Return the change with its interval and p, or with the reason why there is none."""
    if change["low"] is None:
        return f"{value}; {change['test']}" if change["p"] is None else f"{value}; not enough data for an interval"
    limits = f"{value}, {100 * level:.3g} % interval {show(change['low'])} to {show(change['high'])}"
    return f"{limits}, {p_value(change['p'])}" if change["p"] is not None else f"{limits}; {change['test']}"


def _reason(
    what: str, change: Mapping[str, Any], says: str, comparison: Comparison, fact: str, numbers: str, kind: str = ""
) -> str:
    measure = "nll" if what == "likelihood" else "accuracy"
    role = "decides" if comparison.primary == measure else "does not decide"
    if says == "no data":
        return f"{what} ({role}): {'; '.join(filter(None, (fact, numbers)))}"
    said = {"better": "better", "worse": "worse", "unproven": "no evidence of change"}[says]
    given = f"; {KINDS[kind]}" if kind else ""
    return f"{what} ({role}): {said}; {fact}; {numbers}; {change['test']}, level {comparison.alpha:g}{given}"


def _not_told_apart(few_shot: Mapping[str, Any] | None) -> list[str]:
    """Return why format and skill are not told apart, as a list of 0 or 1."""
    if few_shot is None:
        why: str | None = "the base answered without worked examples (evaluate.few_shot is 0)"
    else:
        why = format_not_shown(few_shot)
    return [f"{NOT_TOLD_APART}: {why}"] if why else []


def _few_shot_reason(few_shot: Mapping[str, Any], says: str, comparison: Comparison) -> str:
    what, block = f"accuracy against {few_shot_name(few_shot['shots'])}", few_shot["accuracy"]
    return _reason(what, block["gain"], says, comparison, *_accuracy_words(block))


def _detectable_words(comparison: Comparison, block: Mapping[str, Any]) -> str:
    detectable, is_share = block["detectable"], comparison.primary == "accuracy"
    if detectable is None:
        return "not enough data to detect a change of any size with 80 % power"
    size = f"{100 * detectable:.1f} points" if is_share else f"{detectable:.3g} nats per token"
    alike = " between clusters of similar questions" if _cluster_words(block) else ""
    return f"smallest change these data would have shown{alike} with 80 % power: {size}"


def _few_rows_words(nll: Mapping[str, Any]) -> list[str]:
    """Return the warning that the NLL's test is less sure below ENOUGH_ROWS rows, as a list of 0 or 1."""
    clusters = nll["clusters"]
    if nll["delta"]["p"] is None or clusters >= ENOUGH_ROWS:
        return []
    what = "clusters of similar questions" if _cluster_words(nll) else "rows"
    return [
        f"the likelihood rests on {clusters} {what}, fewer than {ENOUGH_ROWS}: where most gain a little and few lose "
        "much, it is called better by chance more often than the level says, and worse more seldom; where most lose "
        "a little, the other way round (docs/statistics.md)"
    ]


def _collapse_words(ways: Sequence[str]) -> list[str]:
    return [f"the tuned model's answers collapsed: {', '.join(ways)}"] if ways else []
