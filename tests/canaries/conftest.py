"""What the tests of a window's canaries share: shards, and a tiny model with an adapter."""

from pathlib import Path

import pytest
from peft import PeftModel

from dreamtune.model.loading import attach_lora, load
from tiny import make_model, make_shards, settings


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PeftModel:
    return attach_lora(load(make_model(tmp_path_factory.mktemp("model") / "base")), settings().lora, seed=0)
