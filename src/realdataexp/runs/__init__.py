"""A run: from a config to a folder of results; and the signals that end one, saved.

These are Ctrl-C (SIGINT), SIGTERM of batch systems, and SIGHUP of a lost terminal.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""The signals that end a run; Windows has no SIGHUP."""


def is_ignored(number: signal.Signals) -> bool:
    """Whether whoever started this program wants it to outlive its terminal, as nohup does."""
    hang_up = getattr(signal, "SIGHUP", None)
    return number == hang_up and signal.getsignal(number) == signal.SIG_IGN


class Interrupts:
    """While this context is open, the first of these signals raises KeyboardInterrupt, once.

    Work that must not be torn apart puts it off (`postponed`) and then asks for it (`check`), as
    does work that takes long: what is raised while a destructor or a callback runs is lost.
    Signals after the raise find the run saving what it has, and are dropped. Outside the main
    thread, where Python cannot handle signals, it does nothing.
    """

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}
        self._n_postponing = 0
        self._may_insist = self._is_noted = self._has_raised = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in ENDING if not is_ignored(number)]
            self._previous = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_insisting = self._is_noted and self._may_insist
        self._is_noted = True
        if (not self._n_postponing or is_insisting) and not self._has_raised:
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came; again where that was lost."""
        if self._is_noted:
            self._has_raised = True
            raise KeyboardInterrupt

    @contextmanager
    def postponed(self, *, may_insist: bool = False) -> Iterator[None]:
        """Put signals off to the next `check` after this block, or in it.

        A second one is not put off where it may insist: for work that may take long.
        """
        before, self._may_insist = self._may_insist, may_insist
        self._n_postponing += 1
        try:
            yield
        finally:
            self._n_postponing -= 1
            self._may_insist = before
