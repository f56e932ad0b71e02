"""A trainer in waiting: a process that was forked when all that training needs had been imported, and becomes the
trainer of a job when there is one. Starting it anew would take Python and torch several seconds.

Only where nothing but the CPU computes: the driver of a card does not live through a fork.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import socket
import struct
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

MODULE = "pipeline.backends.native"
READ_AT_IMPORT = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "MALLOC_", "LD_", "PYTHON", "ATEN_")
"""Variables that libraries have read by then: a job that needs others gets a process of its own."""
TOLD_OTHERWISE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONUNBUFFERED")
"""Of those what the job's file says too, and what is done here."""
_HEAD = struct.Struct("!Q")
_waiting: list[Standby] = []


class Standby:
    """The waiting process, with what `execute` needs of a `subprocess.Popen`."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self.returncode = -1
        self._link = link
        self._has_ended = False

    def become(
        self, argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str], output: int, kept: Sequence[int]
    ) -> None:
        """Starts the trainer in a session of its own; `output` is for what it prints, `kept` are files that it holds
        open as long as it lives."""
        told = json.dumps({"argv": list(argv), "cwd": str(cwd or Path.cwd()), "env": dict(env)}).encode()
        socket.send_fds(self._link, [_HEAD.pack(len(told))], [output, *kept])
        self._link.sendall(told)
        self._link.recv(1)  # it has a session of its own now, which can be signalled
        self._link.close()

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        self._reap(0)
        return self.returncode

    def _reap(self, options: int) -> int | None:
        if not self._has_ended:
            pid, status = os.waitpid(self.pid, options)
            if pid == 0:
                return None
            self._has_ended, self.returncode = True, os.waitstatus_to_exitcode(status)
        return self.returncode


def fork() -> None:
    """Puts a trainer in waiting, from a process that has no other threads."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _wait(theirs)
    theirs.close()
    _waiting.append(Standby(pid, ours))


def taken(argv: Sequence[str], env: Mapping[str, str]) -> Standby | None:
    """The trainer in waiting, where there is one that can run this command."""
    is_trainer = list(argv[:3]) == [sys.executable, "-m", MODULE]
    others = {name: value for name, value in env.items() if name not in TOLD_OTHERWISE}
    read = any(os.environ.get(name) != value for name, value in others.items() if name.startswith(READ_AT_IMPORT))
    return _waiting.pop() if _waiting and is_trainer and not read else None


def _wait(link: socket.socket) -> None:
    """Never returns. The end of the one who forked it is the end of waiting."""
    head, files, _, _ = socket.recv_fds(link, _HEAD.size, 8)
    if len(head) < _HEAD.size:
        os._exit(0)
    told = json.loads(_read(link, _HEAD.unpack(head)[0]))
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (files[0], 1), (files[0], 2)):
        os.dup2(source, target)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["env"])
    link.sendall(b"1")
    link.close()
    os._exit(_run(told["argv"]))  # what exit handlers would tidy up ends with the process


def _read(link: socket.socket, size: int) -> bytes:
    parts = []
    while size > 0:
        parts.append(link.recv(size))
        size -= len(parts[-1])
    return b"".join(parts)


def _run(argv: Sequence[str]) -> int:
    """The exit code."""
    sys.stdout, sys.stderr = (open(file, "w", buffering=1, closefd=False) for file in (1, 2))  # noqa: SIM115
    sys.argv = list(argv[2:])
    code = 0
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 (as Python does it at the end of a program)
        traceback.print_exc()
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    return code
