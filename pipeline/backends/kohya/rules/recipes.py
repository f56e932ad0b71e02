"""What published recipes keep to, of arguments that only sd-scripts has. What any backend has is in
`pipeline.checks.recipes`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import is_on, number_of
from pipeline.backends.kohya.rules.unread import is_unusable
from pipeline.backends.kohya.rules.wording import line_of, switched_off
from pipeline.backends.kohya.scripts import EVERY, FLUX


@dataclass(frozen=True, slots=True)
class Usual:
    """The values of an argument that recipes use."""

    argument: str
    low: float
    high: float
    reason: str
    scripts: frozenset[str] = EVERY
    beside: str = ""
    """The argument without which it is not read."""

    def __str__(self) -> str:
        return f"{self.low:g} and more" if self.high == float("inf") else f"{self.low:g} to {self.high:g}"


SHIFTED = "beyond, nearly all steps are of one amount of noise"
USUAL: tuple[Usual, ...] = (
    Usual("ip_noise_gamma", 0, 0.1, "more of it is learned as noise in the pictures"),
    Usual(
        "multires_noise_discount",
        *(0.1, 0.4),
        "less leaves plain noise, and more drowns it in noise of the coarser sizes",
        beside="multires_noise_iterations",
    ),
    Usual("discrete_flow_shift", 0.5, 8, SHIFTED),
    Usual("training_shift", 0.5, 8, SHIFTED),
    Usual("scale_weight_norms", 3, float("inf"), "a tighter limit was seen to hold FLUX' adapters back", FLUX),
)


def unusual_figures(asked: Asked) -> Iterator[str]:
    """Written ones only: a script's own default is its own business."""
    for usual in USUAL:
        name, value = usual.argument, number_of(asked.values.get(usual.argument))
        if value is None or not is_on(asked, name) or is_unusable(asked, name):
            continue
        read = asked.parser.script in usual.scripts and (not usual.beside or is_on(asked, usual.beside))
        if read and not usual.low <= value <= usual.high:
            nearest = usual.low if value < usual.low else usual.high
            yield f"{line_of(asked, name)}: usual is {usual} ({usual.reason}); try {asked.key(name)}={nearest:g}"


WHY: Mapping[str, str] = {
    "guidance_scale": "another guidance would be trained into what it draws without being told",
}


def unlike_the_family(asked: Asked) -> Iterator[str]:
    """Arguments that have a value of their own in conf/model, passed on otherwise. What a setting writes is meant."""
    known = asked.settings.model.known
    for name, right in known.kohya.arguments.items():
        passed = name in asked.parser.arguments and asked.key(name).startswith("backend.args.")
        if passed and asked.values.get(name, right) != right:
            why = f" ({WHY[name]})" if name in WHY else ""
            told = str(right).lower() if isinstance(right, bool) else f"{right:g}" if _is_number(right) else right
            yield f"{line_of(asked, name)}: {known.title} is trained with {told}{why}; try {asked.key(name)}={told}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def weighed_twice(asked: Asked) -> Iterator[str]:
    """post_process_loss of train_network.py does one after the other."""
    if is_on(asked, "debiased_estimation_loss") and is_on(asked, "min_snr_gamma"):
        line = line_of(asked, "debiased_estimation_loss")
        told = (
            f"{line}: it weighs the steps by their noise as {line_of(asked, 'min_snr_gamma')} does, and both are done"
        )
        yield f"{told}; try one of them: {switched_off(asked, 'min_snr_gamma')}"
