"""The merged checkpoint: official names and files, and the logits of base plus adapter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import FIXTURES
from dreamtune.errors import UserError
from dreamtune.merge import merge_adapter
from dreamtune.model.loading import attach_lora, load_model
from dreamtune.model.logits import token_logits
from dreamtune.settings.likelihood import LikelihoodConfig
from dreamtune.settings.lora import LoraSettings
from dreamtune.settings.merge import MergeConfig
from dreamtune.settings.model import ModelConfig
from tests.generate.test_answers import base, shards  # noqa: F401, fixtures
from tolerance import model_tolerance

FOLDERS = {"dream": FIXTURES / "dream_tiny", "llada": FIXTURES / "llada_tiny"}


def make_adapter(model: Path, folder: Path, targets: list[str] | None = None) -> Path:
    lora = LoraSettings(rank=4, alpha=12, target_modules=targets or ["all-linear"])
    tuned = attach_lora(load_model(model, dtype="float32"), lora, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    tuned.save_pretrained(folder)
    return folder


def as_bfloat16(model: Path, folder: Path, files: int = 1) -> Path:
    """Copy a checkpoint with its weights stored in bf16, over several files with an index if asked."""
    shutil.copytree(model, folder)
    tensors = {key: tensor.bfloat16() for key, tensor in load_file(folder / "model.safetensors").items()}
    if files == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    (folder / "model.safetensors").unlink()
    names = [f"model-{i + 1:05}-of-{files:05}.safetensors" for i in range(files)]
    where = {key: names[i % files] for i, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: t for k, t in tensors.items() if where[k] == name}, folder / name, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def section(path: Path) -> ModelConfig:
    return ModelConfig(path=str(path), quantization="nf4", dtype="bfloat16", device="cpu")


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("family", FOLDERS)
def test_merged_has_the_logits_of_bf16_base_plus_adapter(family: str, files: int, tmp_path: Path) -> None:
    folder = as_bfloat16(FOLDERS[family], tmp_path / "base", files)
    adapter = make_adapter(folder, tmp_path / "adapter")
    counts = merge_adapter(section(folder), adapter, tmp_path / "out")
    assert counts["files"] == files and counts["merged_weights"] == 7 * (3 if family == "dream" else 2)

    ids = load_file(FOLDERS[family] / "reference.safetensors")["input_ids"]
    with torch.no_grad():
        merged = token_logits(load_model(tmp_path / "out" / "merged"), ids).float()
        expected = token_logits(load_model(folder, adapter=adapter), ids).float()
        plain = token_logits(load_model(folder), ids).float()
    # bf16 keeps 8 bits: through a few layers the two differ by about one percent, base and tuned by far more.
    scale = expected.std()
    assert (merged - expected).abs().mean() < 0.03 * scale
    assert (merged - plain).abs().mean() > 0.3 * scale


@pytest.mark.parametrize("family", FOLDERS)
def test_merged_in_float32_is_base_plus_adapter_to_rounding(family: str, tmp_path: Path) -> None:
    adapter = make_adapter(FOLDERS[family], tmp_path / "adapter")
    merge_adapter(section(FOLDERS[family]), adapter, tmp_path / "out")
    ids = load_file(FOLDERS[family] / "reference.safetensors")["input_ids"]
    with torch.no_grad():
        model = load_model(tmp_path / "out" / "merged", dtype="float32")
        merged = token_logits(model, ids)
        expected = token_logits(load_model(FOLDERS[family], dtype="float32", adapter=adapter), ids)
    torch.testing.assert_close(merged, expected, **model_tolerance(expected, model.config))


@pytest.mark.parametrize("family", FOLDERS)
def test_official_files_names_and_types(family: str, tmp_path: Path) -> None:
    folder = as_bfloat16(FOLDERS[family], tmp_path / "base", 2)
    (folder / "modeling_dream.py").write_text("raise SystemExit\n")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("GSM8K: 84.2")
    old = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model-q4.gguf", "tf_model.h5", "flax_model.msgpack")
    for name in old:
        (folder / name).write_bytes(b"old")
    merge_adapter(section(folder), make_adapter(folder, tmp_path / "adapter", ["q_proj"]), tmp_path / "out")
    merged = tmp_path / "out" / "merged"
    for name in ("config.json", "model.safetensors.index.json", "modeling_dream.py", "tokenizer.json"):
        assert (merged / name).read_bytes() == (folder / name).read_bytes()
    assert not [name for name in old if (merged / name).exists()], "the base's weights are not the merged ones"
    assert not (merged / "README.md").exists(), "the figures of the base are not those of the merged weights"
    changed = set()
    for file in folder.glob("model*.safetensors"):
        before, after = load_file(file), load_file(merged / file.name)
        assert {k: (t.dtype, t.shape) for k, t in before.items()} == {k: (t.dtype, t.shape) for k, t in after.items()}
        changed |= {key for key in before if not torch.equal(before[key], after[key])}
        with safe_open(merged / file.name, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert changed and all("q_proj.weight" in key for key in changed)


def test_nll_of_both_models_is_stated(base: ModelConfig, shards: Path, tmp_path: Path) -> None:  # noqa: F811
    adapter = make_adapter(Path(base.path), tmp_path / "adapter")
    counts = merge_adapter(base, adapter, tmp_path / "out", shards, LikelihoodConfig(draws=3))
    written = json.loads((tmp_path / "out" / "merge.json").read_text())
    layers = written["rounding"].pop("layers")
    assert written == counts and len(layers) == counts["merged_weights"]
    nll = counts["nll"]
    assert nll["rows"] == 5 and nll["evaluated_quantization"] == "nf4" and nll["dtype"] == "float32"
    assert nll["merged"] > 0 and nll["evaluated"] > 0
    # This base is held in 4 bits where it was evaluated and in full where it was merged: close, and not the same.
    assert abs(nll["merged"] - nll["evaluated"]) > 0
    exact = merge_adapter(
        base.model_copy(update={"quantization": "none"}), adapter, tmp_path / "exact", shards, LikelihoodConfig(draws=3)
    )["nll"]
    assert exact["merged"] == pytest.approx(exact["evaluated"], rel=1e-3) == pytest.approx(nll["merged"], rel=1e-3)


def test_nan_is_named_whichever_file_holds_it(tmp_path: Path) -> None:
    adapter = make_adapter(FOLDERS["dream"], tmp_path / "adapter", ["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "layers.1.self_attn.q_proj.lora_B" in name)
    save_file(tensors | {name: tensors[name] * torch.nan}, adapter / "adapter_model.safetensors", {"format": "pt"})
    for weights in ("base", "unmerged"):
        with pytest.raises(
            UserError, match=r"layers\.1\.self_attn\.q_proj\.lora_B\.weight in .*train the adapter again"
        ):
            merge_adapter(section(FOLDERS["dream"]), adapter, tmp_path / weights, merge=MergeConfig(weights=weights))
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    base = as_bfloat16(FOLDERS["dream"], tmp_path / "base")  # noqa: F811
    held = load_file(base / "model.safetensors")
    held["model.norm.weight"][3] = torch.inf
    save_file(held, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight in .* is not finite.*fetch or make the model again"):
        merge_adapter(section(base), adapter, tmp_path / "merged")


def test_merged_names_the_mask_token_of_the_settings(tmp_path: Path) -> None:
    base = as_bfloat16(FOLDERS["dream"], tmp_path / "base")  # noqa: F811
    (base / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<mask>"}))
    added = [{"id": 77, "content": "<mask>"}, {"id": 78, "content": "<|spare|>"}]
    (base / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    model = section(base).model_copy(update={"mask_token": "<|spare|>"})
    merge_adapter(model, make_adapter(base, tmp_path / "adapter", ["q_proj"]), tmp_path / "out")
    assert load_model(tmp_path / "out/merged").config.mask_token_id == 78
    assert load_model(base).config.mask_token_id == 77


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    dream, llada = FOLDERS["dream"], FOLDERS["llada"]
    adapter = make_adapter(dream, tmp_path / "adapter")
    with pytest.raises(UserError, match=r"adapter's model\.layers|does not fit"):
        merge_adapter(section(llada), adapter, tmp_path / "other")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(UserError, match="DoRA's magnitudes"):
        merge_adapter(section(dream), adapter, tmp_path / "dora")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="besides lora_A"):
        merge_adapter(section(dream), adapter, tmp_path / "more")


def scaled_adapter(model: Path, folder: Path, rms: float) -> Path:
    """An adapter on q_proj whose update has numbers of this size."""
    make_adapter(model, folder, ["q_proj"])
    tensors = load_file(folder / "adapter_model.safetensors")
    for key in [key for key in tensors if "lora_B" in key]:
        a, b = tensors[key.replace("lora_B", "lora_A")].float(), tensors[key].float()
        tensors[key] = b * (rms / (3 * b @ a).square().mean().sqrt())  # alpha / r = 3
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def wide_base(folder: Path) -> Path:
    """The small checkpoint in bfloat16, with q_proj weights as large as a 7B's, 0.02 on average."""
    as_bfloat16(FOLDERS["dream"], folder)
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for key in [key for key in tensors if "q_proj.weight" in key]:
        tensors[key] = (0.02 * torch.randn(tensors[key].shape, generator=generator)).bfloat16()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(("rms", "lost"), [(2.3e-5, 0.77), (7.7e-5, 0.40), (1e-2, 0.003)])
