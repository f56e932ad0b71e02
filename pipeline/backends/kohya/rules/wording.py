"""What is said of an argument: the setting that writes it, as it is typed."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.backends.kohya.asked import Asked
from pipeline.errors import Problem

OFF: Mapping[str, str] = {
    "train.accumulation_steps": "1",
    "train.min_snr_gamma": "null",
    "train.scheduler": "constant",
    "backend.cache_latents": "off",
    "backend.cache_text": "off",
    "train.caption_tokens": "75",
}
"""Settings that are switched off by another word than false or 0."""


def problem_of(asked: Asked, name: str, reason: str, fix: str) -> Problem:
    return Problem(asked.key(name), _as_typed(asked, name), reason, fix)


def line_of(asked: Asked, name: str) -> str:
    return f"{asked.key(name)}={_as_typed(asked, name)}"


def _as_typed(asked: Asked, name: str) -> object:
    """The value of the setting, which an argument may have been made of: a fraction of the steps, a module's path."""
    return spelt(asked.settings.flat().get(asked.key(name), asked.value(name)))


def switched_off(asked: Asked, name: str) -> str:
    """What to type to be rid of it."""
    key, value = asked.key(name), asked.value(name)
    if key in OFF:
        return f"{key}={OFF[key]}"
    if isinstance(value, bool):
        return f"{key}=false"
    passed_through = key.startswith("backend.args.")
    return f"leave {key} out" if passed_through or isinstance(value, str) else f"{key}=0"


def spelt(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else value
