"""Further resolutions against the model, the base and the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.checks.limits import LIMITS
from pipeline.dataset.flaws import count, listed
from pipeline.dataset.resolutions import is_trained_at, pictures_at, resolutions_px, typed_more
from pipeline.errors import Problem
from pipeline.records import Dataset
from pipeline.settings import Settings

KEY = "train.more_resolutions_px"
LEAST_STEP_PX = 8
"""Of a model; another one is told of by itself."""


def resolution_problems(settings: Settings, dataset: Dataset | None) -> Iterator[Problem]:
    """One for each side that can't be trained, or would change nothing."""
    train, step = settings.train, settings.model.resolution_step_px
    twice = {side for side, times in Counter(resolutions_px(train)).items() if times > 1}
    for side in dict.fromkeys(train.more_resolutions_px):
        reason = _out_of_range(settings, side) or (_same(settings, side) if side in twice else "")
        if reason:
            yield Problem(KEY, side, reason, _without(settings, side))
        elif step >= LEAST_STEP_PX and side % step:
            yield _off_the_grid(settings, side)
        elif dataset is not None and not pictures_at(dataset.train, train)[side]:
            reason = "no picture is large enough for it, so that it would have no effect"
            yield Problem(KEY, side, reason, _without(settings, side))


def resolution_warnings(settings: Settings, dataset: Dataset) -> Iterator[str]:
    """Which pictures are not trained at all of them."""
    train = settings.train
    for side in train.more_resolutions_px:
        small = [p.path for p in dataset.train if not is_trained_at(p.width_px, p.height_px, side, train)]
        if small:
            yield f"{count(small)} too small for {KEY}={side}, and trained at the other sizes only: {listed(small)}"


def _out_of_range(settings: Settings, side: int) -> str:
    known, limit = settings.model.known, LIMITS["train.resolution_px"]
    if not limit.holds(side):
        return f"each must be {limit}"
    if side > known.resolution.max_px:
        return f"{known.title} is known to train with at most {known.resolution.max_px} px"
    return ""


def _same(settings: Settings, side: int) -> str:
    if side == settings.train.resolution_px:
        return f"is train.resolution_px={side} itself, at which every picture is trained already"
    return "stands there twice"


def _off_the_grid(settings: Settings, side: int) -> Problem:
    step = settings.model.resolution_step_px
    near = max(step, round(side / step) * step)
    others = [each for each in settings.train.more_resolutions_px if each != side]
    kept = [*others, near] if near not in (*others, settings.train.resolution_px) else others
    return Problem(KEY, side, f"must be a multiple of model.resolution_step_px={step}", typed_more(kept))


def _without(settings: Settings, side: int) -> str:
    """A side that stands there twice stays once, unless it is the base."""
    train = settings.train
    again = side != train.resolution_px and train.more_resolutions_px.count(side) > 1
    others = [each for each in train.more_resolutions_px if each != side]
    return typed_more([*others, side] if again else others)
