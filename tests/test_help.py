"""Every script and benchmark says how it is called, from a clean clone: from any folder, without PYTHONPATH."""

import ast
import json
import os
import subprocess
from pathlib import Path

import pytest

import warm
from conftest import ROOT

FOLDERS = ("benchmarks", "workflow/scripts", "resources/tiny-dream", "containers")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
PROGRAMS = [path for path in FILES if "__main__" in path.read_text()]
# Those of workflow/scripts are called by tests/workflow/test_scripts.py, each in a process of its own.
CALLED = [path for path in PROGRAMS if path.parent.name != "scripts"]
CALL = """
import contextlib, io, json, os, runpy, sys
said, before = {}, list(sys.path)
for program in json.loads(sys.argv.pop()):
    sys.argv, sys.path[:], out = [program, "--help"], [os.path.dirname(program), *before[1:]], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        runpy.run_path(program, run_name="__main__")
    said[program] = out.getvalue()
print(json.dumps(said))
"""


def by_hand() -> dict[str, str]:
    """Return the environment without the project on PYTHONPATH."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in given if path != str(ROOT / "src"))}


def options_of(path: Path) -> list[tuple[str, str | None]]:
    """Return each argument that a program declares, by its longest name, with its help as Python; None without."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    declared = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    helps = [{keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}.get("help") for call in declared]
    return [(ast.literal_eval(call.args[-1]), text) for call, text in zip(declared, helps, strict=True)]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_every_option_says_what_it_is_for(program: Path) -> None:
    assert [name for name, text in options_of(program) if text is None] == []


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_the_project_is_put_on_the_path_before_it_is_imported(program: Path) -> None:
    imported = [node for node in ast.parse(program.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imported]
    siblings = {path.stem for path in program.parent.glob("*.py")}
    ours = [place for place, name in enumerate(names) if name.split(".")[0] in {"dreamtune", *siblings} - {"_src"}]
    if program.parent.name in ("benchmarks", "scripts") and ours:
        assert "_src" in names[: ours[0]]


def test_help_works_from_any_folder_and_names_every_option(tmp_path: Path) -> None:
    assert len([path for path in CALLED if path.parent.name == "benchmarks"]) >= 17
    caller = tmp_path / "caller.py"
    caller.write_text(CALL)
    command = [warm.python(), str(caller), json.dumps([str(path) for path in CALLED])]
    done = subprocess.run(command, cwd=tmp_path, env=by_hand(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for program in CALLED:
        assert (ast.get_docstring(ast.parse(program.read_text())) or "").splitlines()[0] in said[str(program)]
        shown = [name for name, text in options_of(program) if name.startswith("-") and text != "argparse.SUPPRESS"]
        assert [name for name in shown if name not in said[str(program)]] == [], program
    assert list(tmp_path.iterdir()) == [caller], "--help does nothing else"


def test_a_benchmark_runs_without_pythonpath(tmp_path: Path) -> None:
    command = [warm.python(), str(ROOT / "benchmarks/grading_agreement.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=by_hand(), capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr
