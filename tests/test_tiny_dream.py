"""The embedded model, its tokenizer and its rows: what `make demo` rests on."""

import hashlib
import json
import math
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import ROOT, SHARED, needs_shared
from dreamtune.config import load_config
from dreamtune.contamination.questions import question_hash
from dreamtune.data.template import render_answer, render_prompt, render_reasoning
from dreamtune.data.tokenizer import load_tokenizer

TINY = ROOT / "resources" / "tiny-dream"
sys.path.append(str(TINY))

import corpus  # noqa: E402
import make_rows  # noqa: E402
import make_tokenizer  # noqa: E402
from problems import Step  # noqa: E402

STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)\.")
EVERY = 8  # of the chunks of the pretraining corpus one in so many is looked through
MAX_POSITIONS, MAX_NEW = 64, 32


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return pq.read_table(TINY / "rows.parquet").to_pylist()


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(TINY))


@pytest.fixture(scope="module")
def demo():
    return load_config(ROOT / "config" / "demo.yaml").experiments["demo"]


def header(path: Path) -> dict[str, dict]:
    """Return the header of a safetensors file: name -> dtype and shape."""
    content = path.read_bytes()
    tensors = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: tensor for name, tensor in tensors.items() if name != "__metadata__"}


# ---- the weights


def test_the_digest_is_that_of_the_weights():
    recorded = (TINY / "weights.sha256").read_text().split()
    content = (TINY / "model.safetensors").read_bytes()
    assert recorded == [hashlib.sha256(content).hexdigest(), "model.safetensors"]
    assert len(content) < 5_000_000


def test_the_checkpoint_has_one_to_two_million_parameters_under_the_official_names():
    tensors = header(TINY / "model.safetensors")
    sizes = {name: math.prod(tensor["shape"]) for name, tensor in tensors.items()}
    assert 1_000_000 <= sum(sizes.values()) <= 2_000_000
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= set(sizes)
    assert "model.layers.0.self_attn.q_proj.bias" in sizes
    linear = [size for name, size in sizes.items() if name.endswith("_proj.weight")]
    assert linear and all(size % 64 == 0 for size in linear), "NF4 quantises in blocks of 64"


def test_config_and_tokenizer_agree(tokenizer):
    config = json.loads((TINY / "config.json").read_text())
    assert config["model_type"] == "Dream" and config["architectures"] == ["DreamModel"]
    assert (
        config["vocab_size"] == tokenizer.vocab_size == header(TINY / "model.safetensors")["lm_head.weight"]["shape"][0]
    )
    named = (config["mask_token_id"], config["bos_token_id"], config["eos_token_id"], config["pad_token_id"])
    assert named == (tokenizer.mask_id, tokenizer.beginning_id, tokenizer.end_id, tokenizer.pad_id)
    assert tokenizer.end_id == tokenizer.pad_id


def test_the_log_shows_that_the_model_learned_in_the_shipped_runs():
    lines = [json.loads(line) for line in (TINY / "pretrain_log.jsonl").read_text().splitlines()]
    runs = [line["run"] for line in lines if "run" in line]
    assert [(run["seed"], run["chunks"]) for run in runs] == [(seed, chunks) for seed, chunks, _ in corpus.SHIPPED]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.3 < 1 < losses[0]  # smoothing in the last run costs likelihood


# ---- the rows


def test_the_generator_writes_the_shipped_rows():
    assert make_rows.make_table().equals(pq.read_table(TINY / "rows.parquet"))
    assert make_rows.make_table(seed=make_rows.SEED + 1).slice(0, 9) != make_rows.make_table().slice(0, 9)


@needs_shared
def test_the_columns_are_those_of_s1k():
    real = pq.read_schema(SHARED / "data" / "s1k_101.parquet")
    assert pq.read_schema(TINY / "rows.parquet").remove_metadata() == real.remove_metadata()


def test_all_13_columns_are_filled_strings(rows):
    assert all(len(row) == 13 and all(isinstance(value, str) and value for value in row.values()) for row in rows)


def test_questions_are_unique_and_split_as_the_demo_wants(rows, demo):
    assert len({question_hash(row["question"]) for row in rows}) == len(rows)
    split = demo.data.split
    assert (split.test, split.validation, split.seed) == (make_rows.TEST, make_rows.VALIDATION, make_rows.SPLIT_SEED)
    assert demo.data.template == make_rows.TEMPLATE
    places = [question_hash(row["question"], split.seed) / 2**64 for row in rows]
    test = sum(place < split.test for place in places)
    validation = sum(split.test <= place < split.test + split.validation for place in places)
    assert (len(rows) - test - validation, validation, test) == (1000, 32, 340)


def test_every_reasoning_is_right_and_ends_in_the_answer(rows):
    """Checked apart from the generator: from the texts alone."""
    for row in rows:
        question, reasoning = row["question"], row["deepseek_thinking_trajectory"]
        steps = [(int(a), sign, int(b), int(c)) for a, sign, b, c in STEP.findall(reasoning)]
        assert STEP.sub("", reasoning).strip() == "" and 2 <= len(steps) <= 3, reasoning
        known = {int(n) for n in re.findall(r"\d+", question)}
        if re.search(r"\b(half|double|evenly)\b", question):
            known.add(2)
        for left, sign, right, result in steps:
            assert {left, right} <= known, f"{row}: a number out of nowhere"
            assert left == {"+": result - right, "-": result + right, "*": result / right, "/": result * right}[sign], (
                row
            )
            known.add(result)
        assert str(steps[-1][3]) == row["solution"]


