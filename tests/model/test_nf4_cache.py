"""The base in NF4 as a cache: the same bits, one maker, and a damaged or unwritable entry costs time only."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import FIXTURES
from dreamtune.device.caches import Caches, only_maker, open_caches
from dreamtune.errors import UserError
from dreamtune.files import read_json
from dreamtune.model import loading, nf4_cache
from dreamtune.model.loading import load
from dreamtune.settings.model import ModelConfig

FOLDERS = [FIXTURES / "dream_tiny", FIXTURES / "llada_tiny"]


@pytest.fixture
def caches(tmp_path: Path) -> Iterator[Caches]:
    opened = open_caches(tmp_path / "cache", {"model.safetensors": "0" * 64})
    assert opened
    yield opened
    open_caches(None)


def base(folder: Path = FOLDERS[0], dtype: Any = "bfloat16") -> ModelConfig:
    return ModelConfig(path=str(folder), dtype=dtype, device="cpu")


def entry(caches: Caches) -> Path:
    [record] = caches.folder.glob("nf4/*/cache.json")
    return record.parent


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the way in which each further model is loaded."""
    ways: list[str] = []
    original = loading._from_pretrained

    def watched(folder: Path, way: str, **given: Any) -> Any:
        ways.append(way)
        return original(folder, way, **given)

    monkeypatch.setattr(loading, "_from_pretrained", watched)
    return ways


def bits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all that a model computes with: its state and its buffers, as bytes."""
    tensors = {**model.state_dict(), **dict(model.named_buffers())}
    return {name: tensor.detach().contiguous().flatten().view(torch.uint8) for name, tensor in tensors.items()}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_cache_equals_loading_directly_to_the_bit(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, folder: Path, dtype: str
) -> None:
    ways = reads(monkeypatch)
    made, kept = load(base(folder, dtype)), load(base(folder, dtype))
    open_caches(None)
    direct = load(base(folder, dtype))
    assert ways == ["nf4", "kept", "nf4"]
    expected = bits(direct)
    for model in (made, kept):
        found = bits(model)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
        assert [type(module) for module in model.modules()] == [type(module) for module in direct.modules()]
        differ = {"_name_or_path"} if model is kept else set()
        assert {k for k, value in direct.config.to_dict().items() if model.config.to_dict()[k] != value} == differ
    ids = torch.arange(12)[None]
    assert torch.equal(kept(input_ids=ids).logits, direct(input_ids=ids).logits)


def test_nothing_dequantised_is_kept_and_the_manifest_is_told(caches: Caches) -> None:
    model = load(base())
    assert caches.taken == {}  # this job took nothing
    load(base())
    assert caches.taken.keys() == {"nf4"}
    kept = loading.read_headers(sorted(entry(caches).glob("*.safetensors")))
    packed = {name for name in kept if name.endswith("_proj.weight")}
    assert packed and {kept[name].dtype for name in packed} == {"U8"}
    assert kept.keys() == model.state_dict().keys()


def test_another_base_type_or_library_is_another_entry(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    load(base())
    load(base(dtype="float32"))
    caches.model = {"model.safetensors": "1" * 64}
    load(base())
    monkeypatch.setattr(nf4_cache, "version", lambda _: "0.0.1")
    load(base())
    assert len(list(caches.folder.glob("nf4/*/cache.json"))) == 4


@pytest.mark.parametrize("damage", ["a bit", "cut", "missing", "record", "no weights", "another layout"])
def test_a_damaged_entry_is_made_again(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    expected = bits(load(base()))
    file = entry(caches) / "model-00001.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "record":
        (entry(caches) / "cache.json").write_text("{}")
    elif damage == "missing":
        file.unlink()
    elif damage == "another layout":  # whole by its record, as if another release of a library had written it
        monkeypatch.setattr(nf4_cache, "_shards", lambda model: [{"other": torch.zeros(1)}])
        file.unlink()
        load(base())
        monkeypatch.undo()
    else:
        content[-1] ^= 1
        file.write_bytes(content if damage == "a bit" else content[:-7] if damage == "cut" else b"")
    ways = reads(monkeypatch)
    for way in ("nf4", "kept"):
        found = bits(load(base()))
        assert all(torch.equal(found[name], expected[name]) for name in expected) and ways[-1] == way
    assert "quantising again" in capsys.readouterr().err


def test_an_entry_outlives_a_job_that_lacks_the_memory_to_read_it(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong with it: the next job takes it. A job that could quantise all the same says it took none."""
    load(base())
    there = {file.name: file.read_bytes() for file in entry(caches).iterdir()}
    original = loading._from_pretrained

    def refused(folder: Path, way: str, **given: Any) -> Any:
        if way in refusing:
            raise UserError(f"cannot read the weights in {folder}: can't start new thread")
        return original(folder, way, **given)

    monkeypatch.setattr(loading, "_from_pretrained", refused)
    refusing, caches.taken = {"kept", "nf4"}, {}
    with pytest.raises(UserError, match="can't start new thread"):
        load(base())
    assert {file.name: file.read_bytes() for file in entry(caches).iterdir()} == there
    refusing = {"kept"}
    load(base())
    assert caches.taken == {}
    refusing = set()
    ways = reads(monkeypatch)
    load(base())
    assert ways == ["kept"] and caches.taken.keys() == {"nf4"}


