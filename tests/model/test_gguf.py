"""GGUF files become folders that model.path can name; what cannot is one line."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from autoregressive import KINDS, VOCABULARY, theirs, write_model
from dreamtune.errors import UserError
from dreamtune.inputs.hub import model_folder
from dreamtune.inputs.identity import FileDigests
from dreamtune.inputs.model_check import check_model
from dreamtune.model import gguf
from dreamtune.model.gguf import convert_gguf
from dreamtune.model.loading import load_model


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that lets transformers find a tiny model in a file, as if unpacked from 4 bits."""

    def hold(kind: str, **shape: Any) -> tuple[Path, Any]:
        config = write_model(tmp_path / kind, kind, **shape)
        model, file = theirs(config), tmp_path / f"{kind}.Q4_1.gguf"
        model.config.quantization_config = {"quant_method": "gguf"}
        file.write_bytes(b"GGUF")
        tokenizer = AutoTokenizer.from_pretrained(config.path)
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.19.0")
        for name, made in (("AutoModelForCausalLM", model), ("AutoTokenizer", tokenizer)):
            faked = type(name, (), {"from_pretrained": staticmethod(lambda *_, made=made, **__: made)})
            monkeypatch.setattr(gguf, name, faked)
        return file, model

    return hold


@pytest.mark.parametrize("tied", [False, True], ids=["with a head", "with tied embeddings"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_becomes_a_folder_with_the_same_logits(held: Any, kind: str, tied: bool, tmp_path: Path) -> None:
    file, model = held(kind, tie_word_embeddings=tied)
    said = convert_gguf(file, tmp_path / "folder", "float32")
    assert f"holds a {kind} model of " in said and not (tmp_path / ".folder.unfinished").exists()
    check_model(tmp_path / "folder", attention="causal")
    loaded = load_model(tmp_path / "folder", dtype="float32", attention="causal")
    ids = torch.arange(4, 24)[None] % VOCABULARY
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_converted_is_one_line(held: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, model = held("llama")
    with pytest.raises(UserError, match="is there already"):
        convert_gguf(file, tmp_path)
    with pytest.raises(UserError, match="there is no file"):
        convert_gguf(tmp_path / "other.gguf", tmp_path / "folder")
    monkeypatch.setattr(model.config, "model_type", "mamba")
    with pytest.raises(UserError, match="a model of type mamba; expected qwen2 or llama"):
        convert_gguf(file, tmp_path / "folder")
    monkeypatch.undo()

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="pip install gguf"):
        convert_gguf(file, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_gguf_file_as_a_models_path_says_how_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "model.Q4_1.gguf"
    path.write_bytes(b"GGUF")
    for look in (lambda: model_folder(str(path), None), lambda: FileDigests(tmp_path / "d").of_model(str(path), None)):
        with pytest.raises(
            UserError, match=r"a GGUF file; make a folder of it once, and name that: python \S+gguf\.py"
        ):
            look()
