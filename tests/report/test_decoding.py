"""The report under several canvases and decoders: one table, and a sentence that says whether the verdict holds."""

import json
from pathlib import Path

from dreamtune.formats.reads import Reads
from dreamtune.report.summary import build_summary
from dreamtune.scoring.score import score_answers
from dreamtune.settings.report import Comparison
from dreamtune.settings.score import ScoreConfig
from report_fixture import write_answers, write_reads
from report_page import Page, render


def test_canvases_and_decoders_stand_in_one_table(tmp_path: Path) -> None:
    root = tmp_path / "reads"
    reads = write_reads(root, questions=40)
    for setting, tuned in {"canvas-64": 0.7, "whole": 0.05}.items():
        for who, share in {"base": 0.12, "tuned": tuned}.items():
            key = f"test/{setting}/{who}"
            reads[f"answers/{key}"] = write_answers(root, key, 40, share)
            reads[f"scores/{key}"] = root / f"scores-{setting}-{who}"
            reads[f"scores/{key}"].mkdir()
            score_answers(ScoreConfig(extractors=["final_answer"]), reads[f"answers/{key}"], reads[f"scores/{key}"])
    html, summary, _ = render(reads, tmp_path / "out")
    assert [(row["setting"], row["canvas"], row["verdict"]) for row in summary["decoding"]] == [
        ("greedy", None, "improved"),
        ("canvas-64", 64, None),
        ("whole", None, "likelihood improved but accuracy unproven"),
    ]
    said = "the verdict is not the same under each decoder: improved under greedy"
    assert any(reason.startswith(said) for reason in summary["reasons"]) and summary["verdict"] == "improved"
    page = Page(html)
    assert "The test split by canvas and decoder" in page.text and said in page.text
    assert summary["decoding"][1]["against_headline"]["value"] < 0 and "0 → 0" in page.text
    summary = build_summary(Reads(reads), Comparison(primary="nll", resamples=300), "demo")
    assert len(summary["decoding"]) == 3 and not any("each decoder" in reason for reason in summary["reasons"])


def test_canvases_that_training_did_not_show_are_said(tmp_path: Path) -> None:
    """The made-up training has tails of 8; its responses of 12 and more stand in a canvas of 32."""
    reads = write_reads(tmp_path / "reads", questions=12)
    html, summary, _ = render(reads, tmp_path / "out")
    said = "test/greedy, up to 20 masked positions stand behind an answer's end in generation, and at most 8 tokens"
    assert any(text.startswith(said) for text in summary["canvas_warnings"]) and said in Page(html).text
    manifest = json.loads((reads["full"] / "manifest.json").read_text())
    manifest["settings"]["train"] |= {"max_tail": 20, "cut_share": 0.5}
    (reads["full"] / "manifest.json").write_text(json.dumps(manifest))
    _, summary, _ = render(reads, tmp_path / "out2")
    assert [text[:60] for text in summary["canvas_warnings"]] == [
        "test/greedy, training responses are longer than max_new_token"[:60]
    ]
