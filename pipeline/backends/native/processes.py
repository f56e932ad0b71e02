"""The processes of one training: this one alone, or several under accelerate's launcher."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.backends.native.job import NativeJob
from pipeline.deaths import started_otherwise
from pipeline.errors import Cause, RunError

# What a launcher, or a user's shell, may have set: alone, the process must not take itself for one of many.
LAUNCHER_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_")
LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "FORK_LAUNCH_PARAMS",
)


class OtherProcesses(RunError):
    """accelerate started another number of processes than was asked for; it does so without an error."""

    cause = Cause.PROCESS_COUNT


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among all that train together."""

    device: torch.device
    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.index == 0

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean over all processes, in place; nothing for one."""
        if self.count > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    self._sum(parameter.grad)
                    parameter.grad /= self.count

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process: all must agree to stop at the same step."""
        if self.count == 1:
            return flag
        return bool(self._sum(torch.tensor(float(flag), device=self.device)))

    def mean(self, value: Tensor) -> Tensor:
        return value if self.count == 1 else self._sum(value.clone()) / self.count

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()

    def from_first(self, data: bytes) -> bytes:
        """The first process's bytes, in all. What others send is never unpickled."""
        size = torch.tensor(len(data) if self.first else 0, device=self.device)
        torch.distributed.broadcast(size, src=0)
        box = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.first and data:
            box.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        torch.distributed.broadcast(box, src=0)
        return box.cpu().numpy().tobytes()

    @staticmethod
    def _sum(value: Tensor) -> Tensor:
        torch.distributed.all_reduce(value)
        return value


def join_processes(job: NativeJob) -> Processes:
    """Raises OtherProcesses when there are not as many processes as were asked for, RunError when they would not train
    the same."""
    torch.set_num_threads(job.cpu_threads)
    if job.num_processes == 1:
        _forget_launchers()
        limit_memory(torch.device(job.device))
        return Processes(torch.device(job.device))
    from accelerate import PartialState

    state = PartialState(cpu=job.device == "cpu")
    if state.num_processes != job.num_processes:
        raise OtherProcesses(started_otherwise(job.num_processes, state.num_processes))
    limit_memory(state.device)
    processes = Processes(state.device, state.process_index, state.num_processes)
    if job.num_machines > 1 and not _agree(processes, job.fingerprint):
        raise RunError(
            "the machines were not told the same: settings, pictures, base model and torch must be alike on all, and"
            " the fingerprints at the end of `python run.py until=validate` be equal"
        )
    return processes


def _agree(processes: Processes, text: str) -> bool:
    return not processes.any(processes.from_first(text.encode()) != text.encode())


def limit_memory(device: torch.device) -> None:
    """To what an Intel card has: without it the driver loses the device where torch would say that memory ran out
    (pytorch issue 177714; torch 2.10 and later)."""
    if device.type == "xpu" and hasattr(torch.xpu, "set_per_process_memory_fraction"):
        torch.xpu.set_per_process_memory_fraction(1.0, device)


def _forget_launchers() -> None:
    for name in list(os.environ):
        if name.startswith(LAUNCHER_PREFIXES) or name in LAUNCHER_VARIABLES:
            del os.environ[name]
