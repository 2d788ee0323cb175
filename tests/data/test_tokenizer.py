"""The tokenizer: what it reads, what it refuses, and that Dream's is rebuilt exactly from vocab.json and merges.txt."""

import json
from pathlib import Path

import polars as pl
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from conftest import SHARED, needs_shared
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.errors import UserError

WORDS = ["[UNK]", "[MASK]", "[END]", "what", "is", "3", "+", "4", "?"]
CONFIG = {"mask_token": "[MASK]", "eos_token": "[END]"}
TRICKY = [
    "",
    "  leading and   inner spaces\n\n\ttabs \r\n",
    "I'LL don't we've",
    "12345 3.14 ½ ²",
    "naïve café e\u0301 ﬁ Ångström",
    "数学の問題 🙂👩‍👩‍👧",
    "\\frac{1}{2} <|im_start|>user",
]


def write_tokenizer(folder: Path, config: dict[str, object] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[MASK]", "[END]"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG if config is None else config))
    return folder


def test_word_level_tokenizer_encodes_and_decodes_readably(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_tokenizer(tmp_path)))
    assert tokenizer.encode("what is 3 + 4 ?") == [3, 4, 5, 6, 7, 8]
    assert tokenizer.decode([3, 4, 5, 6, 7, 8, 2, 2]) == "what is 3 + 4 ?"
    assert tokenizer.pieces([3, 4, 2]) == ["what", " is", ""]
    assert (tokenizer.mask_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.beginning_id) == (1, 2, 2, None)
    assert tokenizer.vocab_size == len(WORDS) and tokenizer.unknown_id == 0


def test_long_batches_are_cut_into_chunks_and_come_out_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(str(write_tokenizer(tmp_path)))
    texts = ["what", "is 3", "", "+ 4 + 4 + 4", "?"] * 7
    whole = tokenizer.encode_batch(texts)
    monkeypatch.setattr("dreamtune.data.tokenizer.CHUNK_CHARACTERS", 6)
    assert tokenizer.encode_batch(texts) == whole == [tokenizer.encode(text) for text in texts]


def test_a_saved_truncation_or_padding_is_switched_off(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).encode("what is 3") == [3, 4, 5]


@pytest.mark.parametrize("where", ["special_tokens_map.json", "config.json"])
def test_special_tokens_are_found_in_the_other_files(tmp_path: Path, where: str) -> None:
    write_tokenizer(tmp_path, {})
    as_ids = {"mask_token_id": 1, "eos_token_id": [2, 7], "bos_token_id": 2}
    as_text = {"mask_token": {"content": "[MASK]"}, "eos_token": "[END]", "bos_token": "[END]"}
    (tmp_path / where).write_text(json.dumps(as_ids if where == "config.json" else as_text))
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.mask_id, tokenizer.end_id) == (1, 2)
    assert tokenizer.beginning_id is None, "a beginning token equal to the end token is none"


def test_another_mask_token_by_its_text(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, {"mask_token": "[END]", "eos_token": "[END]"})
    with pytest.raises(UserError, match="is its end token too"):
        load_tokenizer(str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path), mask_token="[MASK]")
    assert (tokenizer.mask_id, tokenizer.end_id) == (1, 2) and tokenizer.special_ids() == {1, 2}
    with pytest.raises(UserError, match=r"model\.mask_token is 'what', .* a part of ordinary text"):
        load_tokenizer(str(tmp_path), mask_token="what")


@pytest.mark.parametrize(("missing", "words"), [("mask_token", "no mask token"), ("eos_token", "no end token")])
def test_missing_special_tokens_are_refused_with_the_folder(tmp_path: Path, missing: str, words: str) -> None:
    write_tokenizer(tmp_path, {k: v for k, v in CONFIG.items() if k != missing})
    with pytest.raises(UserError, match=words) as error:
        load_tokenizer(str(tmp_path))
    advice = {"mask_token": "set model.mask_token to", "eos_token": "set eos_token in its tokenizer_config.json"}
    assert str(tmp_path) in str(error.value) and advice[missing] in str(error.value) and "\n" not in str(error.value)


def test_folders_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"model\.revision"):
        load_tokenizer("owner/name")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is not a tokenizer"):
        load_tokenizer(str(tmp_path))


def write_bpe(folder: Path, config: dict[str, object]) -> Path:
    """A byte-level BPE of 256 bytes and one merge, in the files Dream's repository has."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    (folder / "vocab.json").write_text(json.dumps(letters | {"ab": 256}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_bpe_is_built_from_vocab_and_merges(tmp_path: Path) -> None:
    config = {"tokenizer_class": "DreamTokenizer", "mask_token": "<m>", "eos_token": "<e>"}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<m>": 258, "<e>": 257}))
    tokenizer = load_tokenizer(str(write_bpe(tmp_path, config)))
    assert (tokenizer.mask_id, tokenizer.end_id) == (258, 257)
    assert tokenizer.encode("ab") == [256]
    assert len(tokenizer.encode("12")) == 2, "digits are single"
    assert tokenizer.decode([*tokenizer.encode("ab é\n"), 257]) == "ab é\n"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 258), max_size=12))
def test_pieces_joined_are_the_text_even_where_tokens_split_a_character(tmp_path: Path, ids: list[int]) -> None:
    config = {"tokenizer_class": "DreamTokenizer", "mask_token": "<m>", "eos_token": "<e>"}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<m>": 258, "<e>": 257}))
    tokenizer = load_tokenizer(str(write_bpe(tmp_path, config)))
    for tokens in (ids, tokenizer.encode("x " + "é🙂"[: len(ids)])):
        pieces = tokenizer.pieces(tokens)
        assert len(pieces) == len(tokens) and "".join(pieces) == tokenizer.decode(tokens)
    assert tokenizer.pieces(tokenizer.encode("aé")) == ["a", "", "é"]


def test_bpe_that_does_not_fit_its_added_tokens_or_class_is_refused(tmp_path: Path) -> None:
    write_bpe(tmp_path, {"tokenizer_class": "Qwen2Tokenizer"})
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<m>": 300}))
    with pytest.raises(UserError, match="do not belong together"):
        load_tokenizer(str(tmp_path))
    write_bpe(tmp_path, {"tokenizer_class": "GPT2Tokenizer"})
    with pytest.raises(UserError, match="GPT2Tokenizer"):
        load_tokenizer(str(tmp_path))


@needs_shared
def test_dreams_tokenizer_from_vocab_and_merges_equals_its_tokenizer_json(tmp_path: Path) -> None:
    native = SHARED / "tokenizer" / "dream"
    content = json.loads((native / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in content["model"]["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    added = {token.pop("id"): token for token in content["added_tokens"]}
    names = {"mask_token": "<|mask|>", "eos_token": "<|endoftext|>", "bos_token": "<|beginoftext|>"}
    config = {"tokenizer_class": "DreamTokenizer", "added_tokens_decoder": added, **names}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = load_tokenizer(str(tmp_path)), load_tokenizer(str(native))
    assert ours.describe() == theirs.describe()
    assert ours.describe() == {
        "mask_id": 151666,
        "end_id": 151643,
        "beginning_id": 151665,
        "pad_id": 151643,
        "vocab_size": 151667,
    }
    rows = pl.read_parquet(SHARED / "data" / "s1k_101.parquet")
    texts = TRICKY + rows["question"].to_list() + rows["solution"].to_list()
    texts += rows["gemini_thinking_trajectory"].head(20).to_list()
    encoded = ours.encode_batch(texts)
    assert encoded == theirs.encode_batch(texts)
    assert [ours.decode(ids) for ids in encoded] == [theirs.decode(ids) for ids in encoded]
