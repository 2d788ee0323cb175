"""The family of a study: the comparisons that were named before anything was measured, judged together.

Looking at nine experiments finds something by chance more often than looking at one. Holm's correction (Holm 1979,
Scandinavian Journal of Statistics 6:65) holds the probability of *any* false finding in the family at alpha, whatever
the dependence, such as that of experiments which share a base. Comparisons outside of the family are exploratory: they
have an interval, and no word.

"No worse than x points" is a question of its own, answered by its own tests: that nothing was found is no answer to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dreamtune.study.effects import Effect

Word = Literal["improved", "worse", "no evidence of change", "exploratory", "not tested"]
Answer = Literal["equivalent", "no worse", "not shown"]


@dataclass(frozen=True)
class Judged:
    """A comparison's effect with what the study says of it.

    Attributes:
        effect: value, errors and raw p.
        role: "confirmatory" in the family, else "exploratory".
        word: "improved" and "worse" at one half of alpha each, by the adjusted p.
        p_adjusted: Holm's; None for exploratory comparisons and where there is no test.
        interval: limits of level 1 − alpha for this comparison alone.
        simultaneous: limits that hold for all comparisons of its role together (Bonferroni). Holm's test is sharper:
            a change may be found although these limits include 0.
        equivalence: how it answers "no worse than the margin"; None without a margin or outside of the family.
    """

    effect: Effect
    role: Literal["confirmatory", "exploratory"]
    word: Word
    p_adjusted: float | None
    interval: tuple[float, float]
    simultaneous: tuple[float, float]
    equivalence: "Equivalence | None"


@dataclass(frozen=True)
class Equivalence:
    """Whether a gain is above −margin ("no worse"), and also below +margin ("equivalent").

    Attributes:
        answer: by the adjusted p's below one half of alpha.
        margin: in the unit of the gain, 0.02 for two points.
        p_no_worse, p_equivalent: one-sided, adjusted over the family (Holm); the second is the larger of two tests'
            (TOST, Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15:657).
    """

    answer: Answer
    margin: float
    p_no_worse: float
    p_equivalent: float


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p of each test, in order: of m tests the k-th smallest p times m − k + 1, never decreasing.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def judge(
    effects: Mapping[str, Effect], exploratory: Mapping[str, Effect], alpha: float = 0.05, margin: float | None = None
) -> dict[str, Judged]:
    """Return what the study says of each comparison, by name: of the family's first, then of the exploratory ones.

    A comparison with too few clusters is not tested; it counts in the family all the same, since it was named.

    Two comparisons, of which one alone would have been called improved (p = 0.049):

    >>> import numpy as np
    >>> from dreamtune.study.effects import method_effect
    >>> gains = np.zeros((1, 100))
    >>> gains[0, :13], gains[0, 13:17] = 1, -1
    >>> judged = judge({"a": method_effect(gains), "b": method_effect(0 * gains)}, {})
    >>> judged["a"].word, round(judged["a"].effect.p, 3), round(judged["a"].p_adjusted, 3)
    ('no evidence of change', 0.049, 0.098)

    Args:
        effects: the family, by the comparisons' names.
        exploratory: all other comparisons of the study, by name.
        alpha: probability of any false "improved" or "worse" in the family.
        margin: the study's margin of equivalence in the unit of the gains; None for none.
    """
    names, m = list(effects), len(effects)
    adjusted = holm([1.0 if effects[name].p is None else float(effects[name].p or 0.0) for name in names])
    margins = _equivalences([effects[name] for name in names], alpha, margin)
    judged = {}
    for name, p, equivalence in zip(names, adjusted, margins, strict=True):
        effect = effects[name]
        tested = None if effect.p is None else p
        word = _word(effect, tested, alpha)
        limits = effect.limits(alpha), effect.limits(alpha / m)
        judged[name] = Judged(effect, "confirmatory", word, tested, *limits, equivalence)
    for name, effect in exploratory.items():
        limits = effect.limits(alpha), effect.limits(alpha / len(exploratory))
        judged[name] = Judged(effect, "exploratory", "exploratory", None, *limits, None)
    return judged


def _word(effect: Effect, p: float | None, alpha: float) -> Word:
    if p is None:
        return "not tested"
    if p >= alpha:
        return "no evidence of change"
    return "improved" if effect.value > 0 else "worse"


def _equivalences(effects: Sequence[Effect], alpha: float, margin: float | None) -> Sequence[Equivalence | None]:
    """Return the answers of a family's comparisons, in order."""
    if margin is None:
        return [None] * len(effects)
    above = [effect.exceeds(-margin) for effect in effects]
    below = [_mirrored(effect).exceeds(-margin) for effect in effects]
    no_worse, equivalent = holm(above), holm([max(pair) for pair in zip(above, below, strict=True)])
    found = []
    for first, both in zip(no_worse, equivalent, strict=True):
        answer: Answer = "not shown" if first >= alpha / 2 else "equivalent" if both < alpha / 2 else "no worse"
        found.append(Equivalence(answer, margin, first, both))
    return found


def _mirrored(effect: Effect) -> Effect:
    """Return the effect of the same comparison the other way round."""
    return Effect(**{**vars(effect), "value": -effect.value})
