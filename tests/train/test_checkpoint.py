"""Checkpoints: written aside, verified when read, pruned, and safe with two writers."""

import errno
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from dreamtune.errors import UserError
from dreamtune.model.loading import attach_lora, load
from dreamtune.settings.model import ModelConfig
from dreamtune.train import checkpoint
from dreamtune.train.checkpoint import (
    check_finite,
    clear_abandoned,
    is_whole,
    newest,
    prune,
    save_adapter,
    save_checkpoint,
)
from dreamtune.train.optimizer import make_optimizer
from dreamtune.writers import writer_name
from tiny import make_model, settings

Parts = tuple[PeftModel, torch.optim.Optimizer, ModelConfig]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return make_model(tmp_path_factory.mktemp("model") / "base")


def fresh(base: ModelConfig, seed: int = 0) -> Parts:
    model = attach_lora(load(base), settings().lora, seed)
    trainable = [p for p in model.parameters() if p.requires_grad]
    return model, make_optimizer(trainable, settings(), torch.device("cpu")), base


@pytest.fixture
def parts(base: ModelConfig) -> Parts:
    """A model and an optimiser that have made a step."""
    model, optimizer, base = fresh(base)
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        parameter.grad = torch.full_like(parameter, 0.1 * number)
    optimizer.step()
    return model, optimizer, base


def put_adapter(model: PeftModel, base: ModelConfig, folder: Path) -> None:
    save_adapter(get_peft_model_state_dict(model), model.peft_config["default"], folder, base)


def write(folder: Path, step: int, parts: Parts, **state: Any) -> Path:
    model, optimizer, base = parts
    save_checkpoint(
        folder,
        step,
        lambda private: put_adapter(model, base, private / "adapter"),
        optimizer.state_dict(),
        {"step": step} | state,
    )
    return folder / f"step-{step:06d}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_restores_to_the_bit(tmp_path: Path, parts: Parts) -> None:
    write(tmp_path, 125, parts, wall_s=1.25)
    found = newest(tmp_path)
    assert found is not None and found.state == {"step": 125, "wall_s": 1.25}
    model, optimizer, _ = fresh(parts[2], seed=1)
    set_peft_model_state_dict(model, found.weights)
    optimizer.load_state_dict(found.optimizer)
    for mine, theirs in zip(model.parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(mine, theirs)
    mine, theirs = optimizer.state_dict()["state"], parts[1].state_dict()["state"]
    assert mine.keys() == theirs.keys() and len(mine) > 0
    assert all(torch.equal(mine[i][name], theirs[i][name]) for i in mine for name in mine[i])
    assert names(tmp_path) == ["step-000125"]  # nothing half-written beside it


def test_nothing_there(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "no checksums", "nonsense checksums", "empty"])
def test_a_damaged_newest_one_is_skipped(
    tmp_path: Path, parts: Parts, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 1, parts)
    path = write(tmp_path, 2, parts)
    weights, sums = path / "adapter/adapter_model.safetensors", path / "checksums.json"
    if damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "delete":
        (path / "optimizer.pt").unlink()
    elif damage == "no checksums":
        sums.unlink()
    elif damage == "nonsense checksums":
        sums.write_text("{")
    else:
        shutil.rmtree(path)
        path.mkdir()
    found = newest(tmp_path)
    assert found is not None and found.state["step"] == 1
    assert "step-000002 is damaged" in capsys.readouterr().err
    write(tmp_path, 0, parts)
    prune(tmp_path, keep=2)
    assert names(tmp_path) == ["step-000000", "step-000001"], "the damaged one takes no whole one's place"


def test_a_damaged_one_is_replaced_a_whole_one_is_kept(tmp_path: Path, parts: Parts) -> None:
    path = write(tmp_path, 3, parts, writer="first")
    write(tmp_path, 3, parts, writer="second")
    found = newest(tmp_path)
    assert found is not None and found.state["writer"] == "first"
    (path / "optimizer.pt").write_bytes(b"")
    write(tmp_path, 3, parts, writer="third")
    found = newest(tmp_path)
    assert found is not None and found.state["writer"] == "third"
    assert names(tmp_path) == ["step-000003"]


def test_one_that_vanishes_while_it_is_read(tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer prunes the newest one after it was found whole, and has written a newer one meanwhile."""
    write(tmp_path, 1, parts)
    original = checkpoint.load_file

    def prune_first(path: Path) -> Any:
        monkeypatch.setattr(checkpoint, "load_file", original)
        shutil.rmtree(tmp_path / "step-000001")
        write(tmp_path, 2, parts)
        return original(path)

    monkeypatch.setattr(checkpoint, "load_file", prune_first)
    found = newest(tmp_path)
    assert found is not None and found.state["step"] == 2


def test_prune_keeps_the_newest_and_removes_what_was_abandoned(tmp_path: Path, parts: Parts) -> None:
    for step in (9, 10, 100):
        write(tmp_path, step, parts)
    old, young = tmp_path / ".step-000101.host.1.aa", tmp_path / ".step-000101.host.2.bb"
    old.mkdir()
    young.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    prune(tmp_path, keep=2)
    assert names(tmp_path) == [young.name, "step-000010", "step-000100"]


def test_a_checkpoint_that_is_being_deleted_has_its_name_no_more(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle leaves no half of one, which would be kept for ever."""
    for step in (9, 10):
        write(tmp_path, step, parts)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dreamtune.writers.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path, keep=1)
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["step-000010"]


