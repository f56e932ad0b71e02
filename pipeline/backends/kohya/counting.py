"""How many processes really train, by what they print. Messages are those of commit 48d368f.

Each process names its device (prepare_accelerator, library/train_util.py), and the scripts of Stable Diffusion 1, 2 and
XL also say of how many it is one, before they load a model. The first of those that train together says that the
training begins: each that is alone says so for itself. Without an error, accelerate starts one process in place of
several (`--cpu`, 1.6 and 1.15), or several that are alone, where their torch can open no card (1.15).
"""

from __future__ import annotations

import re

from pipeline.backends.kohya.job import KohyaJob
from pipeline.deaths import started_otherwise

# Two processes that print at once share a line: what they say is looked for anywhere in it.
_DEVICE = re.compile(r"accelerator device:")
_PLACE = re.compile(r"loading model for process \d+/(\d+)")
_BEGIN = re.compile(r"running training / ")


class ProcessCount:
    """What one start of the command shows."""

    def __init__(self, job: KohyaJob) -> None:
        self.trouble: str | None = None
        """How another number was started than was asked for; None as long as nothing shows that."""
        self._here, self._all = job.num_processes, job.num_processes * job.num_machines
        self._devices = self._trainings = 0

    def take(self, text: str) -> None:
        """A piece of the output; no piece twice."""
        if self.trouble is not None:
            return
        self._devices += len(_DEVICE.findall(text))
        self._trainings += len(_BEGIN.findall(text))
        together = [int(number) for number in _PLACE.findall(text)]
        self.trouble = next((started_otherwise(self._all, n) for n in together if n != self._all), None) or self._seen()

    def _seen(self) -> str | None:
        """All have named their devices when the training begins: they have waited for each other."""
        if self._trainings > 1:
            return f"{started_otherwise(self._all, 1)}: {self._trainings} train alone, and write the same files"
        if self._devices > self._here or (self._trainings and 0 < self._devices < self._here):
            return started_otherwise(self._here, self._devices)
        return None