def test_what_rounding_takes_is_measured_and_said(
    rms: float, lost: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, adapter = wide_base(tmp_path / "base"), scaled_adapter(FOLDERS["dream"], tmp_path / "adapter", rms)
    counts = merge_adapter(section(model), adapter, tmp_path / "out")
    rounding = json.loads((tmp_path / "out/merge.json").read_text())["rounding"]
    assert rounding["rms"] == pytest.approx(rms, rel=0.01) and rounding["lost"] == pytest.approx(lost, rel=0.25)
    assert counts["rounding"] == {"lost": rounding["lost"], "rms": rounding["rms"]}
    # The file itself: what is missing of the update in the weights that were written.
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "out/merged"))
    factors = load_file(adapter / "adapter_model.safetensors")
    for layer in rounding["layers"]:
        name = f"base_model.model.{layer['weight'].removesuffix('.weight')}"
        update = 3 * factors[f"{name}.lora_B.weight"].float() @ factors[f"{name}.lora_A.weight"].float()
        missing = after[layer["weight"]].float() - before[layer["weight"]].float() - update
        assert layer["lost"] == pytest.approx(float(missing.norm() / update.norm()), rel=1e-3)
    said = capsys.readouterr().err
    assert ("of the adapter's update" in said and "merge.weights" in said) == (lost > 0.05)


