"""Ctrl-C, SIGTERM and a cluster's call that time is up, as requests that can be answered in one's own time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM)
TIME_IS_UP = signal.SIGUSR2
"""What submitit has Slurm send before a job's time limit, or before it makes room for another."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """While entered, SIGINT and SIGTERM end nothing: they are put on the list. So does SIGHUP, unless it is ignored
    (nohup), and TIME_IS_UP, where somebody listens for it. Outside of the main thread Python has no say over signals,
    and the list stays empty."""
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    time_is_up = [TIME_IS_UP] if callable(signal.getsignal(TIME_IS_UP)) else []
    taken = (*STOPPING, *hangup, *time_is_up)
    before = {number: signal.signal(number, lambda got, _: requests.append(got)) for number in taken}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def time_is_up_for_me_alone() -> Iterator[None]:
    """Processes that are started meanwhile never hear TIME_IS_UP: Slurm sends it to all of a job, and it would end them
    at once. Nothing is lost here: what comes meanwhile is delivered at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {TIME_IS_UP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
