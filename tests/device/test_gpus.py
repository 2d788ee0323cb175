"""Jobs on one machine with several GPUs: each takes one that no other has."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from dreamtune.device import gpus
from dreamtune.device.gpus import resolve_device, take_gpu, take_gpus
from dreamtune.errors import UserError

# A job that takes GPUs of a machine with three, says which, and keeps them until its input ends.
JOB = """
import sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 3))  # the real one takes 3 s
from dreamtune.device.gpus import take_gpus
print(take_gpus(int(sys.argv[2])), flush=True)
sys.stdin.read()
"""


class Job:
    def __init__(self, temporary: Path, count: int, visible: str = "") -> None:
        environment = os.environ | {"TMPDIR": str(temporary), "CUDA_VISIBLE_DEVICES": visible}
        command = [sys.executable, "-c", JOB, str(ROOT / "src"), str(count)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.took = self.process.stdout.readline().strip()

    def end(self) -> str:
        return self.process.communicate()[1]


def test_each_takes_what_no_other_has(tmp_path: Path) -> None:
    first, second = Job(tmp_path, 1), Job(tmp_path, 2)
    assert (first.took, second.took) == ("[0]", "[1, 2]")
    third = Job(tmp_path, 1)
    assert third.took == "[0]"
    assert "other jobs have taken all 3 GPUs but 0; sharing [0] with them" in third.end()
    second.process.kill()  # however it ends
    second.process.wait()
    fourth = Job(tmp_path, 1)
    assert fourth.took == "[1]"
    fifth = Job(tmp_path, 2)
    assert fifth.took == "[2, 0]"
    assert "taken all 3 GPUs but 1; sharing [0] with them" in fifth.end()
    assert first.end() + fourth.end() == ""


def test_more_jobs_than_gpus_spread_over_all(tmp_path: Path) -> None:
    """As `--resources gpu=6` asks for on three GPUs: two jobs on each, and a place that falls free is taken first."""
    jobs = [Job(tmp_path, 1) for _ in range(7)]
    assert [job.took for job in jobs] == ["[0]", "[1]", "[2]", "[0]", "[1]", "[2]", "[0]"]
    assert "taken all 3 GPUs but 0; sharing [1] with them" in jobs[4].end()
    again = Job(tmp_path, 1)
    assert jobs[2].end() == ""
    last = Job(tmp_path, 1)
    assert (again.took, last.took) == ("[1]", "[2]")
    for job in [jobs[0], jobs[1], jobs[3], jobs[5], jobs[6], again, last]:
        job.end()


def test_where_all_slots_are_taken_the_first_gpus_are_shared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(gpus, "_lock", lambda name: False)
    assert take_gpus(2) == [0, 1]
    assert "sharing [0, 1] with them" in capsys.readouterr().err


def test_the_same_gpu_is_known_by_its_name(tmp_path: Path) -> None:
    """What one calls its first may be the second of another."""
    first = Job(tmp_path, 1, visible="5,6,7")
    second = Job(tmp_path, 1, visible="4,5,7")
    third = Job(tmp_path, 1, visible="5,4,6")
    assert [job.took for job in (first, second, third)] == ["[0]", "[0]", "[2]"]
    for job in (first, second, third):
        assert job.end() == ""


@pytest.mark.parametrize("there", [0, 1, 2])
def test_without_a_choice_nothing_is_locked(monkeypatch: pytest.MonkeyPatch, there: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(gpus, "_lock", lambda name: pytest.fail("locked"))
    assert take_gpus(2) == list(range(there))


def test_which_processes_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one on the CPU, nor one of several, whose launcher has chosen for all of them."""
    chosen: list[int] = []
    monkeypatch.setattr(gpus, "take_gpus", lambda count: [2])
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    take_gpu("cpu")
    assert chosen == []
    take_gpu("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    take_gpu("cuda")
    assert chosen == [2]


def test_a_temporary_folder_without_locks_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpus.fcntl, "flock", without)
    assert take_gpus(1) == [0]
    assert "No locks available" in capsys.readouterr().err


def test_a_gpu_that_cannot_be_used_is_not_exchanged_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A driver that is too old, an image without --nv, a request that the cluster dropped."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "version")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert resolve_device("auto") == "cpu"  # there is none
    (tmp_path / "version").touch()
    with pytest.raises(UserError, match=r"an NVIDIA driver here, and torch \(CUDA 13\.0\) sees no GPU"):
        resolve_device("auto")
    with pytest.raises(UserError, match=r"model\.device is cuda and torch sees no GPU"):
        resolve_device("cuda")
    assert resolve_device("cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resolve_device("auto") == "cpu"


def test_the_launcher_shows_its_processes_what_it_took(tmp_path: Path) -> None:
    """Of three GPUs, as torch would count them, two, while another job has the first."""
    (tmp_path / "sitecustomize.py").write_text("import torch\ntorch.cuda.device_count = lambda: 3\n")
    script = tmp_path / "child.py"
    script.write_text("import os\nprint(os.environ['LOCAL_RANK'], os.environ['CUDA_VISIBLE_DEVICES'])\n")
    other = Job(tmp_path, 1)
    launcher = [sys.executable, ROOT / "workflow/scripts/torchrun.py", "--standalone", "--nproc-per-node", "2", script]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True)
    assert sorted(done.stdout.splitlines()) == ["0 1,2", "1 1,2"], done.stderr
    assert other.end() == ""
