"""What the tests of planted faults share: how a fault gets in, and the stages on the embedded model, made quick."""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from conftest import ROOT
from dreamtune.config import load_config
from dreamtune.data.prepare import prepare_shards
from dreamtune.errors import UserError
from dreamtune.model.attention import NAME, attend
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
from dreamtune.settings.train import TrainConfig
from dreamtune.train.train import train_adapter

Plant = Callable[[Any, Any], None]
Pairs = Callable[[int], list[tuple[int, int]]]  # the number of documents -> (document that reads, document it sees)
TINY = str(ROOT / "resources" / "tiny-dream")
BASE = ModelConfig(path=TINY, quantization="none", dtype="float32", device="cpu", threads=1)
QUICK: dict[str, Any] = {
    "lora": LoraSettings(rank=8, alpha=16, dropout=0.0, target_modules=["all-linear"]),
    "learning_rate": 2e-3,
    "max_tail": 8,
    "rows": 64,
    "epochs": 1,
    "max_steps": 1,
    "micro_batch_tokens": 512,
    "validation_rows": 0,
}


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Return a function that puts a faulty function in an original's place, wherever the library holds it."""

    def replace(original: Any, faulty: Any) -> None:
        for module in [held for name, held in sys.modules.items() if name.startswith("dreamtune.")]:
            for name in [name for name, value in vars(module).items() if value is original]:
                monkeypatch.setattr(module, name, faulty)

    return replace


@pytest.fixture
def leak(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that plants a leak: in each pair, some tokens of one document see some tokens of the other."""

    def plant(pairs: Pairs, reads: slice = slice(None), sees: slice = slice(None)) -> None:
        def faulty(
            module: Any, query: Any, key: Any, value: Any, mask: Any, cu_seq_lens_q: Any = None, **options: Any
        ) -> Any:
            out, _ = attend(module, query, key, value, mask, cu_seq_lens_q, **options)
            spans = [] if cu_seq_lens_q is None else [range(*ends) for ends in pairwise(cu_seq_lens_q.tolist())]
            mixed = out.clone()
            for reader, source in pairs(len(spans)):
                rows, seen = list(spans[reader][reads]), [*spans[reader], *spans[source][sees]]
                wrong = scaled_dot_product_attention(
                    query[:, :, rows], key[:, :, seen], value[:, :, seen], enable_gqa=True
                )
                mixed[:, rows] = wrong.transpose(1, 2)
            return mixed, None

        monkeypatch.setitem(AttentionInterface._global_mapping, NAME, faulty)

    return plant


def before(parity: int) -> Pairs:
    """Return the pairs in which each even (0) or odd (1) document sees the one before it."""
    return lambda count: [(n, n - 1) for n in range(1, count) if n % 2 == parity]


def make_shards(folder: Path, **data: Any) -> Path:
    folder.mkdir(parents=True)
    demo = load_config(ROOT / "config" / "demo.yaml").experiments["demo"].data
    prepare_shards(demo.model_copy(update={"files": [f"{TINY}/rows.parquet"]} | data), BASE, folder)
    return folder


def train(folder: Path, shards: Path, gate: Path | None = None, work: Path | None = None, **changes: Any) -> Path:
    """Run `train_adapter` into `folder`, which is returned."""
    folder.mkdir(parents=True)
    train_adapter(TrainConfig(**(QUICK | changes)), BASE, shards, folder, work or folder / "work", gate)
    return folder


def checks(run: Path) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads((run / "gate.json").read_text())["checks"]}


def caught(tmp_path: Path, shards: Path, **changes: Any) -> set[str]:
    """Run smoke and full as the workflow does; return the hard checks by which smoke's gate stopped full."""
    smoke = train(tmp_path / "smoke", shards, **changes)
    with pytest.raises(UserError, match="the smoke run failed its gate") as stopped:
        train(tmp_path / "full", shards, gate=smoke, **changes)
    failed = {name for name, check in checks(smoke).items() if check["hard"] and check["passed"] is False}
    assert all(name in str(stopped.value) for name in failed)
    return {name.removesuffix("_first_window").removesuffix("_last_window") for name in failed}
