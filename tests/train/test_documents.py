"""Tails and cuts: which canvases training shows, drawn by keys and counted."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamtune.errors import UserError
from dreamtune.shards import read_meta, read_split
from dreamtune.train.documents import check_padding, cut_length, make_beginning, tail_length, with_padding
from dreamtune.train.train import train_adapter
from dreamtune.train.windows import Share, TrainingWindows
from tiny import END, IDS, MASK, MAX_TOKENS, VOCAB, make_model, make_rows, make_shards, plan, settings


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def windows(shards: Path, **changes: object) -> TrainingWindows:
    return TrainingWindows(read_split(shards, "train"), read_meta(shards), settings(**changes))


def test_long_tails_come_in_their_share_and_are_even() -> None:
    drawn = np.array([tail_length(0, 0, example, 4, long_tail=99, long_share=0.2) for example in range(5000)])
    short = np.array([tail_length(0, 0, example, 4) for example in range(5000)])
    assert (drawn > 4).mean() == pytest.approx(0.2 * 95 / 100, abs=0.02) and drawn.max() == 99
    assert (drawn[drawn <= 4] == short[drawn <= 4]).mean() > 0.98  # the others keep their length
    assert np.bincount(drawn[drawn > 4] // 20) == pytest.approx(np.array([150, 200, 200, 200, 200]), abs=60)
    assert [tail_length(0, 0, example, 4, 99, 0.0) for example in range(50)] == short[:50].tolist()


def test_cuts_come_in_their_share_and_are_even() -> None:
    drawn = [cut_length(0, 0, example, 9, 0.3) for example in range(5000)]
    cut = [length for length in drawn if length is not None]
    assert len(cut) / 5000 == pytest.approx(0.3, abs=0.02)
    assert np.bincount(cut) == pytest.approx(np.array([0, *[188] * 8]), abs=50)  # never the whole response
    assert [cut_length(0, 1, example, 9, 0.3) for example in range(50)] != drawn[:50]
    assert {cut_length(0, 0, example, 1, 1.0) for example in range(50)} == {None}
    assert {cut_length(0, 0, example, 9, 0.0) for example in range(50)} == {None}


def test_a_beginning_has_neither_end_token_nor_tail() -> None:
    row = make_rows(1)[0]
    document = make_beginning(row, 2)
    assert document.tokens.tolist() == row["input_ids"][: row["prompt_tokens"] + 2]
    assert document.cut and document.tail_tokens == 0


def test_windows_show_what_the_settings_say_and_count_it(shards: Path) -> None:
    made = windows(shards, max_tail=2, long_tail=40, long_tail_share=0.5, cut_share=0.25)
    documents = [noised.document for step in range(1, made.total + 1) for noised in made.noised(step)]
    for document in documents:
        stored = read_split(shards, "train")[document.example_id]
        whole = len(document.tokens) - document.tail_tokens
        assert document.tokens[:whole].tolist() == stored["input_ids"][:whole]
        assert document.cut == (whole < len(stored["input_ids"])) and document.prompt_tokens < whole
        assert (document.tokens[whole:] == END).all() and not (document.cut and document.tail_tokens)
    # Tails come on top of the longest row.
    assert max(len(document.tokens) for document in documents) > MAX_TOKENS
    assert made.longest == made.lengths.max() + 40 >= max(len(document.tokens) for document in documents)
    all_windows = [made.window(step, Share(), plan()) for step in range(1, made.total + 1)]
    assert sum(window.tail_tokens for window in all_windows) == sum(document.tail_tokens for document in documents)
    cut = sum(document.cut for document in documents)
    assert sum(window.cut_documents for window in all_windows) == cut and 4 < cut < 20
    mean = np.mean([len(document.tokens) for document in documents]) * made.documents
    assert mean < made.window_tokens < 1.4 * mean  # cut rows count as whole ones


def test_padding_tokens_fill_the_tail_in_turn(shards: Path) -> None:
    made = windows(shards, max_tail=9, padding_tokens=[7, 8, 9])
    tails = [
        noised.document.tokens[-noised.document.tail_tokens :].tolist()
        for noised in made.noised(1)
        if noised.document.tail_tokens
    ]
    assert tails and all(tail == [7, 8, 9, 7, 8, 9, 7, 8, 9][: len(tail)] for tail in tails)
    plain = windows(shards, max_tail=9).noised(1)
    assert [len(a.input_ids) for a in made.noised(1)] == [len(b.input_ids) for b in plain]
    untailed = windows(shards, max_tail=0).noised(1)[0].document
    assert with_padding(untailed, [7, 8]).tokens.tolist() == untailed.tokens.tolist()


@pytest.mark.parametrize("token", [MASK, END, VOCAB, -1])
def test_padding_that_cannot_stand_in_a_tail_is_refused_in_one_line(token: int) -> None:
    with pytest.raises(UserError, match=f"train.padding_tokens holds {token}"):
        check_padding([3, token], IDS, VOCAB)
    check_padding([3, 4], IDS, VOCAB)


def test_a_long_tail_weighs_as_much_as_one_token(shards: Path) -> None:
    one, each = (windows(shards, max_tail=30, tail_loss=counts) for counts in ("one", "each"))
    for a, b in zip(one.noised(1), each.noised(1), strict=True):
        tail = a.document.tail_tokens
        assert (a.input_ids == b.input_ids).all() and (a.elbo_weights == b.elbo_weights).all()
        assert b.loss_tokens - a.loss_tokens == max(tail - 1, 0) and a.nll_tokens == b.nll_tokens
        if tail:
            assert a.weights[-tail:] == pytest.approx(b.weights[-tail:] / tail)
            assert (a.weights[:-tail] == b.weights[:-tail]).all()


def test_training_says_how_many_tokens_the_tails_added(shards: Path, tmp_path: Path) -> None:
    """A whole run with all of it: its canaries pass, and training.json has the counts."""
    train = settings(max_tail=2, long_tail=20, long_tail_share=0.5, cut_share=0.25, padding_tokens=[60, 61])
    out = tmp_path / "out"
    out.mkdir()
    counts = train_adapter(train, make_model(tmp_path / "base"), shards, out, tmp_path / "work")
    summary = json.loads((out / "training.json").read_text())
    made = TrainingWindows(read_split(shards, "train"), read_meta(shards), train)
    documents = [noised.document for step in range(1, made.total + 1) for noised in made.noised(step)]
    assert summary["tail_tokens"] == counts["tail_tokens"] == sum(document.tail_tokens for document in documents) > 0
    assert summary["cut_documents"] == sum(document.cut for document in documents) > 0
    assert json.loads((out / "gate.json").read_text())["passed"]
