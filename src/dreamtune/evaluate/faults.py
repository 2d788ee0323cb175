"""Why a verdict is invalid, in plain words: what was wrong, where it was seen, and what to change."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Check = Mapping[str, Any]
RUNS = {"smoke": "the smoke run", "full": "the full run", "likelihood": "the held-out likelihood"}
NOT_A_SETTING = "no setting does this: undo the last edit of the code that {}, or report it with its canary"
OBJECTIVE = (
    "train with one of the objectives elbo, cart and uniform, which mask what they predict and only that (copy masks "
    "nothing); if it is one of these, undo the last edit of the code that {}"
)
# What to change, by the beginning of a canary's name, if it failed in training or in answers.
CHANGES = {
    "targets_hidden": OBJECTIVE.format("masks the targets"),
    "targets_do_not_matter": OBJECTIVE.format("masks the targets, or of attention, which shows them elsewhere")
    + "; for a causal model no setting does this: undo the last edit of the shift or of attention",
    "loss_only_on_response": OBJECTIVE.format("chooses the tokens that carry loss"),
    "attends_both_ways": "name the model's right family, so that its causal mask is lifted; if it is right, undo the "
    "last edit of the attention's code",
    "later_tokens_hidden": NOT_A_SETTING.format("keeps later tokens from a causal model"),
    "attends_back": NOT_A_SETTING.format("runs a causal model"),
    "right_context_kept": "undo the last edit of the attention's code, or train without attention annealing",
    "documents_apart": NOT_A_SETTING.format("packs documents into micro-batches"),
    "later_turns_hidden": NOT_A_SETTING.format("makes documents of a conversation's turns"),
    "loss_finite": "lower the learning rate, and check that the base model's files are complete",
    "starts_from_base": "delete this run's version folder and start again, so that it begins with a fresh adapter",
    "rows_aligned": "name the model's right family (Dream's predictions are shifted by one position, LLaDA's are not); "
    "if it is right, undo the last edit of the loss",
    "all_modules_learn": "list only modules among the adapter's target modules that the model has and uses, and take a "
    "learning rate above zero",
    "no_mask_left": NOT_A_SETTING.format("samples answers"),
}
# The same for the canaries of the likelihood, which measure the evaluation and not the training.
MEASURING = {
    "attends_both_ways": CHANGES["attends_both_ways"],
    "rows_aligned": CHANGES["rows_aligned"].replace("the loss", "the likelihood's code"),
}
MEASURED_BY = NOT_A_SETTING.format("measures the likelihood")


@dataclass(frozen=True)
class Fault:
    """One reason for an invalid verdict: what was wrong, where it was seen ("" for no place), and what to change."""

    wrong: str
    where: str
    change: str

    @property
    def sentence(self) -> str:
        """The fault in one line."""
        return f"{self.wrong}{f', in {self.where}' if self.where else ''}. What to change: {self.change}"


def find_faults(canaries: Sequence[Check], gates: Mapping[str, bool | None]) -> list[Fault]:
    """Return the reasons for an invalid verdict, the first canary's first; [] for none.

    Args:
        canaries: see `verdict.decide`.
        gates: by training run, whether its gate passed; None where the run left no gate.json.

    >>> check = {"name": "targets_hidden_first_window", "hard": True, "passed": False, "fault": "targets were shown"}
    >>> fault, = find_faults([check | {"source": "smoke"}, check | {"source": "full"}], {})
    >>> fault.wrong, fault.where, fault.change.partition(",")[0]
    ('targets were shown', 'the smoke run and the full run', 'train with one of the objectives elbo')
    """
    failed = [c for c in canaries if c["hard"] and c["passed"] is False]
    grouped: dict[str, list[Check]] = {}
    for c in failed:
        grouped.setdefault(_wrong(c), []).append(c)
    faults = [Fault(wrong, _listed(place(c["source"]) for c in of), change(of[0])) for wrong, of in grouped.items()]
    again = "delete its version folder and run again, so that its canaries run"
    unrun = [
        Fault(f"{place(run)} left no record of its canaries, so nothing says what its loss measured", "", again)
        for run, passed in gates.items()
        if passed is None
    ]
    # Those of sampling and evaluation say nothing about training, so they cannot replace its canaries that never ran.
    if not any(c["hard"] and not c["source"].startswith(("answers/", "likelihood")) for c in canaries) and not unrun:
        nothing = "no hard canary was run, so nothing says what training measured"
        unrun = [Fault(nothing, "", "run the training again with this version of dreamtune")]
    closed = [
        Fault(f"{place(run)} did not pass its gate", "", "see its log, mend what it names, and run again")
        for run, passed in gates.items()
        if passed is False and not failed
    ]
    return faults + unrun + closed


def count_passed(canaries: Iterable[Check], hard: bool) -> tuple[int, int]:
    """Return how many of the hard, or of the soft, canaries passed, and how many could be judged.

    The same canary counts once for each run, window or set of answers in which it was judged.
    """
    judged = [c["passed"] for c in canaries if c["hard"] is hard and c["passed"] is not None]
    return sum(judged), len(judged)


def change(canary: Check) -> str:
    """Return what to change where a hard canary failed."""
    measured = canary["source"] == "likelihood"
    found = [name for name in CHANGES if canary["name"].startswith(name)]
    if measured:
        return MEASURING.get(found[0] if found else "", MEASURED_BY)
    return CHANGES[found[0]] if found else NOT_A_SETTING.format("it watches")


def place(source: str) -> str:
    """Return the name of a canary's folder in words.

    >>> place("full"), place("answers/gsm8k/greedy/few-shot-base")
    ('the full run', "the few-shot base model's answers (gsm8k, greedy)")
    """
    if source.startswith("answers/"):
        _, questions, setting, who = source.split("/")
        return (
            f"the {who.replace('-base', ' base').replace('-tuned', ' tuned')} model's answers ({questions}, {setting})"
        )
    return RUNS.get(source, source)


def _wrong(canary: Check) -> str:
    """Return what was wrong: the fault without the advice that some canaries put behind a semicolon."""
    fault = str(canary.get("fault") or f"a hard canary failed ({canary['name'].replace('_', ' ')})")
    return fault.partition("; ")[0]


def _listed(places: Iterable[str]) -> str:
    """Return "a", "a and b" or "a, b and c", each place once."""
    *most, last = dict.fromkeys(places)
    return f"{', '.join(most)} and {last}" if most else last
