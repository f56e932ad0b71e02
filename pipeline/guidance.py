"""What a profile tells of itself: the shape of `known:` in `conf/profile/<name>.yaml`. Nothing in it is a setting.

As in `pipeline.settings`, no field has a default: what a profile has nothing to say of is empty there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from pipeline.families import PromptForm


class Grade(Enum):
    """How well the learning rate is supported: A, several recipes agree within a factor of three; B, one recipe, or
    several further apart, of which one was taken; C, taken from a relative for want of a recipe."""

    A = "A"
    B = "B"
    C = "C"


class Predicting(Enum):
    """The models that an axis of a sweep is for, by what they predict."""

    anything = "anything"
    noise = "noise"
    flow = "flow"


@dataclass
class Pictures:
    """How many pictures some models want."""

    models: str
    """In words: any, Stable Diffusion XL."""
    count: str
    """In words: about 20, at least 12."""
    sources: list[str]
    """Keys of the list in docs/profiles.md."""


@dataclass
class Signs:
    """How a wrong length or rate shows, and what to change."""

    seen: list[str]
    change: list[str]
    """In the order in which to try it."""


@dataclass
class SamplePrompts:
    """One prompt of each kind; TRIGGER and CLASS stand for the user's own words."""

    trained_like: str
    """As the training pictures are."""
    new_context: str
    """What was learned, where it was never shown: is it more than a memory?"""
    class_only: str
    """Without the trigger: does it come uncalled?"""
    unrelated: str
    """What has nothing to do with it: is it forgotten?"""


@dataclass
class Axis:
    """A setting worth sweeping."""

    key: str
    """Dotted name."""
    times: list[float]
    """Multiples of what the profile gives the model; empty: `values` are meant."""
    values: list[Any]
    of: Predicting


@dataclass
class Evidence:
    """What a row of figures rests on."""

    grade: Grade
    sources: list[str]
    """Keys of the list in docs/profiles.md."""
    captions: str
    """What the captions of this model are like."""
    notes: list[str]
    """What its recipes have beside the figures, and no figure can say."""


@dataclass
class Guidance:
    """All that a profile tells of itself."""

    use: str
    """What it is for."""
    not_for: str
    """What it is not for, and what is."""
    count: str
    """Of pictures, in few words."""
    pictures: list[Pictures]
    variety: list[str]
    framing: list[str]
    captions: list[str]
    too_little: Signs
    """Of training too short or too weak."""
    too_much: Signs
    """Of training too long or too strong."""
    prompts: dict[PromptForm, SamplePrompts]
    """By the form in which a model is spoken to."""
    grid: list[Axis]
    """What to sweep first."""
    evidence: dict[str, dict[str, Evidence]]
    """mode -> model -> what its row rests on."""