def test_a_file_that_was_only_touched_is_hashed_and_taken(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    load(base())
    os.utime(entry(caches) / "model-00001.safetensors", (1, 1))
    ways = reads(monkeypatch)
    load(base())
    assert ways == ["kept"]


def test_one_maker_and_nobody_waits(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    load(base())
    name = entry(caches).name
    (entry(caches) / "cache.json").unlink()
    abandoned = caches.folder / f"nf4/.{name}.0123"
    abandoned.mkdir()
    ways = reads(monkeypatch)
    with (caches.folder / f"nf4/.{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        load(base())
        assert ways == ["nf4"] and abandoned.exists() and not list(caches.folder.glob("nf4/*/cache.json"))
    load(base())
    assert not abandoned.exists() and entry(caches).name == name
    assert [path.name for path in (caches.folder / "nf4").iterdir()] == [name]  # no lock is left


def test_a_lock_that_its_holder_removes_meanwhile_is_no_lock(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its next holder and the maker of a new lock file would both make the entry."""
    file = caches.folder / ".entry.lock"
    original = fcntl.flock

    def removed(descriptor: int, how: int) -> None:
        original(descriptor, how)
        file.unlink()

    monkeypatch.setattr(fcntl, "flock", removed)
    with only_maker(caches.folder / "entry", lambda: False) as private:
        assert private is None
    monkeypatch.undo()
    with only_maker(caches.folder / "entry", lambda: False) as private:
        assert private is not None
    assert [path.name for path in caches.folder.iterdir()] == ["entry"]


def test_a_full_disk_costs_the_cache_only(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise nf4_cache.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(nf4_cache, "save_file", full)
    load(base())
    assert "No space left on device (os error 28)); going on without" in capsys.readouterr().err
    assert [path.name for path in (caches.folder / "nf4").iterdir() if path.is_dir()] == []


def test_a_folder_that_cannot_be_written_to_costs_the_cache_only(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests may run as root, whom no mode keeps from writing: a file stands where the folder should be made."""
    caches.folder.write_text("")
    load(base())
    assert "cannot keep" in capsys.readouterr().err
    caches.folder.unlink()
    load(base())
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    ways = reads(monkeypatch)
    load(base())
    assert ways == ["kept"] and capsys.readouterr().err == ""  # what is there is read all the same


def test_several_files(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf4_cache, "SHARD_BYTES", 50_000)
    expected, found = bits(load(base())), bits(load(base()))
    assert len(read_json(entry(caches) / "cache.json")["files"]) > 3
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_fine_tuned_checkpoint_is_not_the_base(caches: Caches) -> None:
    loading.load_model(FOLDERS[0], quantization="nf4")
    assert not caches.folder.exists()


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_what_stands_in_an_entrys_place_is_replaced(caches: Caches, tmp_path: Path, kind: str) -> None:
    """Else each job would quantise again, for good."""
    load(base())
    place = entry(caches)
    place.rename(tmp_path / "aside")
    if kind == "file":
        place.write_text("")
    else:
        place.symlink_to(FIXTURES if kind == "link" else tmp_path / "nowhere")
    load(base())
    assert entry(caches) == place and not place.is_symlink() and FOLDERS[0].exists()


def test_others_may_read_what_the_umask_lets_them(caches: Caches) -> None:
    before = os.umask(0o027)
    try:
        load(base())
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in entry(caches).iterdir()} == {0o640}


def test_another_users_entry_that_may_not_be_read_is_left_to_them(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load(base())
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).suffix != ".safetensors")  # root may read all
    monkeypatch.setattr(nf4_cache, "only_maker", lambda *_: pytest.fail("made again"))
    found = nf4_cache.Nf4Entry.of(caches, "dream", torch.bfloat16, "cpu")
    assert found and not found.is_whole() and "may not be read" in capsys.readouterr().err
    assert entry(caches).exists()


def test_files_that_were_replaced_while_they_were_read_are_not_kept(
    caches: Caches, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job of the files that were there before, and are there again, would else compute with the others."""
    said: list[Any] = [{"model.safetensors": "1" * 64}, UserError("gone"), FileNotFoundError(), caches.model]

    def identify() -> Any:
        if isinstance(now := said.pop(0), Exception):
            raise now
        return now

    caches.identify = identify
    for kept in (False, False, False, True):
        load(base())
        assert any(caches.folder.glob("nf4/*/cache.json")) == kept
        assert ("changed while they were read" in capsys.readouterr().err) != kept


def test_what_moves_the_last_bit_of_a_mean_is_another_entry(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of a weight's scales is part of it; threads and vectors add it up in another order."""
    names = [nf4_cache.kind_of(torch.device("cpu"))]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2 + torch.get_num_interop_threads())
    names += [nf4_cache.kind_of(torch.device("cpu"))]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "other")
    names += [nf4_cache.kind_of(torch.device("cpu"))]
    for count in (114, 132):
        card = SimpleNamespace(major=9, minor=0, multi_processor_count=count)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, card=card: card)
        names += [nf4_cache.kind_of(torch.device("cuda:0"))]
    assert len(set(names)) == 5 and names[-1] == "cuda 9.0, 132 multiprocessors"
