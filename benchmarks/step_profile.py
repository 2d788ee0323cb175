"""Where a training step's time goes on a GPU: the share that kernels fill, and the kernels that take most of it.

Trains as benchmarks/train_throughput.py does, with its rows and its models, and records some steps with torch's
profiler once everything is compiled and captured. The share is the union of all kernels' and copies' spans over the
span of these steps, so that kernels side by side count once.

usage   python benchmarks/step_profile.py --work /tmp/seven_b                  SmolLM2-135M's shape
        ... --rows "full rows"                                                 Dream 7B's
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _src  # noqa: F401, puts src on the path
import torch
from seven_b_shape import report
from torch.profiler import ProfilerActivity, profile
from train_throughput import Bench

from dreamtune.train import steps

MOST = 40  # kernels that are listed
WAIT = 5.0  # microseconds without a kernel from which on the GPU waits for the host


def main() -> None:
    """Train, profile, and print one line of JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint and outputs")
    parser.add_argument("--rows", default="SmolLM2 shape", help="the measurement of train_throughput.py to profile")
    parser.add_argument("--steps", type=int, default=16, help="as there")
    parser.add_argument("--profiled", type=int, default=10, help="steps that are recorded, the last ones")
    arguments = parser.parse_args()
    bench = Bench(arguments.work, False, arguments.steps, [arguments.rows])
    recorder = Recorder(arguments.profiled)
    steps.accumulate = recorder.accumulate  # type: ignore[attr-defined]
    bench.run()
    spans = recorder.spans()
    report("profile", rows=arguments.rows, steps=arguments.profiled, **summary(spans))
    print(table(spans, arguments.profiled))


class Recorder:
    """Records the last steps of a training: it stands in for `accumulate`, which begins each step."""

    def __init__(self, steps: int) -> None:
        self.steps, self.profile = steps, profile(activities=[ProfilerActivity.CUDA])
        self._accumulate = steps.accumulate

    def accumulate(self, run: Any, windows: Any, step: int) -> Any:
        """Start or stop the profiler as the step says, then begin the step."""
        if step == run.windows.total - self.steps:
            torch.cuda.synchronize()
            self.profile.start()
        if step == run.windows.total:
            torch.cuda.synchronize()
            self.profile.stop()
        return self._accumulate(run, windows, step)

    def spans(self) -> list[tuple[str, float, float]]:
        """Return name, begin and end in microseconds of each kernel and copy on the GPU, in order."""
        found = [
            (event.name, event.time_range.start, event.time_range.end)
            for event in self.profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        return sorted(found, key=lambda span: span[1])


def summary(spans: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Return the share of the time that kernels fill, the milliseconds of all steps, and the number of kernels.

    `host_ms` of the rest are waits of at least WAIT µs, for the host's next launch; the others lie between the kernels
    of a graph.

    >>> summary([("a", 0, 4000), ("b", 2000, 5000), ("c", 8000, 10_000)])
    {'filled': 0.7, 'ms': 10.0, 'host_ms': 3.0, 'kernels': 3}
    """
    gaps = [gap for _, gap in waits(spans)]
    whole = max(end for _, _, end in spans) - spans[0][1]
    host = sum(gap for gap in gaps if gap >= WAIT) / 1000
    return {
        "filled": round(1 - sum(gaps) / whole, 4),
        "ms": round(whole / 1000, 3),
        "host_ms": round(host, 3),
        "kernels": len(spans),
    }


def waits(spans: Sequence[tuple[str, float, float]]) -> list[tuple[str, float]]:
    """Return each time in which nothing runs, in microseconds, with the name of the kernel that ends it."""
    found, reached = list[tuple[str, float]](), spans[0][1]
    for name, begin, end in spans:
        if begin > reached:
            found.append((name, begin - reached))
        reached = max(reached, end)
    return found


def table(spans: Sequence[tuple[str, float, float]], steps: int) -> str:
    """Return the kernels that take longest, per step, as a table in Markdown."""
    times: dict[str, list[float]] = defaultdict(list)
    for name, begin, end in spans:
        times[name].append(end - begin)
    most = sorted(times.items(), key=lambda item: -sum(item[1]))[:MOST]
    lines = ["| kernel | ms a step | calls a step |", "|---" * 3 + "|"]
    lines += [f"| {name[:90]} | {sum(held) / steps / 1000:.3f} | {len(held) / steps:.1f} |" for name, held in most]
    waited: dict[str, list[float]] = defaultdict(list)
    for name, gap in waits(spans):
        waited[name].append(gap)
    longest = sorted(waited.items(), key=lambda item: -sum(item[1]))[:MOST]
    lines += ["", "| nothing runs before | ms a step | times a step |", "|---" * 3 + "|"]
    lines += [f"| {name[:90]} | {sum(held) / steps / 1000:.3f} | {len(held) / steps:.1f} |" for name, held in longest]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
