"""What is known of a model before anything runs, each in one line: special tokens, family, shapes, names of files."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import FIXTURES, ROOT
from dreamtune.config import parse_config
from dreamtune.errors import UserError
from dreamtune.inputs import hub
from dreamtune.inputs.checkpoint_format import families_of, family_of
from dreamtune.inputs.identity import FileDigests
from dreamtune.inputs.model_check import check_model
from dreamtune.inputs.special_tokens import read_vocabulary
from dreamtune.inputs.weight_files import INDEX, weight_files
from dreamtune.workflow.models import check_models, distinct_models, models_from
from rows import VOCABULARY, write_model

ROWS = len(VOCABULARY)
COMMIT = "a" * 40


def change(folder: Path, name: str, **fields: object) -> Path:
    """Change fields of a JSON file in a folder; None removes one."""
    content = json.loads((folder / name).read_text()) | fields
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def model(folder: Path, tokens: dict[str, Any] | None = None, added: list[str] | None = None, **more: Any) -> Path:
    """Write a model whose tokenizer_config.json has `tokens`, and whose tokenizer has `added` tokens more."""
    change(Path(write_model(folder, **more)), "tokenizer_config.json", **(tokens or {}))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] += [{"id": ROWS + i, "content": text} for i, text in enumerate(added or [])]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def refusal(folder: Path, *settings: str | None) -> str:
    with pytest.raises(UserError) as caught:
        check_model(folder, *settings)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_usable_model_passes(tmp_path: Path) -> None:
    check_model(model(tmp_path / "model"))
    check_model(ROOT / "resources/tiny-dream")
    check_model(ROOT / "resources/tiny-dream", "qwen2")  # the same architecture as Dream's


def test_a_model_whose_layers_see_a_window_is_refused(tmp_path: Path) -> None:
    """All layers would see whole documents: another model than the one that was trained."""
    window = {"sliding_window": 8, "max_position_embeddings": 64}
    folder = model(tmp_path / "model")
    for ways in ({"use_sliding_window": True}, {"layer_types": ["full_attention", "sliding_attention"]}):
        assert "a window of 8 tokens" in refusal(change(folder, "config.json", **(window | ways)))
        change(folder, "config.json", **dict.fromkeys(ways))
    check_model(change(folder, "config.json", use_sliding_window=False))  # as Qwen2's and Qwen2.5's say
    check_model(
        change(folder, "config.json", use_sliding_window=True, sliding_window=64)
    )  # no shorter than the context


SPARE = "set model.mask_token to a token that neither this model nor your rows use, such as '<|spare|>'"


@pytest.mark.parametrize(
    ("tokens", "config", "expected"),
    [
        ({"mask_token": None}, {"mask_token_id": 104}, "the mask token of .* has the id 104, and .* have 104 rows"),
        ({"mask_token": None}, {}, "has no mask token, without which no diffusion model can be trained"),
        ({"mask_token": "[END]"}, {}, r"the mask token of .* is its end token too \(id 2\)"),
        ({"mask_token": "[BEGIN]"}, {}, r"the mask token of .* is its beginning token too \(id 3\)"),
    ],
)
def test_a_mask_token_that_cannot_serve_and_advice_that_works(
    tmp_path: Path, tokens: dict[str, Any], config: dict[str, Any], expected: str
) -> None:
    folder = model(tmp_path / "model", tokens, ["<|spare|>"], rows=ROWS + 1, **config)
    with pytest.raises(UserError, match=f"{expected}.*{SPARE.replace('|', '[|]')}"):
        check_model(folder)
    check_model(folder, None, "<|spare|>")


def test_without_a_spare_token_none_is_recommended(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", {"mask_token": "[END]"})
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in ("[END]", "[BEGIN]")]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "add a token to a copy of this one" in refusal(folder)


@pytest.mark.parametrize(("text", "what"), [("w5", "a part of ordinary text"), ("<mask>", "no token of its tokenizer")])
def test_a_setting_that_names_no_unused_token(tmp_path: Path, text: str, what: str) -> None:
    folder = model(tmp_path / "model", None, ["<|spare|>"], rows=ROWS + 1)
    said = refusal(folder, None, text)
    assert f"model.mask_token is {text!r}" in said and what in said and SPARE in said


def test_a_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", None, ["<|one|>", "<|two|>"], rows=ROWS)
    assert f"its token '<|two|>' has the id {ROWS + 1}, and the embeddings have {ROWS} rows" in refusal(folder)


def test_a_mask_token_that_was_only_added_to_the_tokenizer(tmp_path: Path) -> None:
    """Another mask token alone would not do: the tokenizer stays too large. Both steps of the advice lead on."""
    folder = model(tmp_path / "model", {"mask_token": "<mask>"}, ["<|spare|>", "<mask>"], rows=ROWS + 1)
    assert re.search(
        r"take the tokenizer that the model was trained with, and " + SPARE.replace("|", "[|]"), refusal(folder)
    )
    assert "is larger than the model" in refusal(folder, None, "<|spare|>")
    check_model(model(tmp_path / "model", {"mask_token": None}, ["<|spare|>"], rows=ROWS + 1), None, "<|spare|>")


def test_an_end_or_padding_token_without_a_row(tmp_path: Path) -> None:
    folder = model(tmp_path / "one", {"eos_token": None}, eos_token_id=[5000, 2])
    assert "the end token of" in refusal(folder) and "has the id 5000" in refusal(folder)
    assert "the padding token of" in refusal(model(tmp_path / "two", pad_token_id=ROWS))
    assert "has no end token" in refusal(model(tmp_path / "three", {"eos_token": None}))
    check_model(model(tmp_path / "four", pad_token_id=-1))  # how some configurations write that there is none


def test_vocabularies_in_every_form(tmp_path: Path) -> None:
    for name, vocab in (("one", {"a": 0, "b": 1}), ("two", [["a", -1.0], ["b", -2.5]])):
        (tmp_path / name).mkdir()
        content = {"model": {"vocab": vocab}, "added_tokens": [{"id": 2, "content": "<m>"}]}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(content))
        assert read_vocabulary(tmp_path / name) == ({"a": 0, "b": 1, "<m>": 2}, {"<m>": 2})
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "added_tokens.json").write_text('{"<m>": 2}')
    assert read_vocabulary(tmp_path) == ({"a": 0, "b": 1, "<m>": 2}, {"<m>": 2})
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"7": {"content": "<n>"}}}')
    assert read_vocabulary(tmp_path).added == {"<n>": 7}
    (tmp_path / "vocab.json").write_text('["a"]')
    with pytest.raises(UserError, match="holds no JSON object"):
        read_vocabulary(tmp_path)


def test_a_wrong_family_is_blamed_on_the_setting() -> None:
    dream, llada = (json.loads((FIXTURES / name / "config.json").read_text()) for name in ("dream_tiny", "llada_tiny"))
    other, mine = dream | {"model_type": "MyDream"}, llada | {"model_type": "MyLLaDA"}
    assert families_of(other) == ["dream", "qwen2", "llama"] and families_of(mine) == ["llada"]
    assert family_of(other, "dream") == "dream" and family_of(dream, "qwen2") == "qwen2"
    for raw, family, expected in (
        (
            dream,
            "llada",
            r"model\.family is 'llada', and config\.json \(model_type 'Dream'\) can be dream or qwen2 only",
        ),
        (llada, "dream", r"model\.family is 'dream', .* can be llada only; leave it null"),
        (mine, "llama", r"model\.family is 'llama', .* can be llada only; set it to llada"),
        (other, None, r"has model_type 'MyDream'; .* set model\.family to dream or qwen2 or llama"),
        ({"model_type": "bert"}, "dream", "no known family"),
        ({"model_type": "bert"}, None, "no known family"),
    ):
        with pytest.raises(UserError, match=expected):
            family_of(raw, family)


@pytest.mark.parametrize("name", ["../out.safetensors", "sub/w.safetensors", "w.bin", ".w.safetensors", "", "/w", 5])
def test_an_index_names_only_safetensors_of_its_folder(tmp_path: Path, name: object) -> None:
    """Any other file would be loaded, the pickle with code in it, and would not be part of the model's identity."""
    folder = model(tmp_path / "model")
    (folder / "sub").mkdir()
    for place in ("../out.safetensors", "sub/w.safetensors", "w.bin", ".w.safetensors", "5"):
        (folder / place).write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"model.embed_tokens.weight": name}}))
    for look in (weight_files, check_model, lambda path: FileDigests(tmp_path / "d").of_model(str(path), None)):
        with pytest.raises(UserError, match="expected names of safetensors files that lie in the same folder"):
            look(folder)


