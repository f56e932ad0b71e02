"""What sd-scripts says while it works: lines and redrawn bars from its output, phases, and the steps that these and the
TensorBoard scalars tell together."""

from __future__ import annotations

import codecs
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.backends.kohya.job import KohyaJob
from pipeline.backends.kohya.tensorboard import Scalar
from pipeline.outcome import HELDOUT

VALIDATION = "loss/validation/epoch_average"
REDRAW_SECONDS = 30.0
"""Between two redraws of a bar in the log."""
LONGEST_PIECE = 64 * 1024
_ENDS = re.compile(r"[\r\n]")
_ANY_BAR = re.compile(r"\d+%\||\d+(it|key) \[|\d+/\d+ \[")
_STEPS_BAR = re.compile(
    r"(?<!validation )\bsteps:\s+\d+%\|[^|]*\|\s*(?P<done>\d+)/(?P<total>\d+)\s+\[[^,\]]*"
    r"(,\s*(?P<rate>[\d.]+)(?P<unit>s/it|it/s))?(?P<rest>[^\]]*)\]"
)
_AVERAGE = re.compile(r"avr_loss=(?P<loss>[-+.\w]+)")
_REFUSED_IN_NAMES = re.compile(r"[^A-Za-z0-9_\-. :/]")

PHASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"(?i)caching text encoder outputs|cache text encoder outputs", "caching text encoder outputs"),
        (r"caching latents", "caching latents"),
        (
            r"loading model for process|load (StableDiffusion|Diffusers)|Loading (state dict|DiT|Qwen3|Anima)",
            "loading the model",
        ),
        (r"Loading dataset config|prepare images\.|loading image sizes", "reading the pictures"),
        (r"prepare optimizer, data loader", "preparing the optimizer"),
        (r"resume training from local state", "loading the state"),
        (r"skipping \d+ steps", "skipping the steps that are done"),
        (r"running training", "training"),
        (r"(?i)generating sample images", "drawing samples"),
        (r"saving (checkpoint|model|state|last state)\b|save trained model", "saving"),
    )
)
"""What a line of its output says that it begins."""


class Piece(NamedTuple):
    """A part of the output."""

    text: str
    is_redraw: bool
    """A bar that will be drawn again over itself."""


class Pieces:
    """Cuts the output at line ends and carriage returns."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.rest = ""
        """What has no end yet: a bar stays here until it is drawn again."""

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        self.rest += self._decoder.decode(chunk)
        while found := _ENDS.search(self.rest):
            text, end, self.rest = self.rest[: found.start()], found.group(), self.rest[found.end() :]
            if text or end == "\n":
                yield Piece(text, end == "\r" and _ANY_BAR.search(text) is not None)
        if len(self.rest) > LONGEST_PIECE:
            yield from self.end()

    def end(self) -> Iterator[Piece]:
        """What is left when nothing comes any more."""
        rest, self.rest = self.rest, ""
        if rest:
            yield Piece(rest, is_redraw=False)


class Thinner:
    """Lets every line pass, but a redrawn bar only now and then."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._shown_at = -math.inf

    def passes(self, piece: Piece) -> bool:
        if not piece.is_redraw:
            return True
        if self._now() - self._shown_at < REDRAW_SECONDS:
            return False
        self._shown_at = self._now()
        return True


@dataclass(frozen=True, slots=True)
class Bar:
    """`steps:  10%|#  | 1/10 [00:03<00:33,  3.70s/it, avr_loss=1.15]`."""

    done: int
    """Updates of this start: it begins at 0 whatever was trained before."""
    total: int
    steps_per_second: float | None
    average_loss: float | None
    """Moving average of this start's losses."""


def read_bar(text: str) -> Bar | None:
    """The newest bar of the training in a text; other bars are not it."""
    found = None
    for found in _STEPS_BAR.finditer(text):  # noqa: B007
        pass
    if found is None:
        return None
    rate = float(found["rate"]) if found["rate"] else 0.0
    average = _AVERAGE.search(found["rest"] or "")
    return Bar(
        int(found["done"]),
        int(found["total"]),
        None if not rate else (1 / rate if found["unit"] == "s/it" else rate),
        _float(average["loss"]) if average else None,
    )


