"""The backstop ends a job that no longer moves, even one that never comes back to the interpreter, and no other."""

import signal
import subprocess
import sys

STUCK = """
import sys, time
from dreamtune.scoring.backstop import backstop, note
with backstop(0.6):
    for i in range(10):
        note(row=f"question {i}, sample 0", answer="", reference="17")
        time.sleep(0.1)
    note(answer="9^{9^9}\\ud800" + "9" * 999)
    print("moved for longer than that", flush=True)
    if sys.argv[1] == "computes":
        int("9" * 4000) ** 30_000_000  # one call of compiled code, which no thread and no signal handler interrupts
    if sys.argv[1] == "waits":
        time.sleep(60)
note(row="nobody watches")
time.sleep(1.2)
"""


def run(way: str) -> subprocess.CompletedProcess[str]:
    """Run a job that moves for a second, and then computes, waits or ends."""
    command = [sys.executable, "-c", STUCK, way]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": "src"}, timeout=120)


def test_a_job_that_no_longer_moves_is_ended_with_one_line() -> None:
    for way in ("computes", "waits"):
        done = run(way)
        assert done.returncode == -signal.SIGKILL and done.stdout == "moved for longer than that\n"
        assert done.stderr.startswith("grading has not moved for 0.01 minutes, so the job ends without a grade")
        assert done.stderr.count("\n") == 1 and len(done.stderr) < 600
        assert "question 9, sample 0" in done.stderr and "9^{9^9}" in done.stderr and '"reference": "17"' in done.stderr


def test_a_job_that_moves_is_left_alone_and_so_is_what_follows() -> None:
    done = run("ends")
    assert (done.returncode, done.stderr) == (0, "")
