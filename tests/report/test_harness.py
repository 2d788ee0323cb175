"""The files for lm-evaluation-harness: the keys and types that its own readers take, and the numbers of summary.json.

Its readers are no dependency; docs/sharing.md says with which release they were tried by hand.
"""

import hashlib
import json
from math import sqrt
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dreamtune.formats.reads import Reads
from dreamtune.report.harness import write_harness_results
from dreamtune.report.summary import build_summary
from dreamtune.settings.report import Comparison
from report_fixture import HOSTILE, write_reads

GREEDY, SAMPLED = "dreamtune.test.greedy.v1", "dreamtune.test.sampled.v1"


def written(reads: dict[str, Path], out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files; return the summary, and each model's results."""
    found = Reads(reads)
    summary = build_summary(found, Comparison(resamples=300), "sums")
    write_harness_results(found, summary, out)
    return summary, {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/results_*.json")}


def samples(out: Path, who: str, task: str) -> list[dict[str, Any]]:
    [file] = (out / who).glob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    root = tmp_path_factory.mktemp("made")
    reads = write_reads(root / "reads", questions=20, samples=2)
    (reads["shards"] / "shards.json").write_text(json.dumps({"template": "Q: {question}\n{reasoning}\nA: {answer}"}))
    return root / "lm-eval", *written(reads, root / "lm-eval")


def test_both_models_have_the_same_tasks_and_files_that_readers_find_by_name(made: Any) -> None:
    out, _, results = made
    for who in ("base", "tuned"):
        names = {path.name for path in (out / who).iterdir()}
        [date] = {name.rpartition("_")[2].split(".")[0] for name in names}
        assert names == {f"results_{date}.json", *(f"samples_{task}_{date}.jsonl" for task in (GREEDY, SAMPLED))}
        assert date == "2026-01-02T03-04-05"
        for key in ("results", "configs", "versions", "n-shot", "n-samples", "higher_is_better", "task_hashes"):
            assert set(results[who][key]) == {GREEDY, SAMPLED}, key


def test_the_numbers_are_those_of_the_summary_with_the_harness_own_standard_errors(made: Any) -> None:
    out, summary, results = made
    for who in ("base", "tuned"):
        found, rows = results[who]["results"][GREEDY], samples(out, who, GREEDY)
        assert found["acc,none"] == summary["accuracy"][who]["value"] == sum(row["acc"] for row in rows) / len(rows)
        share, n = found["acc,none"], len(rows)
        assert found["acc_stderr,none"] == pytest.approx(sqrt(share * (1 - share) / (n - 1)))
        assert found["strict,none"] == summary["strict"][who]["value"]
        assert found["lenient,none"] == summary["lenient"][who]["value"]
        at_1 = summary["comparisons"]["test/sampled"]["pass_at_k"]["1"][who]["value"]
        assert results[who]["results"][SAMPLED]["acc,none"] == pytest.approx(at_1)
    assert results["tuned"]["config"]["model_args"]["peft"] == summary["versions"]["full"]
    assert "peft" not in results["base"]["config"]["model_args"]


def test_a_sample_has_what_readers_take(made: Any) -> None:
    out, _, results = made
    config = results["tuned"]["configs"][GREEDY]
    assert config["output_type"] == "generate_until" and "filter_list" not in config
    for number, row in enumerate(samples(out, "tuned", GREEDY)):
        assert row["doc_id"] == number and row["doc"]["example_id"] == number
        assert row["arguments"]["gen_args_0"]["arg_0"] == f"Q: {row['doc']['question']}\n"
        assert {"until", "max_gen_toks", "do_sample"} <= row["arguments"]["gen_args_0"]["arg_1"].keys()
        assert isinstance(row["target"], str) and isinstance(row["filtered_resps"][0], str) and row["filter"] == "none"
        assert all(isinstance(row[metric["metric"]], float) for metric in config["metric_list"])
        assert row["metrics"] == [metric["metric"] for metric in config["metric_list"]]
        assert len(row["resps"]) == 1 and len(row["resps"][0]) == 1
        assert row["target_hash"] == hashlib.sha256(row["target"].encode()).hexdigest()
    assert HOSTILE in samples(out, "tuned", GREEDY)[0]["doc"]["question"]
    assert len(samples(out, "tuned", SAMPLED)[0]["resps"][0]) == 2
    rows = samples(out, "tuned", GREEDY)
    joined = "".join(row[f"{part}_hash"] for row in rows for part in ("doc", "prompt", "target"))
    assert results["tuned"]["task_hashes"][GREEDY] == hashlib.sha256(joined.encode()).hexdigest()


def test_only_what_counts_in_the_verdict_is_a_sample(tmp_path: Path) -> None:
    """An undecided question is left out on both sides; a reference that is no number takes `lenient` away."""
    reads = write_reads(tmp_path / "reads", questions=12)
    file = reads["scores/test/greedy/base"] / "scores.parquet"
    row = pl.col("example_id") == 3
    scores = pl.read_parquet(file).with_columns(correct=pl.when(~row).then("correct"), undecided=row)
    scores.with_columns(lenient=pl.when(pl.col("example_id") != 5).then("lenient")).write_parquet(file)
    _, results = written(reads, tmp_path / "out")
    ids = [row["doc"]["example_id"] for row in samples(tmp_path / "out", "tuned", GREEDY)]
    assert ids == [i for i in range(12) if i != 3]
    assert results["base"]["n-samples"][GREEDY] == {"original": 12, "effective": 11}
    assert "lenient,none" not in results["base"]["results"][GREEDY]
    assert "lenient,none" in results["tuned"]["results"][GREEDY]


def test_nothing_is_written_where_nothing_was_graded(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=3)
    for who in ("base", "tuned"):
        file = reads[f"scores/test/greedy/{who}"] / "scores.parquet"
        pl.read_parquet(file).with_columns(gradable=pl.lit(False)).write_parquet(file)
    written(reads, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_clusters_widen_the_standard_error(tmp_path: Path) -> None:
    reads = write_reads(tmp_path / "reads", questions=24)
    for who in ("base", "tuned"):
        file = reads[f"scores/test/greedy/{who}"] / "scores.parquet"
        first = pl.col("example_id") // 3 * 3
        pl.read_parquet(file).with_columns(cluster=first, correct=(first % 2 == 0)).write_parquet(file)
    summary, results = written(reads, tmp_path / "out")
    estimate, found = summary["accuracy"]["tuned"], results["tuned"]["results"][GREEDY]
    assert estimate["effective_n"] < estimate["n"] == 24
    share = estimate["value"]
    alone = sqrt(share * (1 - share) / 23)
    assert found["acc_stderr,none"] == pytest.approx(alone * sqrt(24 / estimate["effective_n"]))
