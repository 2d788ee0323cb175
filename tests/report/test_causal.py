"""The report of a causal model: its likelihood says that it is exact, its card how it is loaded and decoded."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from autoregressive import KINDS, theirs, write_model
from dreamtune.formats.reads import Reads
from dreamtune.report.card import loading_code, model_card
from dreamtune.settings.report import ReportConfig
from report_fixture import write_reads
from report_page import VALIDATOR, Page, render

EXACT = "exact, and it pays for the end of each response"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], dict[str, Path], Path]:
    """Return page, summary and version folders of a report, as a causal model's stages would have left them."""
    root = tmp_path_factory.mktemp("causal")
    reads = write_reads(root / "reads", questions=40)
    for run in ("smoke", "full"):
        path = reads[run] / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["settings"]["train"] |= {"objective": "causal", "max_tail": 0}
        manifest["settings"]["model"] |= {"attention": "causal"}
        path.write_text(json.dumps(manifest))
    training = json.loads((reads["full"] / "training.json").read_text())
    (reads["full"] / "training.json").write_text(json.dumps(training | {"family": "qwen2"}))
    table = pl.read_parquet(reads["likelihood"] / "likelihood.parquet").filter(pl.col("draw") == 0)
    table.with_columns(masked=pl.col("response_tokens")).write_parquet(reads["likelihood"] / "likelihood.parquet")
    content = json.loads((reads["likelihood"] / "likelihood.json").read_text())
    none = {"base": None, "tuned": None}
    content |= {"kind": "exact", "draws": 1, "by_mask_rate": [], "everything_masked": none}
    (reads["likelihood"] / "likelihood.json").write_text(json.dumps(content))
    html, summary, _ = render(reads, root / "out")
    return html, summary, reads, root


def test_the_likelihood_is_labelled_wherever_it_stands(made: Any) -> None:
    html, summary, _, _ = made
    VALIDATOR.validate(summary)
    assert (summary["nll"]["kind"], summary["nll"]["draws"]) == ("exact", 1)
    assert any(reason.startswith("likelihood") and reason.endswith(EXACT) for reason in summary["reasons"])
    text = Page(html).text
    assert "Held-out NLL, exact" in text and "the two are not compared" in text
    assert "mask draws" not in text and "a bound, given the length" not in text
    assert "autoregressive: cross entropy of the next token" in text


def test_a_diffusion_models_is_labelled_too(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=12)
    html, summary, _ = render(reads, tmp_path / "out")
    assert summary["nll"]["kind"] == "bound", "likelihood.json of an earlier release has no kind"
    assert "Held-out NLL, bound" in html and "a bound, given the length of each response" in html
    assert any("a bound, given the length" in reason for reason in summary["reasons"])


def test_of_canvases_only_the_limit_is_warned_of(made: Any) -> None:
    assert all("longer than max_new_tokens" in text for text in made[1]["canvas_warnings"])


def test_the_card_says_what_it_is(made: Any) -> None:
    _, summary, reads, _ = made
    text = model_card(ReportConfig(), Reads(reads), summary, {})
    assert "It is an autoregressive language model" in text and "- autoregressive" in text
    assert "diffusion" not in text and "mask token" not in text.lower() and "is_causal = False" not in text
    assert "exact NLL, nats per response token" in text and "test: exact NLL, nats per token" in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_cards_code_loads_a_causal_model(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, ids = write_model(tmp_path / kind, kind), torch.arange(4, 30)[None]
    code = loading_code(kind, ".", None, {"quantization": "none", "dtype": "float32"}, adapter=False, causal=True)
    monkeypatch.chdir(config.path)
    names: dict[str, Any] = {}
    exec(code, names)
    with torch.no_grad():
        found, expected = names["model"](input_ids=ids).logits, theirs(config)(input_ids=ids).logits
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        later = ids.clone()
        later[0, 20:] = 5
        assert torch.equal(names["model"](input_ids=later).logits[:, :20], found[:, :20])
