"""A training that is asked to stop keeps its progress: a preempted job, one whose time is up, or Ctrl-C.

SLURM sends SIGTERM before it kills (KillWait or GraceTime seconds later), and whatever `--signal` says before that.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(BaseException):
    """Not a fault, so nothing that catches exceptions may swallow it. The message is one line, for the user."""


class StopSignals:
    """While entered, a stop signal ends nothing by itself: it is remembered until `check` is called.

    A second Ctrl-C acts at once. Outside of the main thread, where Python takes no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raise `Interrupted` if a stop signal came."""
        if self.received:
            raise Interrupted(f"stopped by {self.received.name}")

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self.received == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
