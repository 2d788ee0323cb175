"""What an invalid verdict says: what was wrong, where, and what to change, without a canary's identifier."""

import re

import pytest

from dreamtune.canaries import turns, window
from dreamtune.canaries.adapter import Trained, all_modules_learn
from dreamtune.canaries.alignment import aligned
from dreamtune.evaluate import hard_canaries
from dreamtune.evaluate.comparison import nothing
from dreamtune.evaluate.faults import CHANGES, MEASURED_BY, count_passed, find_faults
from dreamtune.evaluate.verdict import decide
from dreamtune.settings.report import Comparison

IDENTIFIER = re.compile(r"\w+_\w+|\w+\.\w+|gate\.json")
SOFT = {"loss_plausible"}
# (source, name without its moment, fault) of every hard canary that the project has
TRAINING = [("full", name, fault) for name, fault in window.FAULTS.items() if name not in SOFT]
LIKELIHOOD = [("likelihood", name, fault) for name, (fault, _) in hard_canaries.COUNTED.items()]
OTHERS = [
    ("full", "rows_aligned", aligned([], "", "the loss read its predictions at the wrong position")["fault"]),
    ("full", "later_turns_hidden", turns.FAULT),
    ("likelihood", "rows_aligned", hard_canaries.MISREAD),
    ("answers/test/greedy/tuned", "no_mask_left", "the sampler left mask tokens in the answers"),
]


@pytest.mark.parametrize(("source", "name", "fault"), TRAINING + LIKELIHOOD + OTHERS)
def test_every_hard_canary_says_in_plain_words_what_to_change(source: str, name: str, fault: str) -> None:
    failed = {"name": f"{name}_first_window", "hard": True, "passed": False, "value": 1, "expected": "0 of 9"}
    passed = failed | {"name": "loss_finite", "passed": True, "source": "full"}
    canaries = [failed | {"source": source, "fault": fault}, passed]
    said = decide(Comparison(), nothing("questions"), nothing("rows"), canaries, {"full": True})
    assert said.name == "invalid" and said.headline == f"Invalid: {fault}"
    assert said.remedy and said.reasons == (
        f"{fault}, in {find_faults(canaries, {})[0].where}. What to change: {said.remedy}",
    )
    assert not IDENTIFIER.search(f"{said.sentence} {' '.join(said.reasons)}")
    assert source == "likelihood" or said.remedy == CHANGES[name], "it has words of its own"
    assert name != "targets_scored" or said.remedy == MEASURED_BY


def test_a_dead_module_is_named_and_its_advice_stands_behind() -> None:
    trained = Trained({"a.layers.0.q_proj.lora_B.weight": 0.0}, {"a.layers.0.q_proj.lora_B.weight": True}, [], 9, 1e-3)
    check = all_modules_learn(trained) | {"source": "full"}
    (fault,) = find_faults([check], {"full": False})
    assert fault.wrong.startswith("training taught some modules nothing: ") and "q_proj" in fault.wrong
    assert "; " not in fault.wrong and fault.change == CHANGES["all_modules_learn"]


def test_a_fault_seen_in_several_places_is_said_once() -> None:
    failed = {"name": "targets_hidden", "hard": True, "passed": False, "fault": "the targets were shown"}
    sources = ("smoke", "full", "full", "likelihood")
    faults = find_faults([failed | {"source": source} for source in sources], {"smoke": False, "full": False})
    assert [(f.wrong, f.where) for f in faults] == [
        ("the targets were shown", "the smoke run, the full run and the held-out likelihood")
    ]


def test_counts_are_of_judged_canaries_hard_and_soft_apart() -> None:
    judged = [(True, True), (True, False), (True, None), (False, True), (False, False), (False, False)]
    canaries = [{"hard": hard, "passed": passed} for hard, passed in judged]
    assert count_passed(canaries, hard=True) == (1, 2) and count_passed(canaries, hard=False) == (1, 3)


def test_what_did_not_run_says_so_without_file_names() -> None:
    for gates in ({"smoke": True, "full": None}, {"full": False}, {}):
        for fault in find_faults([], gates):
            assert fault.change and not IDENTIFIER.search(fault.sentence)
