"""A mask token that the base lacks: a row of the embeddings, saved with the adapter, and read by plain PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM

from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.errors import UserError
from dreamtune.generate.loading import load_to_generate
from dreamtune.inputs.model_check import check_model
from dreamtune.merge import merge_adapter
from dreamtune.model.facts import facts_of
from dreamtune.model.loading import load
from dreamtune.model.logits import unwrap
from dreamtune.model.new_row import KEY, set_mean_row
from dreamtune.settings.merge import MergeConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.train.train import train_adapter
from tiny import MASK, VOCAB, make_model, make_model_without_mask, make_shards, settings

IDS = torch.arange(6)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A model of VOCAB rows whose tokenizer has the tokens below MASK, and no mask token."""
    return make_model_without_mask(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def trained(base: ModelConfig, shards: Path, folder: Path, **changes: Any) -> Path:
    (folder / "out").mkdir(parents=True)
    train_adapter(settings(max_steps=2, validation_rows=0, **changes), base, shards, folder / "out", folder / "work")
    return folder / "out"


@pytest.fixture(scope="module")
def adapter(base: ModelConfig, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(base, shards, tmp_path_factory.mktemp("trained")) / "adapter"


def embeddings(model: Any) -> torch.Tensor:
    return unwrap(model).get_input_embeddings().weight.detach()


def test_every_part_takes_the_same_row(base: ModelConfig) -> None:
    folder = Path(base.path)
    with pytest.raises(UserError, match=r"no mask token.*set model\.mask_token to 'new', for a row of the embeddings"):
        check_model(folder)
    check_model(folder, None, "new")
    assert load_tokenizer(base.path, None, "new").mask_id == MASK == VOCAB - 1
    model = load(base)
    assert model.config.mask_token_id == MASK and facts_of(model.config).new_row == MASK
    stored = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(embeddings(model)[MASK], stored[:MASK].mean(0))
    assert torch.equal(embeddings(model)[:MASK], stored[:MASK])


def test_the_mean_row_is_the_same_for_every_type() -> None:
    values = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0))
    for kind in (torch.float32, torch.bfloat16):
        expected = values.to(kind)[:8999].double().mean(0).to(kind)
        assert torch.equal(set_mean_row(values.to(kind), 8999)[8999], expected)
    with pytest.raises(UserError, match="none of them without a token"):
        set_mean_row(values, 9000)


def test_without_a_spare_row_it_is_refused(base: ModelConfig, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for file in Path(base.path).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["w63"] = MASK
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=f"a new mask token for .* has the id {VOCAB}, and the embeddings have {VOCAB} rows"
    ):
        check_model(folder, None, "new")


def test_plain_peft_and_transformers_load_it(base: ModelConfig, adapter: Path) -> None:
    """Without this code: a row of numbers beside LoRA's, and no resized embeddings."""
    assert json.loads((adapter / "adapter_config.json").read_text())["trainable_token_indices"] == {
        "embed_tokens": [MASK]
    }
    assert load_file(adapter / "adapter_model.safetensors")[KEY].shape == (1, 32)
    plain = Qwen2ForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    assert not torch.allclose(embeddings(plain)[MASK], embeddings(load(base))[MASK])
    plain.config.is_causal = False
    tuned = PeftModel.from_pretrained(plain, str(adapter)).eval()
    ids = torch.tensor([[1, MASK, 5, MASK]])
    with torch.no_grad():
        theirs, ours = tuned(input_ids=ids).logits, load(base, adapter)(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"quantization": "nf4", "dtype": "bfloat16"}])
def test_it_is_loaded_in_every_form(base: ModelConfig, adapter: Path, changes: dict[str, str]) -> None:
    model = base.model_copy(update=changes)
    for loaded in (load(model, adapter), load_to_generate(model, adapter)):
        assert torch.equal(embeddings(loaded), embeddings(load(model)))


def test_base_and_adapter_have_the_same_mask_token(
    base: ModelConfig, adapter: Path, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"sets rows of the embeddings.*model\.mask_token of its training"):
        load(base.model_copy(update={"mask_token": None}), adapter)
    other = make_model(tmp_path / "plain")
    without = trained(other, shards, tmp_path / "other") / "adapter"
    with pytest.raises(UserError, match="sets no row of the embeddings"):
        load(base, without)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for file in adapter.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(tensors | {KEY: tensors[KEY] + 1}, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"another row {MASK} of the embeddings"):
        load(base, tmp_path)


def test_a_resumed_training_is_the_same(base: ModelConfig, shards: Path, adapter: Path, tmp_path: Path) -> None:
    trained(base, shards, tmp_path / "a", checkpoint_steps=1)
    (tmp_path / "a" / "work" / "checkpoints" / "step-000002").rename(tmp_path / "last")
    (tmp_path / "a/again").mkdir()
    train_adapter(
        settings(max_steps=2, validation_rows=0, checkpoint_steps=1),
        base,
        shards,
        tmp_path / "a/again",
        tmp_path / "a/work",
    )
    assert json.loads((tmp_path / "a/again/training.json").read_text())["resumed_from"] == [1]
    again = (tmp_path / "a/again/adapter/adapter_model.safetensors").read_bytes()
    assert again == (adapter / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("weights", ["base", "float32"])
def test_the_merged_checkpoint_has_the_row_and_names_it(
    base: ModelConfig, adapter: Path, tmp_path: Path, weights: str
) -> None:
    merge_adapter(base, adapter, tmp_path / "out", merge=MergeConfig(weights=weights))
    merged = base.model_copy(update={"path": str(tmp_path / "out/merged"), "mask_token": None})
    model = load(merged)
    assert model.config.mask_token_id == load_tokenizer(merged.path).mask_id == MASK
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=IDS).logits, load(base, adapter)(input_ids=IDS).logits, rtol=1e-3, atol=1e-3
        )
    assert torch.equal(embeddings(model), embeddings(load(base)))


def test_the_adapter_alone_keeps_the_row(base: ModelConfig, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(base, adapter, tmp_path / "out", merge=MergeConfig(weights="unmerged"))
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "out/adapter"))
    assert before.keys() == after.keys() and torch.equal(before[KEY], after[KEY])
    load(base, tmp_path / "out/adapter")


def test_full_finetuning_starts_from_it_and_trains_it(base: ModelConfig, shards: Path, tmp_path: Path) -> None:
    out = trained(base, shards, tmp_path / "full", finetuning="full", learning_rate=1e-3)
    checks = {check["name"]: check["passed"] for check in json.loads((out / "gate.json").read_text())["checks"]}
    assert checks["starts_from_base_first_window"]
    tuned = load(base, out / "model")
    assert tuned.config.mask_token_id == MASK and facts_of(tuned.config).new_row is None
    row = load_file(out / "model/model.safetensors")["model.embed_tokens.weight"][MASK]
    assert torch.equal(embeddings(tuned)[MASK], row) and not torch.equal(row, embeddings(load(base))[MASK])
