"""The report where parts are absent, rows are few, and data or answers need a warning."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.errors import UserError
from dreamtune.formats.likelihood import FULL
from dreamtune.formats.questions import QUESTIONS
from dreamtune.formats.reads import Reads
from dreamtune.report.audit_view import audit_facts
from dreamtune.report.comparison_view import FASTER, SAMPLER, sampler
from dreamtune.report.explorer import choose_answers
from dreamtune.report.text import reveal
from dreamtune.scoring.references import gradability
from dreamtune.scoring.score import score_answers
from dreamtune.settings.generate import GenerateConfig
from dreamtune.settings.score import ScoreConfig
from report_fixture import BIDI, HOSTILE, write_reads
from report_page import Page, render

pytest_plugins = "report_page"  # its fixture


@pytest.mark.parametrize(
    "absent",
    [
        ("likelihood",),
        ("answers/", "scores/"),
        ("smoke",),
        ("shards",),
        ("full",),
        ("answers/",),
        ("scores/test/greedy/base",),
    ],
)
def test_parts_may_be_absent(tmp_path: Path, absent: tuple[str, ...]) -> None:
    reads = {n: f for n, f in write_reads(tmp_path / "reads", questions=12).items() if not n.startswith(absent)}
    html, summary, _ = render(reads, tmp_path / "out")
    assert "</html>" in html
    if "full" in absent:
        assert summary["training"] == {}
    if any(name.startswith("scores") for name in absent):
        assert summary["accuracy"]["gain"]["value"] is None and "not enough data" in html.lower()


def test_files_may_be_absent_and_folders_empty(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    for folder in reads.values():
        for file in folder.iterdir():
            if file.name != "manifest.json":
                file.unlink()
    html, summary, _ = render(reads, tmp_path / "out")
    assert summary["verdict"] == "invalid" and "left no record of its canaries" in html


def test_what_a_job_used_stands_beside_what_it_asked_for(tmp_path: Path) -> None:
    """Manifests of earlier releases tell no usage; a job without SLURM was given no number of CPUs."""
    reads = write_reads(tmp_path / "reads", questions=2)
    asked = {"by": "SLURM", "cpus": 4, "memory_gib": 64.0, "minutes": 720}
    used = {
        "asked": asked,
        "processes": 1,
        "wall_s": 4980.0,
        "cpu_s": 7470.0,
        "memory_gib": 9.2,
        "gpu_memory_gib": 21.5,
    }
    local = used | {"asked": {"by": "rules", "cpus": None, "memory_gib": 4.0, "minutes": 20}, "gpu_memory_gib": None}
    for name, usage in {"full": used, "shards": local}.items():
        path = reads[name] / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"usage": usage}))
    html, _, _ = render(reads, tmp_path / "out")
    table = html.split('aria-label="Used and asked for"')[1].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in table.split("<tr>")[2:]]
    assert rows == [
        ["shards", "9.2 of 4", "1.5 of –", "1 h 23 min of 20 min 0 s", "–", "rules"],
        ["full", "9.2 of 64", "1.5 of 4", "1 h 23 min of 12 h 0 min", "21.5", "SLURM"],
    ]


def test_one_question_and_none(tmp_path: Path) -> None:
    html, summary, _ = render(write_reads(tmp_path / "one", questions=1), tmp_path / "out1")
    assert summary["accuracy"]["base"]["n"] == 1 and "nan" not in html.lower().split("<script>")[0].split()
    reads = write_reads(tmp_path / "none", questions=4)
    for who in ("base", "tuned"):
        for file in (
            reads[f"answers/test/greedy/{who}"] / "answers.parquet",
            reads[f"scores/test/greedy/{who}"] / "scores.parquet",
        ):
            pl.read_parquet(file).clear().write_parquet(file)
    frame = reads["likelihood"] / "likelihood.parquet"
    pl.read_parquet(frame).clear().write_parquet(frame)
    html, summary, _ = render(reads, tmp_path / "out2")
    assert summary["accuracy"]["base"] == {"value": None, "low": None, "high": None, "n": 0, "effective_n": 0}
    assert "not enough data" in html


def test_similar_questions_count_as_fewer(tmp_path: Path) -> None:
    """Sixty questions of six templates; before, all of them were taken for unrelated."""
    reads = write_reads(tmp_path / "reads", questions=60)
    plain, before, _ = render(reads, tmp_path / "before")
    assert "In brackets beside n" not in plain and before["accuracy"]["clusters"] == 60
    files = [reads[f"scores/test/greedy/{who}"] / "scores.parquet" for who in ("base", "tuned")]
    for file in (*files, reads["likelihood"] / "likelihood.parquet"):
        pl.read_parquet(file).with_columns(cluster=pl.col("example_id") // 10).write_parquet(file)
    html, summary, _ = render(reads, tmp_path / "after")
    accuracy, effective = summary["accuracy"], f"{summary['accuracy']['gain']['effective_n']:.0f}"
    assert (accuracy["base"]["n"], accuracy["clusters"], summary["nll"]["clusters"]) == (60, 6, 6)
    assert f"in 6 clusters of similar questions that count as {effective} unrelated ones" in summary["sentence"]
    assert "In brackets beside n" in html and f"60 ({effective})" in html
    assert f"with these 60 questions, which count as {effective} unrelated ones" in html


def test_the_full_likelihood_stands_beside_the_headline(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=30)
    html, summary, _ = render(reads, tmp_path / "without")
    assert summary["nll"]["full"] is None and "given the length of each response" in html
    rows = pl.read_parquet(reads["likelihood"] / "likelihood.parquet").filter(pl.col("draw") >= 0)
    rows = rows.with_columns(pl.col("nll_base") + 4, tail_tokens=pl.lit(3, pl.Int32)).select(FULL.names())
    rows.write_parquet(reads["likelihood"] / "likelihood_full.parquet")
    html, summary, _ = render(reads, tmp_path / "with")
    full, nll = summary["nll"]["full"], summary["nll"]
    assert full["tail_tokens"] == 90 and full["base"]["value"] == pytest.approx(nll["base"]["value"] + 4 / 20)
    assert full["delta"]["value"] == pytest.approx(nll["delta"]["value"] - 4 / 20)
    assert "over 90 further end tokens" in html


def test_answers_of_another_split_are_refused(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    scores = reads["scores/test/greedy/base"] / "scores.parquet"
    pl.read_parquet(scores).with_columns(pl.col("example_id") + 5).write_parquet(scores)
    with pytest.raises(UserError, match="not the same ones"):
        render(reads, tmp_path / "out")


def test_overlaps_and_flags_are_shown_with_both_sides(made: Any) -> None:
    page = Page(made[0])
    assert "Overlaps of training rows and held-out rows: 1 pair" in page.text
    assert "7 / 9" in page.text and f"shared words {HOSTILE}" in page.text and "What is 1 + 4?" in page.text
    assert "html" in page.text and "3, 5" in page.text and "mojibake" not in page.text
    assert "mostly Latin letters" in page.text and "too few letters to tell" in page.text
    assert "question2133.5478199" + "1,234" in page.text  # a row of the table of lengths


def test_copies_templates_and_giveaways_are_shown_and_contaminated_questions_left_out_beside(tmp_path: Path) -> None:
    """Tuned answers the first questions right; these are copies, so that without them nothing was gained."""
    reads = write_reads(tmp_path / "reads", questions=40, base=0.0, tuned=0.0)
    for name, folder in reads.items():
        if name == "scores/test/greedy/tuned":
            scores = pl.read_parquet(folder / "scores.parquet")
            scores.with_columns(correct=pl.col("example_id") < 8).write_parquet(folder / "scores.parquet")
    ids = range(40)
    questions = {"example_id": ids, "split": ["test"] * 40, "known_template": [i < 30 for i in ids]}
    questions |= {"copy_of": [100 + i if i < 8 else None for i in ids], "restated": [False] * 40}
    table = pl.DataFrame(questions | {"gives_away": [None] * 39 + ["ends_in_answer"]}, schema=QUESTIONS)
    table.write_parquet(reads["shards"] / "questions.parquet")
    audit = json.loads((reads["shards"] / "audit.json").read_text())
    pair = {"train": 100, "heldout": 0, "text": "nearly the same text", "train_question": "What is 3 + 0?"}
    copies = {"train_rows": 8, "heldout_rows": 8, "other_answer": 2, "pairs": [pair | {"heldout_question": "0 + 3?"}]}
    audit["contamination"] |= {"copies": copies, "restated": {"rows": 0}, "known_templates": {"test": 30}}
    audit["templates"] = {"column": None, "found": 91, "largest": 198}
    audit["gives_away"] = {"policy": "drop", "train_rows": 4, "validation_rows": 0, "test_rows": 1}
    (reads["shards"] / "audit.json").write_text(json.dumps(audit))
    html, summary, _ = render(reads, tmp_path / "out")
    text = Page(html).text
    assert summary["verdict"] == "improved" and summary["claims"]["uncontaminated"]["left_out"] == 9
    assert "30 of 40 held-out questions share a template with a training row" in text
    assert "becomes “likelihood improved but accuracy unproven” without the 9 contaminated test questions" in text
    assert "correct, without 9 contaminated" in text and "nearly the same text" in text
    assert "91 (other names and numbers only), the largest with 198 rows" in text
    assert "8 (keep), of 8 questions" in text and "4 in train, 0 in validation, 1 in test (in train: drop)" in text


def test_several_samples_show_pass_at_k_and_the_majority(made: Any) -> None:
    rows = re.findall(r'<th scope="row">([^<]*)</th>', made[0])
    assert (
        rows.count("correct") == 2 and [rows.count(name) for name in ("pass@1", "pass@2", "majority vote")] == [1] * 3
    )
    assert made[0].count("steps that went left to right") == 2


def test_a_collapse_is_said_where_the_verdict_stands(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    answers, scores = (reads[f"{what}/test/greedy/tuned"] for what in ("answers", "scores"))
    looping = pl.read_parquet(answers / "answers.parquet").with_columns(
        completion=pl.lit("2 × " * 50), tokens=pl.lit([7, 8] * 50), unmasked_at=pl.lit(list(range(100)))
    )
    looping.write_parquet(answers / "answers.parquet")
    score_answers(ScoreConfig(), answers, scores)
    html, summary, _ = render(reads, tmp_path / "out")
    said = "the tuned model's answers collapsed: 100 % loop"
    assert any(said in reason for reason in summary["reasons"]) and said in Page(html).text
    assert "written left to right (100 % of the steps)" in Page(html).text


def test_warnings_of_packages_and_lengths(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    manifest = json.loads((reads["full"] / "manifest.json").read_text())
    manifest["packages"]["polars"] = "9.9.9"
    (reads["full"] / "manifest.json").write_text(json.dumps(manifest))
    html, summary, _ = render(reads, tmp_path / "out")
    assert summary["package_differences"]["polars"]["9.9.9"] == ["full"]
    assert "different versions of polars" in html
    assert "training responses are longer than max_new_tokens = 32" in html


def test_examples_are_bounded_and_of_every_kind(tmp_path: Path, made: Any) -> None:
    html, _, _ = made
    found = re.findall(r'<article class="answer" data-kind="(\w+)" [^>]*data-where="([^"]*)"', html)
    assert {where for _, where in found} == {"test · greedy", "test · sampled"}
    kinds = Counter(kind for kind, where in found if where == "test · greedy")
    assert kinds == {"won": 37, "wrong": 16, "right": 7, "ungraded": 1}, "60 of 62, 26 and 12, and the user's prompt"
    reads = write_reads(tmp_path / "reads", questions=12)
    html, _, _ = render(reads, tmp_path / "out", examples=0)
    assert html.count("<article") == 1  # the user's own prompt is always shown
    for who in ("base", "tuned"):
        file = reads[f"answers/test/greedy/{who}"] / "answers.parquet"
        text = "<數\u202e&" * 100_000  # each character becomes several in the page
        pieces = [[f"<&{i}" for i in range(5_000)]] * 13
        steps = [list(range(5_000))] * 13
        long = pl.read_parquet(file).with_columns(
            completion=pl.lit(text), pieces=pl.Series(pieces), unmasked_at=pl.Series(steps)
        )
        long.write_parquet(file)
    shutil.rmtree(tmp_path / "out")
    html, _, _ = render(reads, tmp_path / "out", examples=1000)
    assert len(html.encode()) < 6_000_000 and "394,000 more characters" in html and "3,976 more tokens" in html
    assert html.count("<article") > 1


def test_every_setting_of_the_sampler_stands_beside_its_numbers() -> None:
    """A setting that decides what is generated and is not printed would make two reports look alike that are not."""
    decides = set(GenerateConfig().by_kind()[0]) - {"prompts", "max_prompts"}  # which questions, not how
    assert decides == set(SAMPLER)
    off = GenerateConfig().model_dump()
    assert all(off[name] == value for name, value in FASTER.items())
    assert "products" not in sampler(off) and "products fp8" in sampler(off | {"products": "fp8"})


def test_what_answers_are_compared_with_and_both_readings_of_cut_ones_are_shown(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    folder = tmp_path / "references"
    folder.mkdir()
    rows = [{"example_id": 3, "question": "How many?", "answer": f"2 + 3 = 5. #### 5 {BIDI}"}]
    rows += [{"example_id": i, "question": "Prove it.", "answer": "It holds."} for i in (5, 7)]
    (folder / "references.json").write_text(json.dumps(gradability(rows, ScoreConfig())))
    (folder / "manifest.json").write_bytes((reads["shards"] / "manifest.json").read_bytes())
    scores = json.loads((reads["scores/test/greedy/base"] / "scores.json").read_text())
    scores |= {"cut": 5, "correct": 4, "uncut_correct": 2, "uncut_otherwise": 3}
    (reads["scores/test/greedy/base"] / "scores.json").write_text(json.dumps(scores))
    html, summary, _ = render(reads | {"references": folder}, tmp_path / "out")
    assert "1 of 3 test rows can be graded (2: asks for a proof)" in html
    assert "only 1 of 3 test rows can be graded" in html
    assert "base 5, of which 3 would be graded otherwise without the cut (2 right instead of 4)" in html
    assert summary["comparisons"]["test/greedy"]["base"]["scores"]["uncut_correct"] == 2


def test_the_explorer_shows_which_turn_is_answered_and_what_was_said_before(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=4)
    said = {"example_id": [0, 1], "row": 0, "turn": [1, 2], "context": ["", f"user: Hi {BIDI}"], "reply": ["3", "5"]}
    pl.DataFrame(said).write_parquet(reads["shards"] / "turns.parquet")
    rows = {row["example_id"]: row for row in choose_answers(Reads(reads), 10)}
    assert (rows[1]["turn"], rows[1]["context"]) == ("conversation 0, assistant turn 2", reveal(f"user: Hi {BIDI}"))
    assert (rows[2]["turn"], rows[2]["context"]) == ("", "")
    audit = {"conversations": {"turn_end": "<|im_end|>", "end": "<|endoftext|>", "rows": 7, "turns": 9, "most": 3}}
    facts = dict(audit_facts(audit))
    assert (facts["Conversations"], facts["Assistant turns"], facts["Closes a turn"]) == ("7", "9", "<|im_end|>")
