"""Checkpoints and adapters that cannot be used are refused in one line, and nothing a checkpoint brings is run."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from conftest import FIXTURES
from dreamtune.errors import UserError
from dreamtune.files import read_json, write_json
from dreamtune.inputs.checkpoint_format import family_of, native_fields, read_config
from dreamtune.inputs.shapes import LAYER, expected_shapes
from dreamtune.model.adapter_format import ADAPTER_WEIGHTS
from dreamtune.model.loading import attach_lora, empty_model, load, load_model
from dreamtune.model.official_writer import declare_mask
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.model import ModelConfig
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


@pytest.mark.parametrize(
    ("folder", "name", "size"),
    [
        (DREAM, "num_hidden_layers", 10**9),
        (DREAM, "hidden_size", 10**12),
        (DREAM, "vocab_size", -1),
        (DREAM, "intermediate_size", "8"),
        (LLADA, "n_layers", 10**9),
        (LLADA, "n_layers", True),
    ],
)
def test_sizes_that_no_model_has_are_refused(tmp_path: Path, folder: Path, name: str, size: object) -> None:
    with pytest.raises(UserError, match=f"config.json has {name} = {size!r}; expected a whole number from 1 to"):
        read_config(copy(folder, tmp_path / "model", **{name: size}))


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
    assert "model.safetensors has 5,000 bytes, and by its header" in refusal(path=cut)
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
    assert "should have" in refusal(path=copy(DREAM, tmp_path / "wide", hidden_size=128))


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize(
    ("folder", "key", "shape"),
    [
        (DREAM, "model.layers.1.mlp.up_proj.weight", "64 x 160, and by config.json it should have 160 x 64"),
        (DREAM, "model.layers.2.self_attn.k_proj.weight", "64 x 32, and by config.json it should have 32 x 64"),
        (LLADA, "model.transformer.blocks.0.ff_out.weight", None),
        (LLADA, "model.transformer.wte.weight", None),
    ],
)
def test_a_tensor_of_another_shape_is_named(
    tmp_path: Path, folder: Path, key: str, shape: str | None, quantization: str
) -> None:
    """4-bit weights are flat: a transposed one loaded before, and gave finite logits."""
    changed = copy(folder, tmp_path / "model")
    tensors = load_file(changed / "model.safetensors")
    tensors[key] = tensors[key].T.contiguous()
    rows, columns = tensors[key].shape
    save_file(tensors, changed / "model.safetensors", {"format": "pt"})
    shape = shape or f"{rows} x {columns}, and by config.json it should have {columns} x {rows}"
    assert f"{key} has the shape {shape}" in refusal(path=changed, quantization=quantization)


def test_every_shape_of_a_model_is_known() -> None:
    """The shapes that are compared are those that transformers would build, of all weights."""
    for folder in (DREAM, LLADA, FIXTURES / "dream_7b"):
        raw = json.loads((folder / "config.json").read_text())
        family = family_of(raw)
        shapes = expected_shapes(native_fields(raw, family))
        for name, weight in empty_model(raw).state_dict().items():
            inside = LAYER.fullmatch(name)
            assert shapes[inside[2] if inside else name] == tuple(weight.shape), name


def test_a_wrong_family_is_not_blamed_on_the_weights(tmp_path: Path) -> None:
    assert "model.family is 'llada', and" in refusal(path=DREAM, family="llada")
    assert "model.family is 'dream', and" in refusal(path=LLADA, family="dream")
    other = copy(DREAM, tmp_path / "other", model_type="MyDream")
    assert load_model(other, family="dream").config.mask_token_id == 500
    said = refusal(path=other, family="llama")  # Llama has no biases
    assert "unexpected_keys" in said and "model.family is llama: is that its architecture?" in said


def test_a_mask_token_of_the_settings(tmp_path: Path) -> None:
    folder = copy(DREAM, tmp_path / "model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<mask>"}))
    added = [{"id": 77, "content": "<mask>"}, {"id": 78, "content": "<|spare|>"}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    section = ModelConfig(path=str(folder), dtype="float32", quantization="none", device="cpu", mask_token="<|spare|>")
    assert load_model(folder).config.mask_token_id == 77
    assert load(section).config.mask_token_id == 78
    assert "model.mask_token is '<x>', which the tokenizer in" in refusal(path=folder, mask_token="<x>")
    beyond = copy(DREAM, tmp_path / "beyond", mask_token_id=512)
    assert "has the id 512, and the embeddings have 512 rows; set model.mask_token" in refusal(path=beyond)
    declare_mask(folder, folder, None)
    assert load_model(folder).config.mask_token_id == 77
    declare_mask(folder, folder, "<|spare|>")  # as merged and fully fine-tuned checkpoints do
    assert load_model(folder).config.mask_token_id == 78
    assert json.loads((folder / "config.json").read_text())["mask_token_id"] == 78


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

    config = read_json(fewer / "adapter_config.json")
    write_json(fewer / "adapter_config.json", config | {"base_model_name_or_path": -0.5})
    assert "base_model_name_or_path = -0.5; expected text or null" in refusal(path=DREAM, adapter=fewer)

    (fewer / ADAPTER_WEIGHTS).rename(fewer / "adapter_model.bin")
    assert "pickled" in refusal(path=DREAM, adapter=fewer)


def test_bad_settings_are_refused_in_one_line() -> None:
    assert "nf4" in refusal(path=DREAM, quantization="int8")
    with pytest.raises(UserError, match=r"'query'.*q_proj"):
        attach_lora(load_model(DREAM), LoraSettings(target_modules=["query"]), seed=0)


@pytest.mark.parametrize("field", [{"hidden_act": []}, {"rms_norm_eps": [1]}, {"max_position_embeddings": "nan"}])
def test_a_field_of_another_type_is_named(tmp_path: Path, field: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"config.json of the model: .*{next(iter(field))}") as caught:
        load_model(copy(DREAM, tmp_path / "model", **field))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_config.json", ADAPTER_WEIGHTS])
@pytest.mark.parametrize("content", [b"", b"\xff{}", b"[1]", b"\x02\x00\x00\x00\x00\x00\x00\x00{}x"])
def test_a_damaged_adapter_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    tuned().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_model(DREAM, adapter=tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