@pytest.fixture
def dead() -> str:
    """The name of a writer of this machine that has ended."""
    place, number, start = writer_name().split("-")
    return f"{place}-{number}-{int(start) + 1}"


def test_half_written_ones_go_where_no_living_process_holds_them(
    tmp_path: Path, dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its age, what a living process writes stays, and what a dead one left goes."""
    living, left = tmp_path / f".step-000101.{writer_name()}.aa", tmp_path / f".step-000101.{dead}.bb"
    elsewhere, long_ago = tmp_path / f".step-000102.{'0' * 12}-7-7.cc", tmp_path / ".step-000102.host.dd"
    for folder in (living, left, elsewhere, long_ago):
        (folder / "adapter").mkdir(parents=True)
        (folder / "adapter/weights").write_bytes(b"half")
        for path in (folder, folder / "adapter", folder / "adapter/weights"):
            if folder in (living, long_ago):
                os.utime(path, (0, 0))
    os.utime(elsewhere, (0, 0))  # but a file in it was just written
    clear_abandoned(tmp_path)
    assert names(tmp_path) == sorted([living.name, elsewhere.name])
    said = capsys.readouterr().err
    assert f"deleting {left}, a half-written checkpoint" in said and living.name not in said
    clear_abandoned(tmp_path / "nowhere")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, parts)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2, parts)
    assert names(tmp_path) == ["step-000001"]


def test_a_writer_whose_folder_is_taken_for_abandoned_loses_it_and_goes_on(
    tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process of another machine that was suspended for an hour in the middle of a write."""

    def removed_before(_: Any, path: Path) -> None:
        shutil.rmtree(path.parent)
        path.write_bytes(b"too late")

    monkeypatch.setattr(checkpoint.torch, "save", removed_before)
    write(tmp_path, 2, parts)
    assert names(tmp_path) == []
    assert "step-000002 was removed while it was written; going on without it" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_nan_in_a_checkpoint_is_named(tmp_path: Path, parts: Parts, where: str) -> None:
    model, optimizer, _ = parts
    kept = optimizer.state_dict()["state"][3]["exp_avg"].clone()
    parameter = next(p for name, p in model.named_parameters() if "layers.1.self_attn.v_proj.lora_B" in name)
    before = parameter.detach().clone()
    try:
        if where == "weights":
            parameter.data[0, 0] = torch.nan
        else:
            optimizer.state_dict()["state"][3]["exp_avg"][0, 0] = torch.inf
        found = newest(write(tmp_path, 1, parts).parent)
    finally:
        parameter.data.copy_(before)
        optimizer.state_dict()["state"][3]["exp_avg"].copy_(kept)
    assert found is not None
    named = {"weights": r"model\.layers\.1\.self_attn\.v_proj\.lora_B\.weight", "optimizer": r"3 \(exp_avg of the"}
    with pytest.raises(
        UserError, match=rf"the weight {named[where]}.* in \S*step-000001 is not finite.*delete that folder"
    ):
        check_finite(found)


def test_two_writers_at_once(tmp_path: Path, parts: Parts) -> None:
    errors: list[BaseException] = []

    def writer() -> None:
        try:
            for step in range(1, 15):
                write(tmp_path, step, parts)
                prune(tmp_path, keep=1)
                newest(tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=writer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = newest(tmp_path)
    assert found is not None and found.state["step"] == 14
    assert [name for name in names(tmp_path) if name.startswith(".")] == []
    assert is_whole(tmp_path / "step-000014")


def test_adapter_names_its_base_but_its_weights_do_not(tmp_path: Path, parts: Parts) -> None:
    import json

    here, there = parts[2], parts[2].model_copy(update={"path": "Dream-org/Dream-v0-Base-7B", "revision": "a" * 40})
    put_adapter(parts[0], here, tmp_path / "a")
    put_adapter(parts[0], there, tmp_path / "b")
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    config = json.loads((tmp_path / "b/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Dream-org/Dream-v0-Base-7B" and config["revision"] == "a" * 40
    assert config["target_modules"] == sorted(config["target_modules"])
    loaded = load(here, tmp_path / "a")
    ids = torch.arange(6)[None]
    parts[0].eval()
    assert torch.equal(loaded(input_ids=ids).logits, parts[0](input_ids=ids).logits)