def test_float32_keeps_the_update_and_says_so_to_the_official_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = wide_base(tmp_path / "base")
    adapter = scaled_adapter(FOLDERS["dream"], tmp_path / "adapter", 2.3e-5)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    counts = merge_adapter(section(model), adapter, tmp_path / "out", merge=MergeConfig(weights="float32"))
    assert counts["rounding"]["lost"] < 1e-3 and "rounding took" not in capsys.readouterr().err
    merged = tmp_path / "out/merged"
    assert json.loads((merged / "config.json").read_text()) == config | {"torch_dtype": "float32"}
    before, after = load_file(model / "model.safetensors"), load_file(merged / "model.safetensors")
    assert before.keys() == after.keys() and {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert all(torch.equal(before[k].float(), after[k]) == ("q_proj.weight" not in k) for k in before)


def test_the_index_of_a_float32_merge_counts_its_bytes(tmp_path: Path) -> None:
    model = as_bfloat16(FOLDERS["llada"], tmp_path / "base", 2)
    adapter = make_adapter(model, tmp_path / "adapter", ["q_proj"])
    merge_adapter(section(model), adapter, tmp_path / "out", merge=MergeConfig(weights="float32"))
    index = json.loads((tmp_path / "out/merged/model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    written = sum(t.nbytes for file in files for t in load_file(tmp_path / "out/merged" / file).values())
    assert index["metadata"]["total_size"] == written and len(files) == 2


@pytest.mark.parametrize("family", FOLDERS)
def test_an_unmerged_export_names_the_official_modules(family: str, tmp_path: Path) -> None:
    """So PEFT finds each of them in the official code's model, whose weights have the names of the checkpoint."""
    model = FOLDERS[family]
    adapter = make_adapter(model, tmp_path / "adapter")
    merge_adapter(section(model), adapter, tmp_path / "out", merge=MergeConfig(weights="unmerged"))
    assert not (tmp_path / "out/merged").exists()
    exported, trained = tmp_path / "out/adapter", load_file(adapter / "adapter_model.safetensors")
    tensors = load_file(exported / "adapter_model.safetensors")
    modules = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in tensors}
    assert {f"{module}.weight" for module in modules} < load_file(model / "model.safetensors").keys()
    assert len(tensors) == len(trained)
    config = json.loads((exported / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model)
    if family == "dream":
        assert all(torch.equal(trained[key], tensors[key]) for key in trained)
        ids = load_file(model / "reference.safetensors")["input_ids"]
        with torch.no_grad():
            one, other = (token_logits(load_model(model, dtype="float32", adapter=a), ids) for a in (adapter, exported))
        assert torch.equal(one, other)
    else:
        assert set(config["target_modules"]) == modules
        assert "model.transformer.blocks.0.ff_out" in modules and "model.transformer.ff_out" not in modules
        renamed = "base_model.model.model.transformer.blocks.1.attn_out.lora_B.weight"
        assert torch.equal(tensors[renamed], trained["base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"])


def test_the_nll_of_an_unmerged_export_is_that_of_the_base_in_full_precision(
    base: ModelConfig,  # noqa: F811
    shards: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    adapter, settings = make_adapter(Path(base.path), tmp_path / "adapter"), LikelihoodConfig(draws=3)
    counts = {
        weights: merge_adapter(base, adapter, tmp_path / weights, shards, settings, MergeConfig(weights=weights))
        for weights in ("unmerged", "float32")
    }
    one, other = (counts[weights]["nll"] for weights in ("unmerged", "float32"))
    assert one["merged"] == pytest.approx(other["merged"], rel=1e-4) and one["evaluated"] == other["evaluated"]
