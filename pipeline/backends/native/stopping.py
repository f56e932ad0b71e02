"""When to stop early: the user's Ctrl-C or SIGTERM, or a runner that has died."""

from __future__ import annotations

import os
import signal
from types import FrameType


class StopRequested(Exception):
    """Raised between two pieces of work, never inside one."""


class StopSignal:
    """Remembers SIGTERM and SIGINT; knows when its parent has gone."""

    def __init__(self) -> None:
        self._asked = False
        self._parent = os.getppid()
        signal.signal(signal.SIGTERM, self._remember)
        signal.signal(signal.SIGINT, self._remember)

    @property
    def asked(self) -> bool:
        return self._asked or os.getppid() != self._parent

    def check(self) -> None:
        """Raises StopRequested."""
        if self.asked:
            raise StopRequested

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