def test_all_files_of_an_index_are_part_of_the_identity(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "any name.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"model.embed_tokens.weight": "any name.safetensors"}}))
    identity = FileDigests(tmp_path / "d").of_model(str(folder), None)
    assert {INDEX, *(file.name for file in weight_files(folder))} <= set(identity)


def test_an_adapter_beside_the_model_is_refused(tmp_path: Path) -> None:
    """transformers would put it on the model, and no identity would say so."""
    folder = model(tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in refusal(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", b"\2\0\0\0\0\0\0\0[]"]
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    folder = model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors is not a safetensors file; copy or download it again" in refusal(folder)


def test_weights_that_were_cut(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    assert f"has {len(whole) - 1} bytes, and by its header {len(whole)}" in refusal(folder)


def test_a_model_of_far_too_many_layers(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", num_hidden_layers=1_000)
    weights = {"model.embed_tokens.weight": np.zeros((ROWS, 2)), "model.layers.0.input_layernorm.weight": np.zeros(2)}
    save_file(weights, folder / "model.safetensors")
    assert "says 1,000 layers" in refusal(folder)


def experiments(**models: dict[str, Any]) -> Any:
    sections = {"model": {"path": "model"}, "data": {"files": ["rows.parquet"]}}
    return parse_config(sections | {"experiments": {name: {"model": model} for name, model in models.items()}})


def test_a_plan_checks_each_model_once_and_those_from_the_hub_where_they_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    model(Path("model"))
    there = {"path": "owner/name", "revision": COMMIT}
    config = experiments(a={}, b={}, c=there, d=there | {"mask_token": "[UNK]"})
    assert len(distinct_models(config)) == 3
    check_models(config)  # owner/name has not been fetched
    assert [json.loads(text)["mask_token"] for text in models_from(config, f"owner/name@{COMMIT}")] == [None, "[UNK]"]
    assert models_from(config, "hf://datasets/a/b@c/d") == []

    snapshot = tmp_path / "cache/models--owner--name/snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    model(snapshot, {"mask_token": "[END]"})
    assert hub.cached_model("owner/name", COMMIT) == snapshot
    with pytest.raises(UserError, match="is its end token too"):
        check_models(config)
    (snapshot / "model.safetensors").unlink()  # not whole: after its download
    check_models(config)


def test_the_check_needs_neither_torch_nor_tokenizers() -> None:
    code = "import sys; from dreamtune.workflow import models, experiments; models.check_model(sys.argv[1:] and "
    code += (
        "__import__('pathlib').Path(sys.argv[1])); print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(ROOT / "resources/tiny-dream")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("number", ["-", [1, 2], -1, 0.5, None])
def test_an_entry_whose_id_is_no_number(tmp_path: Path, number: object) -> None:
    folder = model(tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["w7"] = number
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert f"the id of 'w7' is {number!r}" in refusal(folder)
