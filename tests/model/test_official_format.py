"""Checkpoints and adapters that cannot be used are refused in one line, and nothing a checkpoint brings is run."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dreamtune.errors import UserError
from dreamtune.model.adapter_format import ADAPTER_WEIGHTS
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.settings.lora import LoraSettings
from tests.model.test_loading import DREAM, LLADA, tuned


def copy(folder: Path, target: Path, **config: object) -> Path:
    shutil.copytree(folder, target)
    raw = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(raw))
    return target


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    auto = {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}
    folder = copy(DREAM, tmp_path / "model", auto_map=auto)
    for name in ("configuration_dream.py", "modeling_dream.py"):
        (folder / name).write_text("raise SystemExit('remote code ran')")
    assert type(load_model(folder)).__module__.startswith("transformers.models.qwen2")


def test_mask_token_of_a_qwen2_checkpoint_comes_from_its_tokenizer(tmp_path: Path) -> None:
    folder = copy(DREAM, tmp_path / "model", model_type="qwen2", mask_token_id=None)
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": {"content": "<mask>"}}))
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 77, "content": "<mask>"}]}))
    assert load_model(folder).config.mask_token_id == 77


def refusal(**options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_model(**options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_bad_checkpoints_are_refused_in_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in refusal(path=empty)

    no_weights = copy(DREAM, tmp_path / "no_weights")
    (no_weights / "model.safetensors").unlink()
    assert "holds no model.safetensors" in refusal(path=no_weights)
    (no_weights / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    assert "pickled" in refusal(path=no_weights) and "convert" in refusal(path=no_weights)

    assert "'bert'" in refusal(path=copy(DREAM, tmp_path / "bert", model_type="bert"))
    assert "does not exist" in refusal(path=tmp_path / "nowhere")
    assert "already quantised" in refusal(path=copy(DREAM, tmp_path / "q", quantization_config={"bits": 4}))
    assert "include_bias" in refusal(path=copy(LLADA, tmp_path / "bias", include_bias=True))

    cut = copy(DREAM, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((DREAM / "model.safetensors").read_bytes()[:5000])
    assert "cannot read the weights" in refusal(path=cut)
    index = copy(DREAM, tmp_path / "index")
    (index / "model.safetensors").unlink()
    (index / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert "lacks model-1.safetensors" in refusal(path=index)
    for damaged in ("<html>", "{}", "[]"):
        (index / "model.safetensors.index.json").write_text(damaged)
        assert "is no index of weights" in refusal(path=index)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    """transformers would go on with random weights."""
    fewer = copy(DREAM, tmp_path / "fewer")
    tensors = load_file(fewer / "model.safetensors")
    missing = {k: v for k, v in tensors.items() if k != "model.layers.1.mlp.up_proj.weight"}
    save_file(missing, fewer / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refusal(path=fewer)
    assert "do not fit" in refusal(path=copy(DREAM, tmp_path / "layers", num_hidden_layers=2))
    refusal(path=copy(DREAM, tmp_path / "wide", hidden_size=128))


@pytest.mark.parametrize("revision", [None, "main", "6572adb"])
def test_hub_name_needs_a_full_commit(revision: str | None) -> None:
    assert "40 hex digits" in refusal(path="Dream-org/Dream-v0-Base-7B", revision=revision)


def test_bad_adapters_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "adapter_config.json" in refusal(path=DREAM, adapter=tmp_path)
    tuned(LLADA).save_pretrained(tmp_path / "llada")
    assert "does not fit" in refusal(path=DREAM, adapter=tmp_path / "llada")

    fewer = tmp_path / "fewer"
    tuned().save_pretrained(fewer)
    tensors = load_file(fewer / ADAPTER_WEIGHTS)
    save_file(dict(list(tensors.items())[2:]), fewer / ADAPTER_WEIGHTS)
    assert "missing from the file" in refusal(path=DREAM, adapter=fewer)

    (fewer / ADAPTER_WEIGHTS).rename(fewer / "adapter_model.bin")
    assert "pickled" in refusal(path=DREAM, adapter=fewer)


def test_bad_settings_are_refused_in_one_line() -> None:
    assert "nf4" in refusal(path=DREAM, quantization="int8")
    with pytest.raises(UserError, match=r"'query'.*q_proj"):
        attach_lora(load_model(DREAM), LoraSettings(target_modules=["query"]), seed=0)
