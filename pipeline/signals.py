"""Ctrl-C and SIGTERM as requests that can be answered in one's own time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """While entered, SIGINT and SIGTERM end nothing: they are put on the list. So does SIGHUP, unless it is ignored
    (nohup). Outside of the main thread Python has no say over signals, and the list stays empty."""
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.signal(number, lambda got, _: requests.append(got)) for number in (*STOPPING, *hangup)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
