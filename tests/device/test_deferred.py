"""bitsandbytes is imported without torch's compiler, and its functions are compiled when they are called."""

import subprocess
import sys

import pytest
import torch

from conftest import ROOT
from dreamtune.device.deferred import compile_at_first_call

CODE = """
import sys
before, _ = __import__("torch").compile, __import__("dreamtune.model")
assert sys.modules["torch"].compile is before
print("torch._inductor.compile_fx" in sys.modules, "bitsandbytes" in sys.modules)
"""


def test_the_compiler_is_not_imported_with_a_model() -> None:
    environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_function_is_compiled_once_at_its_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: calls.append(options) or function)
    plain, decorated = compile_at_first_call(abs), compile_at_first_call(dynamic=False)(max)
    assert calls == []
    assert (plain(-2), decorated(1, 3), plain(-3), decorated.__name__) == (2, 3, 3, "max")
    assert calls == [{}, {"dynamic": False}]