def read_phase(text: str) -> str | None:
    """What a line says that is begun."""
    return next((phase for pattern, phase in PHASES if pattern.search(text)), None)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer update, counted over all starts of the run."""

    number: int
    loss: float
    lr: float | None
    steps_per_second: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    """Everything else that was logged with it, under names that MLflow takes."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was logged without an update: the average of an epoch, a validation."""

    step: int
    metrics: dict[str, float]


class Steps:
    """Joins bar and scalars. A script logs once a micro-batch: `loss/current` (LoRA) or `loss` (finetune) first, under
    its own count of updates, then learning rates; an update's loss is the mean of its micro-batches. Without any scalar
    (somebody chose another tracker) the bar alone tells, with its average loss."""

    def __init__(self, job: KohyaJob) -> None:
        self._job = job
        self._bar: Bar | None = None
        self._call: dict[str, float] = {}
        """The scalars of the call that is being read."""
        self._call_step = 0
        self._micro_losses: list[float] = []
        self._has_scalars = False
        self.last = job.first_step
        """Number of the newest update that was told."""

    def take_scalar(self, scalar: Scalar) -> Iterator[Step | Figures]:
        """A repeated name or another step begins the next call, and completes the one before."""
        if self._call and (scalar.step != self._call_step or scalar.tag in self._call):
            yield from self.settle()
        self._has_scalars = True
        self._call_step = scalar.step
        self._call[scalar.tag] = scalar.value

    def settle(self) -> Iterator[Step | Figures]:
        """Nothing more comes of the call that is being read: the tracker flushes after each."""
        call, self._call = self._call, {}
        losses = [call[name] for name in ("loss/current", "loss") if name in call]
        if losses:
            yield from self._micro_batch(losses[0], call)
        elif call:
            of_epoch = any("epoch" in name for name in call)  # these are logged under the epoch's number
            step = self.last if of_epoch else self.number(self._call_step)
            yield Figures(step, {metric_name(name): value for name, value in call.items()})

    def take_bar(self, bar: Bar) -> Iterator[Step]:
        """The update before the bar's is over: its scalars would be there by now."""
        before, self._bar = self._bar, bar
        if before is not None and bar.done > before.done:
            yield from self._from_bar(before)

    def end(self) -> Iterator[Step | Figures]:
        """What is left when the command is gone."""
        yield from self.settle()
        if self._bar is not None:
            yield from self._from_bar(self._bar)

    def number(self, counted: int) -> int:
        """The update of the whole run that the script counts as `counted`, in scalars and in names of files."""
        first = self._job.first_step
        return max(first, first + counted - self._job.counted_from)

    def newest(self) -> int:
        """The update that the run has come to."""
        return max(self.last, self._job.first_step + (self._bar.done if self._bar else 0))

    def _micro_batch(self, loss: float, call: dict[str, float]) -> Iterator[Step]:
        self._micro_losses.append(loss)
        number = self.number(self._call_step)
        if number <= self.last:
            return
        mean = sum(self._micro_losses) / len(self._micro_losses)
        self._micro_losses = []
        self.last = number
        rate_name = _rate_name(call)
        told = ("loss/current", "loss", rate_name)
        yield Step(
            number,
            mean,
            None if rate_name is None else call[rate_name],
            None if self._bar is None else self._bar.steps_per_second,
            {metric_name(name): value for name, value in call.items() if name not in told},
        )

    def _from_bar(self, bar: Bar) -> Iterator[Step]:
        number = self._job.first_step + bar.done
        if self._has_scalars or bar.average_loss is None or number <= self.last:
            return
        self.last = number
        yield Step(number, bar.average_loss, None, bar.steps_per_second)


def metric_name(tag: str) -> str:
    """A name that MLflow takes: `lr/d*lr/unet` becomes `lr/d_times_lr/unet`. The loss of the held-out pictures has the
    name that it has everywhere."""
    if tag == VALIDATION:
        return HELDOUT
    return _REFUSED_IN_NAMES.sub("_", tag.replace("*", "_times_"))


def _rate_name(call: dict[str, float]) -> str | None:
    """The learning rate of what is trained first of all."""
    rates = [name for name in call if name.startswith("lr/") and "d*lr" not in name]
    of_denoiser = [name for name in rates if "text" not in name]
    return "lr/unet" if "lr/unet" in rates else next(iter(of_denoiser or rates), None)
