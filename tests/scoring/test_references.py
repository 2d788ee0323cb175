"""What a reference is compared by, and how many test rows have such an answer."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from dreamtune.errors import UserError
from dreamtune.scoring.references import asks_for_a_proof, audit_references, checkable, gradability, reference_answer
from dreamtune.scoring.score import is_correct
from dreamtune.settings.score import ScoreConfig

MARKER = "the final answer is:"
LONG = "We split the set into two parts and count each of them with some care. " * 4


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        # GSM8K, flattened, spaced, followed by more
        ("a + b = c. #### 34", "34"), ("17 + 17 = 34 #### 34", "34"), ("17 + 17 = <<17+17=34>>34\n####34", "34"),
        ("She has 34.\n#### 34\nThe answer is: 34", "34"), ("#### 34\n\nThe answer is: 34", "34"), ("#### 34\n", "34"),
        ("so $34. #### $34", "34"), ("#### 1,234 The answer is: 1,234", "1234"), ("#### 34 apples", "34"),
        ("#### -3/4", "-0.75"),
        ("step 1: 2 + 3 = 5 step 2: 5 * 2 = 10 #### 10", "10"), ("#### 12.\nThat is all.", "12"),
        ("<think>34? 35?</think>34", "34"), ("34 <|endoftext|>", "34"), ("first #### 3 then #### 34", "34"),
        # named
        (LONG + "\nAnswer: 34", "34"), (LONG + "\n**Answer:** 34", "34"), (LONG + "\nAnswer: **34**", "34"),
        ("Ans: 34", "34"),
        (LONG + "The final answer is: 34", "34"), (LONG + "Therefore, the answer is 34.", "34"),
        (LONG + "The answer is thus $34$.", "34"),
        (LONG + "\nThe answer is: 34", "34"),
        (LONG + "\nThe correct answer is (B).", "B"), (LONG + "\n<answer>34</answer>", "34"),
        # displayed
        ("$$\n34\n$$", "34"), ("\\[\n34\n\\]", "34"), ("\\begin{align*}\n34\n\\end{align*}", "34"),
        ("```\n34\n```", "34"),
        (LONG + "the final answer is:\n$$\n34\n$$", "34"), (LONG + "\nAnswer:\n\\[\nx = 34\n\\]", "34"),
        ("$$34$$", "34"),
        (
            LONG + "the final answer is: \\begin{pmatrix}\n1 & 2 \\\\\n3 & 4\n\\end{pmatrix}",
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        ),
        # boxes
        (LONG + "so $\\boxed{3}$ and $\\boxed{4}$", "3, 4"), (LONG + "$\\boxed{0.5} = \\boxed{\\frac12}$", "1/2"),
        ("\\boxed{34", "34"),
    ],
)  # fmt: skip
def test_a_marked_answer_is_found(solution: str, answer: str) -> None:
    assert reference_answer(solution, MARKER) is not None, solution
    assert is_correct(f"\\boxed{{{answer}}}", solution), reference_answer(solution, MARKER)
    assert not is_correct("\\boxed{35}", solution)


@pytest.mark.parametrize(
    "solution",
    [
        LONG,
        f"#### Lemma 8:\n{LONG}",
        f"#### 1. First part\n{LONG}",
        f"#### Conclusion\n{LONG}",
        "either $\\boxed{2}$ or $\\boxed{5}$",
        f"(a) The answer is: $\\boxed{{2}}$. {LONG} (b) The answer is: $\\boxed{{2^{{1011}}}}$.",
        "press $\\boxed{A}$ or $\\boxed{B}$; so $\\boxed{A}, \\boxed{B}, \\boxed{A}$ and it is shown",
        f"The answer is found by counting. {LONG}",
        f"{LONG}\n{LONG}",
        "",
    ],
)
def test_where_nothing_is_marked_nothing_is_compared(solution: str) -> None:
    assert reference_answer(solution, MARKER) is None


ROWS = [
    {"example_id": 3, "question": "How many?", "answer": "2 + 3 = 5\n#### 5"},
    {"example_id": 5, "question": "How many?", "answer": "2 + 2 = 4. #### 4"},
    {"example_id": 7, "question": "Prove that 2 is even.", "answer": "It is. $\\boxed{2}$"},
    {"example_id": 9, "question": "Why?", "answer": LONG},
]


def test_gradable_rows_are_counted_and_shown() -> None:
    audit = gradability(ROWS, ScoreConfig())
    assert (audit["rows"], audit["gradable"]) == (4, 2)
    assert audit["reasons"] == {"asks for a proof": 1, "no short answer is marked": 1}
    assert [example["compared"] for example in audit["examples"]] == ["5", "4", None, None]
    assert audit["examples"][0]["reference"] == "2 + 3 = 5\n#### 5"
    assert audit["sentence"].startswith("2 of 4 test rows can be graded (1: asks for a proof, 1: no short")
    assert audit["warning"] is None
    few = gradability([*ROWS, *ROWS[2:]], ScoreConfig())
    assert "only 2 of 6 test rows can be graded" in few["warning"] and few["warning"] in few["sentence"]
    many = gradability(ROWS[:2] * 5, ScoreConfig())
    assert (
        len(many["examples"]) == 5 and many["reasons"] == {} and many["sentence"] == "10 of 10 test rows can be graded"
    )
    assert gradability([], ScoreConfig())["warning"] is None


def test_the_marker_of_the_settings_counts() -> None:
    row = {"example_id": 0, "question": "How many?", "answer": LONG + "In short: 5"}
    assert gradability([row], ScoreConfig())["gradable"] == 0
    assert gradability([row], ScoreConfig(marker="In short:"))["gradable"] == 1


def test_the_stage_writes_and_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, out = tmp_path / "shards", tmp_path / "out"
    (shards / "test").mkdir(parents=True)
    out.mkdir()
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(shards / "test/0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    splits = {"test": {"rows": 4, "files": ["test/0.arrow"]}}
    (shards / "shards.json").write_text(json.dumps({"splits": splits}))
    assert audit_references(ScoreConfig(), shards, out)["gradable"] == 2
    assert json.loads((out / "references.json").read_text())["rows"] == 4
    said = capsys.readouterr().err
    assert said.startswith("references: 2 of 4 test rows can be graded")
    assert said.splitlines()[1:] == [
        "  row 3: …2 + 3 = 5 #### 5 → compared with 5",
        "  row 5: …2 + 2 = 4. #### 4 → compared with 4",
        "  row 7: …It is. $\\boxed{2}$ → not graded: asks for a proof",
        f"  row 9: …{LONG.strip()[-60:]} → not graded: no short answer is marked",
    ]
    splits["test"] = {"rows": 0, "files": []}
    (shards / "shards.json").write_text(json.dumps({"splits": splits}))
    assert audit_references(ScoreConfig(), shards, out)["rows"] == 0
    splits["validation"] = {"rows": 4, "files": ["test/0.arrow"]}
    (shards / "shards.json").write_text(json.dumps({"splits": splits}))
    audit_references(ScoreConfig(), shards, out, fewest_validation=2)
    assert json.loads((out / "references.json").read_text())["validation"] == {"rows": 4, "gradable": 2}
    with pytest.raises(UserError, match=r"validation takes at least 3 .*graded, and 2 of 4 can be; raise"):
        audit_references(ScoreConfig(), shards, out, fewest_validation=3)


def test_why_a_row_cannot_be_graded() -> None:
    assert checkable("How many?", "5", ScoreConfig()) == ("5", "gradable")
    assert checkable("How many?", " ", ScoreConfig()) == (None, "no reference")
    assert checkable("How many?", None, ScoreConfig()) == (None, "no reference")
    assert asks_for_a_proof("Show that it holds.") and not asks_for_a_proof("Show that it holds, and find x.")


def test_the_extractor_of_a_turn_says_what_its_answers_are_graded_against() -> None:
    """Of a chat's turn nothing is an answer but what the configuration names."""
    said = "There are 7 days, so the final answer is: 7.\nOr \\boxed{8}?"
    found = {name: checkable("How many?", said, ScoreConfig(answer=name))[0] for name in ("boxed", "final_answer", "x")}
    assert found["boxed"] == "8" and found["final_answer"].startswith("7")
    assert checkable("How many?", "Seven, I think, but who knows?", ScoreConfig(answer="boxed"))[0] is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, "conversations are not graded (score.answer is null)"), ("boxed", "1 of 1 test rows can be graded")],
)
def test_of_conversations_only_turns_with_a_reference_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str | None, said: str
) -> None:
    """Earlier turns have none, and are no rows that the user forgot to mark."""
    reference = "" if answer is None else "It is \\boxed{4}."
    rows = [{"example_id": n, "question": "2 + 2?", "answer": text} for n, text in enumerate(("", "", reference))]
    (tmp_path / "test").mkdir()
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(tmp_path / "test/0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    splits = {"test": {"rows": 3, "files": ["test/0.arrow"]}}
    (tmp_path / "shards.json").write_text(json.dumps({"splits": splits, "template": None}))
    counts = audit_references(ScoreConfig(answer=answer), tmp_path, tmp_path)
    assert counts["gradable"] == counts["rows"] == (answer is not None)
    assert capsys.readouterr().err.startswith(f"references: {said}")
    assert json.loads((tmp_path / "references.json").read_text())["warning"] is None
