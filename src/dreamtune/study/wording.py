"""What is said of one comparison of a study: its row of the table, and its sentence."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from dreamtune.formats.names import BASE
from dreamtune.readable import nats, p_value, points
from dreamtune.study.family import Judged
from dreamtune.study.measured import Primary


def row(
    pair: tuple[str, str],
    label: str,
    judged: Judged,
    primary: Primary,
    alpha: float,
    lost: Mapping[str, str],
    alone: bool = False,
) -> dict[str, Any]:
    """Return a comparison's row of the table.

    Args:
        pair: the method, and what it is compared with.
        label: name of the comparison.
        judged: its effect and what is said of it.
        primary: the measure.
        alpha: of the family.
        lost: what became of the seeds of methods that lost any, see `ended.lost_by_method`.
        alone: its family has no other comparison, so that p is not adjusted.
    """
    effect, equivalence = judged.effect, judged.equivalence
    ended = "; ".join(f"{name}: {lost[name]}" for name in pair if name in lost)
    return {
        "comparison": label,
        "method": pair[0],
        "against": pair[1],
        "role": judged.role,
        "about": effect.about,
        "seeds": effect.seeds[0],
        "seeds_against": effect.seeds[1] if len(effect.seeds) > 1 else None,
        "ended": ended or None,
        "questions": effect.questions,
        "clusters": effect.clusters,
        "gain": effect.value,
        "low": judged.interval[0],
        "high": judged.interval[1],
        "simultaneous_low": judged.simultaneous[0],
        "simultaneous_high": judged.simultaneous[1],
        "error_questions": effect.error_questions,
        "error_seeds": effect.error_seeds,
        "df": effect.df,
        "p": effect.p,
        "p_adjusted": judged.p_adjusted,
        "test": effect.test,
        "word": judged.word,
        "equivalence": equivalence.answer if equivalence else None,
        "p_no_worse": equivalence.p_no_worse if equivalence else None,
        "p_equivalent": equivalence.p_equivalent if equivalence else None,
        "sentence": sentence(pair, judged, primary, alpha, lost, alone),
    }


def sentence(
    pair: tuple[str, str],
    judged: Judged,
    primary: Primary,
    alpha: float,
    lost: Mapping[str, str] | None = None,
    alone: bool = False,
) -> str:
    """Return a comparison in one sentence: who, how sure, how much; never about a method that has too few seeds.

    Of a method that lost seeds it says how many, and what became of them. For the arguments, see `row`.
    """
    effect = judged.effect
    sides = [_who(name, seeds, (lost or {}).get(name)) for name, seeds in zip(pair, effect.seeds, strict=False)]
    sides += ["the base model"] if pair[1] == BASE else []
    show, unit = (points, " points") if primary == "accuracy" else (lambda value: nats(value, True), " nats per token")
    said = f"{sides[0]} against {sides[1]}: {judged.word}"
    if not isfinite(effect.value):
        return f"{said}; {effect.test}"
    said += f", {show(effect.value)}{unit}"
    if effect.p is None or not isfinite(judged.interval[0]):
        return f"{said}; {effect.test}"
    said += f", {100 * (1 - alpha):.3g} % interval {show(judged.interval[0])} to {show(judged.interval[1])}"
    said += f", {p_value(effect.p)}"
    if judged.p_adjusted is not None and not alone:
        said += f", adjusted for the family {p_value(judged.p_adjusted)}"
    if judged.equivalence:
        margin = f"{100 * judged.equivalence.margin:.3g} points"
        answers = {"no worse": f"no worse than {margin}", "equivalent": f"equivalent within {margin}"}
        said += f"; {answers.get(judged.equivalence.answer, f'not shown to be no worse than {margin}')}"
    return said


def _who(name: str, seeds: int, lost: str | None) -> str:
    """Return who a comparison is about.

    >>> _who("qlora", 3, None), _who("qlora", 2, "2 of 3 seeds; 1 failed its gate")
    ('qlora (3 seeds)', 'these 2 runs of qlora (2 of 3 seeds; 1 failed its gate)')
    """
    if seeds > 2 or not seeds:
        return f"{name} ({lost or f'{seeds} seeds'})"
    who = f"this run of {name}" if seeds == 1 else f"these {seeds} runs of {name}"
    return f"{who} ({lost})" if lost else who
