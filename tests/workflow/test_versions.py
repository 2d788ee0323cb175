"""What changes a version and what does not."""

import os
import shutil
from pathlib import Path

import pytest

from conftest import ROOT
from dreamtune.digests import digest
from dreamtune.errors import UserError
from dreamtune.inputs import identity as inputs
from dreamtune.inputs.identity import FileDigests, identify
from dreamtune.workflow import code as versions
from dreamtune.workflow.code import code_digest

SCRIPT = "from pkg.a import f\nif __name__ == '__main__':\n    f()\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that reaches pkg.a, pkg.b (lazily), pkg.sub with its template, but not pkg.unused."""
    src = tmp_path / "src"
    files = {
        "pkg/__init__.py": '"""Package."""\n',
        "pkg/a.py": 'from . import sub\n\ndef f():\n    """F."""\n    from pkg.b import g\n    return g(sub)\n',
        "pkg/b.py": "def g(x): return x\n",
        "pkg/sub/__init__.py": "",
        "pkg/sub/page.html": "<p>",
        "pkg/unused.py": "X = 1\n",
    }
    for name, text in files.items():
        path = src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(versions, "SRC", src)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("src/pkg/b.py", "return x", "return x + 1", True),
        ("src/pkg/b.py", "def g(x): return x", "# why\ndef g(x):\n    return x", False),
        ("src/pkg/a.py", '"""F."""', '"""F, explained."""', False),
        ("src/pkg/sub/page.html", "<p>", "<div>", True),
        ("src/pkg/sub/__init__.py", "", "Y = 1\n", True),
        ("src/pkg/unused.py", "X = 1", "X = 2", False),
        ("script.py", "f()", "f() or f()", True),
        ("script.py", "f()", "f()  # go", False),
    ],
)
def test_code_digest(tree: Path, file: str, old: str, new: str, changes: bool) -> None:
    before = code_digest(tree / "script.py")
    edit(tree / file, old, new)
    assert (code_digest(tree / "script.py") != before) is changes


def test_code_digest_ignores_where_the_code_lies(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(tree / "script.py")
    shutil.copytree(tree, tmp_path / "clone", ignore=lambda *_: ["clone"])
    monkeypatch.setattr(versions, "SRC", tmp_path / "clone/src")
    assert code_digest(tmp_path / "clone/script.py") == before


def test_every_script_has_a_digest_and_reaches_its_own_modules_only() -> None:
    scripts = ROOT / "workflow/scripts"
    digests = {path.name: code_digest(path) for path in scripts.glob("*.py")}
    assert len(set(digests.values())) == len(digests)


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_file_digests_are_remembered_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, memory = tmp_path / "rows", tmp_path / "memory.json"
    file.write_text("one")
    digests = FileDigests(memory)
    first = digests.of(file)
    digests.save()
    monkeypatch.setattr(inputs, "sha256_file", lambda path: pytest.fail("read again"))
    assert FileDigests(memory).of(file) == first
    monkeypatch.undo()
    file.write_text("another")
    assert FileDigests(memory).of(file) != first
    seen = file.stat()
    (tmp_path / "copied").write_text("replace")  # as `cp -p` or rsync put it in place: as large, and as old
    os.utime(tmp_path / "copied", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    digests = FileDigests(memory)
    before = digests.of(file)
    digests.save()
    (tmp_path / "copied").replace(file)
    assert FileDigests(memory).of(file) != before
    memory.write_text('{"cut sho')  # a full disk; it is only a memory
    file.write_text("one")
    assert FileDigests(memory).of(file) == first


def test_model_identity(tmp_path: Path) -> None:
    digests = FileDigests(tmp_path / "memory.json")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    (folder / "README.md").write_text("not part of it")
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert digests.of_model(str(folder), None) == digests.of_model(str(moved), None)
    assert list(digests.of_model(str(folder), None)) == ["model.safetensors"]
    assert digests.of_model("owner/name", "a" * 40) == "owner/name@" + "a" * 40
    for path, revision in (("owner/name", None), ("owner/name", "main"), ("/no/such/folder", None)):
        with pytest.raises(UserError):
            digests.of_model(path, revision)


def test_a_data_file_on_the_hub_is_identified_by_its_address_and_has_to_be_pinned(tmp_path: Path) -> None:
    digests, pinned = FileDigests(tmp_path / "memory.json"), f"hf://datasets/owner/name@{'a' * 40}/rows.parquet"
    assert identify(["data"], {"data": {"files": [pinned]}}, digests) == {"data": [pinned]}
    with pytest.raises(UserError, match="40-digit"):
        identify(["data"], {"data": {"files": [pinned.replace("a" * 40, "main")]}}, digests)
