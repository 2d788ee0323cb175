"""A later turn that confirms an earlier answer, planted into the documents: smoke's gate stops the full run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversations import make_chat_model, sums
from dreamtune.canaries.turns import later_turns_hidden
from dreamtune.data import source
from dreamtune.data.encode import EncodedRows
from dreamtune.data.prepare import prepare_shards
from dreamtune.errors import UserError
from dreamtune.objective.diffusion import Document, Noise, corrupt
from dreamtune.objective.packing import collate
from dreamtune.settings.data import DataConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train.train import train_adapter
from planted import QUICK, checks

TURN_END, END, MASK = 2, 1, 9
IDS = {"turn_end_id": TURN_END, "end_id": END, "mask_id": MASK}


@pytest.mark.parametrize(
    ("response", "tail", "longer"),
    [
        ([5, 6, TURN_END, END, END], 1, 0),
        ([5, 6, TURN_END, END, 7, 8], 2, 0),  # a tail of padding tokens
        ([5, 6], 0, 0),  # a cut answer
        ([5, 6, TURN_END, 5, 6, TURN_END, END], 0, 1),  # another turn
        ([5, 6, TURN_END, 5], 0, 1),  # which is cut
        ([5, END, 5, END], 0, 1),
    ],
)
def test_nothing_but_ends_and_padding_may_follow_a_turn(response: list[int], tail: int, longer: int) -> None:
    document = Document(0, np.array([3, TURN_END, 4, *response]), prompt_tokens=3, tail_tokens=tail)
    batch = collate([corrupt(document, Noise("elbo", 1.0, seed=0, epoch=0, mask_id=MASK))], "cpu")
    found = later_turns_hidden([batch], IDS, padding=[7, 8])
    assert (found["value"], found["passed"], found["hard"]) == (longer, not longer, True)


def gate(folder: Path) -> dict[str, dict[str, Any]]:
    """Prepare conversations of two turns and run smoke on them, then full behind its gate; return smoke's checks."""
    folder.mkdir()
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in sums(24)))
    shards, model = folder / "shards", make_chat_model(folder / "model")
    shards.mkdir()
    split = {"validation": 0.0, "test": 0.0}
    prepare_shards(DataConfig(files=[str(file)], split=split, columns={"messages": "messages"}), model, shards)
    for run, before in (("smoke", None), ("full", folder / "smoke")):
        (folder / run).mkdir()
        settings = TrainConfig(**(QUICK | {"rows": 16}))
        train_adapter(settings, model, shards, folder / run, folder / f"work-{run}", before)
    return checks(folder / "smoke")


def test_a_document_that_goes_on_is_caught_and_one_that_ends_with_its_turn_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gate(tmp_path / "honest")["later_turns_hidden_first_window"]["passed"] is True
    original = source.TurnSource.encode

    def faulty(self: source.TurnSource, batch: dict[str, Any]) -> EncodedRows:
        """The rest of the conversation stands behind its first turn, as in a document for each conversation."""
        rows = original(self, batch)
        for first in range(0, len(rows.prompts), 2):
            rows.answer_ids[first] += rows.prompts[first + 1][len(rows.prompts[first]) + len(rows.answer_ids[first]) :]
            rows.answer_ids[first] += rows.answer_ids[first + 1]
        return rows

    monkeypatch.setattr(source.TurnSource, "encode", faulty)
    with pytest.raises(UserError, match=r"the smoke run failed its gate.*later_turns_hidden"):
        gate(tmp_path / "leaking")
    found = checks(tmp_path / "leaking" / "smoke")
    failed = {name for name, check in found.items() if check["hard"] and check["passed"] is False}
    assert failed == {"later_turns_hidden_first_window", "later_turns_hidden_last_window"}
