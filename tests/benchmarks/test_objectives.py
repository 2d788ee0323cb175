"""benchmarks/objectives.py: its ways, its estimates on gradients that are known, its tables; and a run at toy scale."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import warm
from conftest import ROOT
from documents import document
from dreamtune.objective.diffusion import Noised
from dreamtune.objective.rates import noises
from dreamtune.shards import read_meta, read_split
from dreamtune.train.windows import TrainingWindows, corrupted
from tiny import END, MASK, make_shards, settings

sys.path.append(str(ROOT / "benchmarks"))
import objective_gradients
import objective_noise
import objective_runs
import objective_ways
import objectives

DENSITIES = {"loss": [1.0, 2.0], "gradient": [2.0, 1.0]}
ROWS = [document(example, prompt=3, response=20, tail=4) for example in range(16)]


class Counted:
    """Stands for a model: the gradient is the sum of the weights over the tokens, so 1 if weights are exact."""

    def of(self, noised: Sequence[Noised]) -> torch.Tensor:
        return torch.tensor([sum(float(one.weights.sum()) for one in noised)], dtype=torch.float64)


class Tangled:
    """Stands for a model whose gradient hangs on all that is masked: for each token a random number of that set."""

    def of(self, noised: Sequence[Noised]) -> torch.Tensor:
        total = np.zeros(len(noised[0].weights))
        for one in noised:
            hidden = int((one.supervised * 2 ** np.arange(len(total))).sum())
            total += one.weights * np.random.default_rng(hidden).normal(1, 1, len(total))
        return torch.from_numpy(total)


@pytest.mark.parametrize("way", objective_ways.WAYS)
def test_every_way_is_a_setting_and_all_see_equally_many_tokens(way: str) -> None:
    one_step = objective_noise.way_settings(settings(tail_loss="each"), way, DENSITIES)
    assert one_step.objective == objective_ways.WAYS[way].get("objective", "elbo")
    train = objective_runs.run_settings(settings(), way, DENSITIES, seed=3, steps=7)
    assert (train.seed, train.max_steps) == (3, 7)
    assert train.global_batch * (2 if train.pairs_masks else 1) == settings().global_batch


def scored(way: str, gradients: Any, row: Any, counts: int, **changes: Any) -> tuple[float, float]:
    train = settings(tail_loss="each", **changes)
    sets = objective_noise.Sets(gradients, row, train, counts, MASK, seed=0)
    return sets.score(objective_noise.way_settings(train, way, DENSITIES), way in objective_ways.BIASED)


@pytest.mark.parametrize(
    "way", ["exact counts", "exact pairs", "exact counts, gradient's density", "exact pairs, P-POTS"]
)
def test_exact_counts_of_a_gradient_that_counts_never_vary_but_for_their_density(way: str) -> None:
    """Their weights add up to the same in every draw; a density p adds the variance of 1/p."""
    extra = 0.0
    if density := DENSITIES.get(str(objective_ways.WAYS[way].get("rate_density"))):
        at = np.interp((np.arange(10_000) + 0.5) / 10_000, [0, 1], density)
        extra = float((1 / (at / at.mean())).mean()) - 1
    square, signal = scored(way, Counted(), ROWS[0], 400)
    assert square == pytest.approx(1 + extra, rel=0.02) and signal == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("way", "variance"),
    [
        ("independent t", lambda t: (1 - t) / t / 24),
        ("pairs", lambda t: (1 - 2 * t) ** 2 / t / (1 - t) / 4 / 24),
    ],
)
def test_random_counts_vary_as_binomial_numbers_do(way: str, variance: Callable[[np.ndarray], np.ndarray]) -> None:
    """Given t, the number of masked tokens over L t has the variance (1 - t) / (L t); t is drawn from 0.001 on."""
    high = 1.0 if way == "independent t" else 0.999
    at = np.geomspace(1e-3, 0.5, 4001)
    at = np.concatenate([at, high + 1e-3 - at[-2::-1]])
    expected = float(np.trapezoid(variance(at), at)) / (high - 1e-3)
    assert scored(way, Counted(), ROWS[0], 1500)[0] - 1 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("way", "changes"),
    [
        ("exact counts", {}),
        ("exact pairs", {}),
        ("exact pairs, P-POTS", {}),
        ("pairs", {"rate_range": [0.1, 0.9]}),  # else 1/t and 1/(1 - t) make the draws' own mean square too rough
        ("clipped t", {}),
        ("unweighted", {}),
    ],
)
def test_sets_give_the_mean_square_of_what_training_draws(way: str, changes: dict[str, Any]) -> None:
    """Against as many masks as training would draw, on a gradient that hangs on the whole set."""
    row, gradients = document(5, prompt=2, response=4, tail=2), Tangled()
    given = objective_noise.way_settings(settings(tail_loss="each", **changes), way, DENSITIES)
    train, found = given.model_copy(update={"rate_draws": "independent"}), []
    for epoch in range(1000):
        noise = noises(train, np.zeros(1), [5], epoch, MASK)
        noised = corrupted(train, [row], noise)
        found.append(gradients.of(noised) / sum(one.loss_tokens for one in noised))
    drawn = torch.stack(found)
    square, signal = scored(way, gradients, row, 600, **changes)
    assert square == pytest.approx(float(drawn.square().sum(1).mean()), rel=0.15)
    if not changes:  # the mean that unbiased ways share is that of all rates
        assert signal == pytest.approx(float(drawn.mean(0).square().sum()), rel=0.25)


def test_drawn_scores_are_those_of_the_sets() -> None:
    """Where both can be measured: exact counts, with a density and without."""
    row, gradients = document(5, prompt=2, response=4, tail=2), Tangled()
    names = ("exact counts", "exact counts, gradient's density")
    ways = {name: objective_noise.way_settings(settings(tail_loss="each"), name, DENSITIES) for name in names}
    drawn = objective_noise.drawn_scores(gradients, ways, row, 1200, MASK, seed=0)  # type: ignore[arg-type]
    for name in names:
        assert drawn[name] == pytest.approx(scored(name, gradients, row, 600), rel=0.15)


class Rated:
    """Stands for a model whose gradient is the share of masked tokens, in a direction that all documents have."""

    weights = (torch.zeros(1),)

    def of(self, noised: Sequence[Noised]) -> torch.Tensor:
        return torch.tensor([sum(one.loss_tokens * one.supervised[3:].mean() for one in noised)], dtype=torch.float64)


def test_what_rates_do_to_all_documents_alike() -> None:
    """The mean gradient at a rate is 0.1, 0.2, ..., 1, whose variance is 0.0917; a gradient that only counts has 0."""
    rated: Any = Rated()
    rows = [document(example, prompt=3, response=20, tail=0) for example in range(4)]
    train = settings(tail_loss="each")
    assert objective_noise.common(rated, train, rows, MASK) == pytest.approx(np.var(np.arange(1, 11) / 10, ddof=1))


def test_covariance_and_ratio() -> None:
    draw = np.random.default_rng(0)
    shared, noise = draw.normal(size=(4000, 1, 3)), 5 * draw.normal(size=(4000, 2, 3))
    value, error = objective_noise._covariance(torch.tensor(shared + noise))
    assert abs(value - 3.0) < 4 * error and 0.3 < error < 1.5
    assert objective_noise._ratio(np.array([1.0, 3.0]), np.array([2.0, 6.0])) == (0.5, 0.0)


def test_longer_rows_have_the_wanted_length(tmp_path: Path) -> None:
    made = objective_ways.longer_rows(make_shards(tmp_path / "shards"), tmp_path, tokens=50, rows=5)
    rows = list(read_split(made, "train"))
    assert {len(row["input_ids"]) - row["prompt_tokens"] for row in rows} == {50} and len(rows) == 5
    assert all(row["input_ids"][-1] == END and row["complete"] for row in rows)
    assert len({tuple(row["input_ids"]) for row in rows}) == 5
    windows = TrainingWindows(read_split(made, "train"), read_meta(made), settings())
    assert windows.longest <= windows.max_tokens


def test_a_table_of_runs_is_paired_by_seed() -> None:
    runs = [
        {"way": way, "seed": seed, "nll": seed + gain, "accuracy": 0.5, "tokens": 100}
        for seed in range(5)
        for way, gain in (("independent t", 0.0), ("exact counts", -0.1))
    ]
    lines = objective_runs.summary(pl.DataFrame(runs), ["independent t", "exact counts"])
    assert lines[1]["nll against independent t"] == [-0.1, -0.1, -0.1]
    assert lines[0]["nll"] == [2.0, 0.0368, 3.9632]  # 2 ± 2.776 * sqrt(2.5 / 5)


def test_runs_go_on_behind_a_killed_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def trained(experiment: Any, train: Any, shards: Path, out: Path) -> dict[str, float]:
        (out / "adapter-run/adapter").mkdir(parents=True)
        calls.append(out)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"nll": 0.2, "accuracy": 0.5, "tokens": 100}

    monkeypatch.setattr(objective_runs, "trained", trained)
    experiment: Any = SimpleNamespace(train=settings())
    ways, report = ["independent t", "even t"], lambda *given, **values: None

    def compare() -> list[dict[str, Any]]:
        return objective_runs.compare(experiment, tmp_path, tmp_path / "runs", ways, 1, 4, DENSITIES, report)

    with pytest.raises(KeyboardInterrupt):
        compare()
    assert [line["nll"][0] for line in compare()] == [0.2, 0.2]
    assert len(calls) == 3  # what was whole is not made again


@pytest.mark.parametrize(("noise", "status"), [(0.55, 0), (0.65, 1)])
def test_check_wants_quiet_exact_counts(
    noise: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"way": "exact counts", "noise": noise, "error": 0.01, "tokens": 1.0, "step": noise}
    monkeypatch.setattr(sys, "argv", ["objectives.py", "noise", "--work", str(tmp_path), "--tokens", "30", "--check"])
    monkeypatch.setattr(objectives, "prepared", lambda *given: make_shards(tmp_path / "shards"))
    monkeypatch.setattr(objectives, "trained", lambda *given: tmp_path)
    monkeypatch.setattr(objective_gradients, "Gradients", lambda *given: SimpleNamespace())
    monkeypatch.setattr(objective_noise, "measure", lambda *given: [line])
    assert objectives.main() == status
    assert f"| exact counts | {noise:.2f} ± 0.02 | {noise:.2f} |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["noise", "runs", "density"])
def test_the_toy_run(tmp_path: Path, what: str) -> None:
    command = [warm.python(), str(ROOT / "benchmarks/objectives.py"), what, "--work", str(tmp_path), "--toy"]
    ways = ["--tokens", "30", "40", "--ways", "exact pairs, P-POTS"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *ways], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if what == "density":
        assert done.stdout.count("rate_density: [") == 2
    elif what == "runs":
        assert len([line for line in lines if line["kind"] == "run"]) == 4
        assert "| exact pairs, P-POTS |" in done.stdout
    else:
        assert {line["what"] for line in lines} == {f"{n} tokens, {w}" for n in (30, 40) for w in ("base", "trained")}
        assert done.stdout.count("| data |") == 2
