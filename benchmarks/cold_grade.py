r"""The first grade of a fresh process, beside busy neighbours: is it right, and how long does it take?

    python benchmarks/cold_grade.py [--processes 10] [--busy 12]

All processes are started at once, and each grades `(x+1)^2` against `x^2+2x+1` with a limit of one second. Prints its
grade, its wall seconds and its CPU seconds; fails unless every grade is right. The busy processes end with the
benchmark.
"""

import argparse
import json
import subprocess
import sys

import _src  # noqa: F401, puts src on the path

BUSY = "while True: pass"
GRADE = """
import json, time
from dreamtune.scoring import is_correct
wall, cpu = time.monotonic(), time.process_time()
right = is_correct(r"\\boxed{(x+1)^2}", "x^2+2x+1")
seconds = {"wall_s": round(time.monotonic() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}
print(json.dumps({"right": right} | seconds))
"""


def main(processes: int, busy: int) -> bool:
    """Print a line per process; return whether all graded rightly."""
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        command = [sys.executable, "-c", GRADE]
        graders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        lines = [grader.communicate()[0].strip() for grader in graders]
        right = sum(json.loads(line)["right"] for line in lines)
        print("\n".join(lines))
    finally:
        for neighbour in neighbours:
            neighbour.kill()
    print(f"right: {right} of {processes}, beside {busy} busy processes")
    return right == processes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=10, help="processes that grade, all at once")
    parser.add_argument("--busy", type=int, default=12, help="busy processes beside them")
    arguments = parser.parse_args()
    sys.exit(0 if main(arguments.processes, arguments.busy) else 1)