def test_expressions_have_the_value_python_gives_them(rows):
    checked = 0
    for row in rows:
        sign_only = re.fullmatch(r"What is ([-+*()\d ]+)\?", row["question"])
        if sign_only:
            checked += 1
            assert eval(sign_only.group(1), {"__builtins__": {}}) == int(row["solution"])
    assert checked > 100


def test_a_step_with_a_remainder_or_beyond_99_is_refused():
    assert Step(12, "/", 4).valid and Step(4, "-", 4).valid
    assert not Step(12, "/", 5).valid and not Step(60, "+", 40).valid and not Step(4, "-", 5).valid


# ---- tokens


def test_prompt_and_response_fit(rows, demo, tokenizer):
    template = demo.data.template
    for row in rows:
        prompt = 1 + len(tokenizer.encode(render_prompt(template, row["question"])))
        reasoning = tokenizer.encode(render_reasoning(template, row["deepseek_thinking_trajectory"]))
        response = len(reasoning + tokenizer.encode(render_answer(template, row["solution"]))) + 1
        assert prompt + MAX_NEW <= MAX_POSITIONS and response <= MAX_NEW, row["question"]
    assert demo.generate.max_new_tokens == MAX_NEW


def test_the_text_of_every_row_comes_back(rows, demo, tokenizer):
    unknown = tokenizer.backend.token_to_id(make_tokenizer.UNKNOWN)
    template = demo.data.template
    for row in rows:
        prompt = render_prompt(template, row["question"])
        reasoning = render_reasoning(template, row["deepseek_thinking_trajectory"])
        answer = render_answer(template, row["solution"])
        parts = [tokenizer.encode(part) for part in (prompt, reasoning, answer)]
        ids = [token for part in parts for token in part]
        assert ids == tokenizer.encode(prompt + reasoning + answer), "the parts have the tokens of the whole"
        assert unknown not in ids
        assert tokenizer.decode(ids) == " ".join((prompt + reasoning + answer).split())


def test_digits_are_single_tokens_and_read_back_as_one_number(tokenizer):
    ids = tokenizer.encode("12 + 30 = 42. Therefore, the final answer is: 42")
    assert [tokenizer.backend.id_to_token(i) for i in ids[:2]] == ["1", "2"]
    text = tokenizer.decode([tokenizer.beginning_id, *ids, tokenizer.end_id, tokenizer.end_id])
    assert text == "12 + 30 = 42. Therefore, the final answer is: 42"


def test_a_word_nobody_knows_is_one_unknown_token(tokenizer):
    assert tokenizer.encode("zebra") == [tokenizer.backend.token_to_id(make_tokenizer.UNKNOWN)]


def test_the_script_writes_the_shipped_tokenizer():
    shipped = json.loads((TINY / "tokenizer.json").read_text())
    assert json.loads(make_tokenizer.build(make_tokenizer.vocabulary()).to_str()) == shipped


# ---- the pretraining corpus


def sampled(excluded, seed: int, chunks: int, mix: corpus.Mix):
    for chunk in range(0, chunks, EVERY):
        yield from corpus.documents(seed, chunk, excluded, mix)


def test_no_row_is_in_the_pretraining_corpus(rows):
    excluded = frozenset(question_hash(row["question"]) for row in rows)
    texts = {" ".join(row["question"].split()) for row in rows}
    for run in corpus.SHIPPED:
        for document in sampled(excluded, *run):
            assert question_hash(document.question) not in excluded
            assert document.question not in texts


def test_without_the_filter_some_would_be(rows):
    excluded = frozenset(question_hash(row["question"]) for row in rows)
    seed, chunks, mix = corpus.SHIPPED[0]
    assert any(question_hash(document.question) in excluded for document in sampled(frozenset(), seed, chunks, mix))


def test_the_filter_rejects_a_planted_question_in_any_spelling():
    free = list(islice(corpus.documents(1, 0, frozenset()), 50))
    planted = next(document.question for document in free if document.question.count(" ") > 6)
    kept = list(islice(corpus.documents(1, 0, {question_hash(f"  {planted.upper()} ")}), 49))
    assert kept == [document for document in free if document.question != planted][:49]


def test_documents_are_a_function_of_seed_and_chunk():
    first = list(islice(corpus.documents(1, 3, frozenset()), 20))
    assert first == list(islice(corpus.documents(1, 3, frozenset()), 20))
    assert first != list(islice(corpus.documents(1, 4, frozenset()), 20))
    assert first != list(islice(corpus.documents(2, 3, frozenset()), 20))


def test_the_base_never_saw_the_answer_format():
    for seed, _, mix in corpus.SHIPPED:
        for document in corpus.documents(seed, 0, frozenset(), mix):
            text = f"{document.prompt} {document.response}"
            assert "final answer" not in text and "step by step" not in text


def test_pretraining_runs_by_hand():
    help_text = subprocess.run(
        [sys.executable, "resources/tiny-dream/pretrain.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--minutes" in help_text and "--steps" in help_text
