"""The few-shot base on the page: a tile, a column in each table, a mark in the chart, and the verdict on both bases."""

import json
from pathlib import Path

from dreamtune.scoring.score import score_answers
from dreamtune.settings.score import ScoreConfig
from report_fixture import add_examples, write_answers, write_reads
from report_page import Page, render

WHO = ["base", "few-shot base", "tuned", "few-shot tuned"]


def test_the_few_shot_base_stands_beside_base_and_tuned(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", few_shot={"few-shot-base": 0.35, "few-shot-tuned": 0.8})
    html, summary, counts = render(reads, tmp_path / "out")
    assert counts["verdict"] == "improved"
    fact = "12 → 74 of 100 held-out questions correct, few-shot base 35"
    assert summary["headline"] == f"Improved: {fact}"
    assert summary["few_shot"]["accuracy"]["base"]["value"] == 0.35 and summary["few_shot"]["shots"] == 2
    both = summary["comparisons"]["test/greedy"]["few_shot"]["both"]["accuracy"]
    assert (both["base"]["value"], both["tuned"]["value"]) == (0.35, 0.8)
    page = Page(html)
    for text in ("Few-shot base, k = 2", "tuned +39.0 points", "Over few-shot base", *WHO):
        assert text in page.text
    prompts = (
        "2 worked training examples before each question, as plain text, drawn for each question with seed 7 from 480"
    )
    assert prompts in page.text and "the longest prompt has 131 tokens" in page.text
    chart = html.split('id="spec-accuracy">')[1].split("</script>")[0]
    assert all(f'"model": "{who}"' in chart for who in WHO)
    shown = [attributes["data-who"] for tag, attributes in page.tags if tag == "pre" and "data-who" in attributes]
    assert shown.count("few-shot base") == shown.count("base") == 61  # with the made-up prompt of the user
    [first, *_] = html.split('class="steps">')[1:]
    assert json.loads(first.split("</script>")[0]).keys() >= {"base", "tuned"}


def test_a_few_shot_base_that_is_not_beaten_takes_the_verdict(tmp_path: Path) -> None:
    html, summary, _ = render(write_reads(tmp_path / "reads", few_shot={"few-shot-base": 0.72}), tmp_path / "out")
    assert summary["verdict"] == "improved over the zero-shot base only"
    assert summary["comparisons"]["test/greedy"]["few_shot"]["both"] is None
    assert "few-shot base 72" in Page(html).text and "few-shot tuned" not in Page(html).text


def test_a_few_shot_base_that_writes_no_answers_is_said(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", few_shot={"few-shot-base": 0.1})
    rates = reads["scores/test/greedy/few-shot-base"] / "scores.json"
    rates.write_text(json.dumps(json.loads(rates.read_text()) | {"parse_failed": 0.9}))
    html, summary, _ = render(reads, tmp_path / "out")
    said = (
        "format and skill are not told apart: no answer was found in 90\u00a0% of the answers of the base with 2 worked"
    )
    assert said in summary["detail"] and said in Page(html).text


def test_without_it_the_page_says_what_is_not_known(tmp_path: Path) -> None:
    html, summary, _ = render(write_reads(tmp_path / "reads"), tmp_path / "out")
    assert summary["few_shot"] is None and "format and skill are not told apart" in Page(html).text
    assert "few-shot base" not in Page(html).text


def test_the_verdict_under_each_decoder_needs_both_bases_beaten(tmp_path: Path) -> None:
    root = tmp_path / "reads"
    reads = write_reads(root, few_shot={"few-shot-base": 0.2})
    for who, share in {"base": 0.12, "tuned": 0.74, "few-shot-base": 0.72}.items():
        key = f"test/whole/{who}"
        reads[f"answers/{key}"] = write_answers(root, key, 100, share)
        reads[f"scores/{key}"] = root / f"scores-{who}"
        reads[f"scores/{key}"].mkdir()
        if who == "few-shot-base":
            add_examples(reads[f"answers/{key}"])
        score_answers(ScoreConfig(extractors=["final_answer"]), reads[f"answers/{key}"], reads[f"scores/{key}"])
    _, summary, _ = render(reads, tmp_path / "out")
    verdicts = {row["setting"]: row["verdict"] for row in summary["decoding"]}
    assert verdicts == {"greedy": "improved", "whole": "improved over the zero-shot base only"}
