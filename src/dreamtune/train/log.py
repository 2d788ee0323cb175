"""The history of a run: one line for each logged step, and the totals that end up in training.json.

The history is plain JSON and is part of the checkpoint, so that a resumed run's log has every step exactly once.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

ENDS = 25  # most steps averaged for the first and the last loss; half of the run's, if it has fewer than 50


def ends(steps: int) -> int:
    """Return how many of a run's steps the first and the last loss are means over.

    >>> ends(1), ends(8), ends(375)
    (1, 4, 25)
    """
    return max(1, min(ENDS, steps // 2))


class Events(Protocol):
    """Interface of TensorBoard's SummaryWriter, as far as it is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record a value of the curve `tag` at a step."""


@dataclass
class History:
    """The run so far, over all its attempts."""

    step: int = 0  # optimiser steps
    tokens: int = 0  # of all windows so far, padding not counted
    tail_tokens: int = 0  # of these, tokens behind an end token
    cut_documents: int = 0  # documents of which only the beginning was shown
    wall_s: float = 0.0  # of all steps
    peak_gib: float = 0.0  # of the device's memory
    timed_steps: int = 0  # all steps but the first of each attempt, which warms up
    timed_tokens: int = 0
    timed_s: float = 0.0
    validation_s: float = 0.0
    lines: list[dict[str, Any]] = field(default_factory=list)  # of train_log.jsonl
    pending: list[dict[str, float]] = field(default_factory=list)  # steps since the last line; the next has their means
    resumed_from: list[int] = field(default_factory=list)  # steps of the checkpoints from which the run went on
    losses: list[float] = field(default_factory=list)  # of each step
    grad_norms: list[float] = field(default_factory=list)  # of each step, before clipping
    by_source: list[dict[str, list[float]]] = field(default_factory=list)  # of each step: sum of w * CE, loss tokens
    gradients: dict[str, float] = field(default_factory=dict)  # the largest gradient norm of each trained weight
    range_test: dict[str, Any] = field(default_factory=dict)  # of learning rates, before the first step; see `smoke`

    def to_state(self) -> dict[str, Any]:
        """Return plain JSON; `History(**state)` restores the same history from it."""
        return asdict(self)

    def add_step(
        self,
        *,
        step: int,
        loss: float,
        nll: float,
        nll_tokens: int,
        grad_norm: float,
        gradients: Mapping[str, float],
        tokens: int,
        wall_s: float,
        warm: bool,
        tail_tokens: int = 0,
        cut_documents: int = 0,
        by_source: Mapping[str, list[float]] | None = None,
    ) -> None:
        """Count one optimiser step.

        Args:
            step: number of the step, from 1.
            loss: of the step's window, with the trained objective's weights w, in nats per response token.
            nll: sum of CE / t up to the first end tokens, in nats.
            nll_tokens: number of response tokens that `nll` is about.
            grad_norm: norm of the window's gradient before clipping.
            gradients: the same for each trained weight, by name.
            tokens: of the window, padding not counted.
            wall_s: seconds of this step.
            warm: whether the process had made a step before.
            tail_tokens: of `tokens`, those behind an end token.
            cut_documents: documents of the window of which only the beginning is shown.
            by_source: by name of a source, where there are several, its sum of w * CE and its loss tokens.
        """
        self.tail_tokens, self.cut_documents = self.tail_tokens + tail_tokens, self.cut_documents + cut_documents
        self.step, self.tokens, self.wall_s = step, self.tokens + tokens, self.wall_s + wall_s
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)
        self.by_source += [dict(by_source)] if by_source else []
        self.gradients |= {name: max(norm, self.gradients.get(name, 0.0)) for name, norm in gradients.items()}
        if warm:
            self.timed_steps, self.timed_tokens = self.timed_steps + 1, self.timed_tokens + tokens
            self.timed_s += wall_s
        self.pending.append(
            {"loss": loss, "nll": nll, "nll_tokens": nll_tokens, "grad_norm": grad_norm, "tokens": tokens, "s": wall_s}
        )

    def line(self, epoch: float, rate: float, memory_gib: float, right_context: int | None = None) -> dict[str, Any]:
        """Return the log line of the steps since the last line, and clear `pending`.

        Args:
            epoch: epochs so far, such as 1.5.
            rate: the learning rate.
            memory_gib: the peak of the device's memory so far.
            right_context: later tokens that each token attended to in the last step; None, for all, has no entry.
        """

        def total(name: str) -> float:
            return sum(record[name] for record in self.pending)

        self.peak_gib = max(self.peak_gib, memory_gib)
        line = {
            "step": self.step,
            "epoch": round(epoch, 6),
            "loss": total("loss") / len(self.pending),
            # An objective that hides nothing has no bound: null, not a number that looks like one.
            "elbo": total("nll") / total("nll_tokens") if total("nll_tokens") else None,
            "lr": rate,
            "grad_norm": total("grad_norm") / len(self.pending),
            "tokens": self.tokens,
            "tokens_per_s": total("tokens") / max(total("s"), 1e-9),
            "memory_gib": round(memory_gib, 4),
            "wall_s": round(self.wall_s, 3),
        }
        line |= {f"loss/{name}": loss for name, loss in _by_source(self.by_source[-len(self.pending) :]).items()}
        line |= {} if right_context is None else {"right_context": right_context}
        self.pending = []
        return line

    def summary(self) -> dict[str, Any]:
        """Return the totals for training.json.

        first_loss and last_loss are means over the first and the last steps, as many as `ends` says, however often the
        run was logged.
        """
        steps = ends(len(self.losses))
        return {
            "first_loss": _mean(self.losses[:steps]),
            "last_loss": _mean(self.losses[-steps:]),
            "steps": self.step,
            "tokens": self.tokens,
            "tail_tokens": self.tail_tokens,
            "cut_documents": self.cut_documents,
            "peak_memory_gib": round(self.peak_gib, 4),
            "seconds_per_step": self.timed_s / self.timed_steps
            if self.timed_steps
            else self.wall_s / max(self.step, 1),
            "seconds_per_token": (
                self.timed_s / self.timed_tokens if self.timed_tokens else self.wall_s / max(self.tokens, 1)
            ),
            "wall_s": round(self.wall_s, 3),
            "validation_s": round(self.validation_s, 3),
            "validation": [
                {name: line[name] for name in ("step", "epoch", "validation_nll")}
                for line in self.lines
                if "validation_nll" in line
            ],
            "resumed_from": self.resumed_from,
        } | self._sources(steps)

    def _sources(self, steps: int) -> dict[str, Any]:
        """Return the entry `sources`: of each source the losses over the first and last `steps` steps, and tokens."""
        if not self.by_source:
            return {}
        first, last = _by_source(self.by_source[:steps]), _by_source(self.by_source[-steps:])
        tokens = {name: sum(step[name][1] for step in self.by_source) for name in first}
        return {
            "sources": [
                {"name": name, "first_loss": first[name], "last_loss": last[name], "loss_tokens": int(tokens[name])}
                for name in first
            ]
        }


class Log:
    """Writer of train_log.jsonl, line by line as the run goes, and of TensorBoard's events.

    Args:
        history: receives every line too.
        path: of train_log.jsonl, which is started with the history's lines; None writes no file.
        events: TensorBoard's writer; None writes no events.
    """

    def __init__(self, history: History, path: Path | None, events: Events | None) -> None:
        self.history, self.path, self.events = history, path, events
        if path:
            path.write_text("".join(json.dumps(line) + "\n" for line in history.lines), encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line to the history, and to the file and the events where there are such."""
        self.history.lines.append(line)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if self.events and value is not None and name != "step":
                self.events.add_scalar(name, value, line["step"])


def _by_source(steps: list[dict[str, list[float]]]) -> dict[str, float | None]:
    """Return each source's loss over some steps, in nats per response token; None where it has no token in them."""
    found: dict[str, float | None] = {}
    for name in steps[0] if steps else []:
        total, tokens = (sum(step[name][part] for step in steps) for part in (0, 1))
        found[name] = total / tokens if tokens else None
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
