"""Stop signals, deferred until a training can write a checkpoint: at preemption, a time limit or Ctrl-C.

SLURM sends SIGTERM, and kills KillWait or GraceTime seconds later; `sbatch --signal` may send another signal earlier.
"""

import atexit
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interrupted(BaseException):
    """Raised to end a job that a signal stopped. Its message is one line for the user.

    It is a BaseException, as KeyboardInterrupt is, so that no `except Exception` on the way swallows it.
    """


def exit_undisturbed() -> None:
    """Let Ctrl-C no longer disturb this process once it exits: what it had to say is said, and its files are in place.

    Python's exit handlers would otherwise print a traceback. What was registered last runs first, so call this last.
    """
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


class StopSignals:
    """Context manager that records SIGTERM, SIGUSR1 and Ctrl-C instead of acting on them; `check` then raises.

    A second Ctrl-C acts at once. In a thread other than the main one, where Python cannot handle signals, it does
    nothing.

    Attributes:
        received: the last stop signal that came; None if none did.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raise `Interrupted` if a stop signal came.

        Raises:
            Interrupted: names the signal.
        """
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
