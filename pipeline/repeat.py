"""Trains a run again with the settings that it had.   python -m pipeline runs repeat RUN [OVERRIDE...]

What is typed for it is made here, since only Hydra can say what overrides come to; the rule is told in
`pipeline.runs.repeating`, and what it comes to is composed and compared before it is used.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from pipeline import composition, settings
from pipeline.composition import Searched
from pipeline.detect import detect
from pipeline.errors import RunError
from pipeline.mistakes import ERRORS, explain, refusal
from pipeline.overrides import CONF, keys, typed_as
from pipeline.runs.naming import run_named
from pipeline.runs.reading import short_name
from pipeline.runs.repeating import (
    AS_USUAL,
    GROUPS,
    Difference,
    Pin,
    Recorded,
    differences,
    group_pins,
    leaf_pins,
    recorded,
    warmup_pin,
)
from pipeline.settings import PROJECT, Settings
from pipeline.tracking.masking import Masker, masked_override, masked_value
from pipeline.versions import made_with

ANEW = "resume=never"
"""The run may be unfinished, and the same settings would go on with it, in its directory."""
CHOOSES = ("model", "profile", "experiment", "mode", "backend", "optimizer", "network", "memory", "hardware", "data")
"""Groups: with another option come other settings, so that none of theirs is pinned."""
BRINGS_FIGURES = ("model", "profile", "experiment", "mode")
"""Groups whose option decides settings of all groups."""
DECIDED_BY = (
    *("model", "mode", "network", "optimizer", "memory", "hardware", "backend"),
    *("train.batch_size", "train.accumulation_steps", "train.effective_batch_size", "train.resolution_px"),
    *("train.more_resolutions_px", "train.gradient_checkpointing"),
)
"""Beginnings of settings that the plan decides others by: where one is typed, it decides anew."""
MOST_PASSES = 5
"""Of pinning: a pin may change a setting that is taken from it."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """What is typed to repeat a run, and what is other than then all the same."""

    run: str
    argv: tuple[str, ...]
    """After `python run.py`."""
    cwd: Path
    pins: tuple[Pin, ...]
    typed: tuple[str, ...]
    """In addition."""
    changed: tuple[Difference, ...]
    """Settings that are other by what was typed."""
    differences: tuple[Difference, ...]

    @property
    def command(self) -> str:
        line = shlex.join(["python", "run.py", *self.argv])
        program = line.replace("run.py", shlex.quote(str(PROJECT / "run.py")), 1) if self.cwd != PROJECT else line
        return program if self.cwd == Path.cwd() else f"cd {shlex.quote(str(self.cwd))} && {program}"


def repeat(name: str, typed: Sequence[str], folders: Sequence[Path], *, dry_run: bool, as_json: bool) -> int:
    """Tells what differs from then, and becomes the run: its exit code is this program's. Raises RunError."""
    if as_json and not dry_run:
        raise RunError("--json prints what would be done\n    try: --dry-run --json")
    repetition = repetition_of(recorded(run_named(name, folders)), typed)
    told = masked(repetition)
    sys.stdout.write(_as_json(told) if as_json else "".join(f"{line}\n" for line in _lines(told)))
    sys.stdout.flush()
    return 0 if dry_run else _become(repetition)


def _become(repetition: Repetition) -> NoReturn:
    """The process becomes run.py's, so that Ctrl-C, the exit code and all else are a run's."""
    os.chdir(repetition.cwd)
    os.execv(sys.executable, [sys.executable, str(PROJECT / "run.py"), *repetition.argv])  # noqa: S606


def repetition_of(then: Recorded, typed: Sequence[str] = ()) -> Repetition:
    """Raises RunError where the settings can't be had any more."""
    settings.register()
    composition.register()
    cwd = then.cwd if then.cwd is not None and then.cwd.is_dir() else Path.cwd()
    with chdir(cwd):
        searched = _searched(then)
        base, pins, now = _same_settings(then, searched)
        kept = [pin for pin in pins if _stays(pin, typed)]
        asked = _with_typed(searched, [*base, *_texts(kept)], typed) if typed else now
        facts = detect(asked, cwd)
    found = differences(then.plan, facts, made_with(asked.optimizer.known.package))
    return Repetition(
        run=short_name(then.run_dir),
        argv=(*searched.flags(), *base, *_texts(kept), ANEW, *typed),
        cwd=cwd,
        pins=tuple(kept),
        typed=tuple(typed),
        changed=tuple(_changed(then, asked)) if typed else (),
        differences=(*_of_program(then, now), *found),
    )


def _searched(then: Recorded) -> Searched:
    """The conf/ of a checkout is this one's; any other was named by the user. What is gone is not searched."""
    given = then.config_dir
    own = given is None or (given.parent / "run.py").exists() or not given.is_dir()
    others = tuple(folder for folder in then.searched if folder.is_dir())
    return Searched(CONF if own or given is None else given, "config" if own else then.config_name, others)


# ---------------------------------------------------------------------------------------------------- the same settings


def _same_settings(then: Recorded, searched: Searched) -> tuple[list[str], list[Pin], Settings]:
    """What was typed then, the pins, and what they come to; where that can't be composed any more (a profile that is
    gone, a setting of another name) the options by their names, as far as they are there, and more pins."""
    try:
        return list(then.overrides), *_pinned(then, searched, then.overrides)
    except ERRORS as error:
        told = explain(error, [*searched.flags(), *then.overrides]) or str(error)
    base = _options(then, searched)
    try:
        return base, *_pinned(then, searched, base)
    except ERRORS as error:
        raise RunError(f"{short_name(then.run_dir)} can't be repeated: {error}\nas it was typed: {told}") from error


def _pinned(then: Recorded, searched: Searched, base: Sequence[str]) -> tuple[list[Pin], Settings]:
    """Raises what composing raises, and RunError where pins do not lead to the settings of then."""
    now = searched.compose(base)
    pins = _groups(then, searched, base, now)
    for _ in range(MOST_PASSES):
        now = searched.compose([*base, *_texts(pins)])
        missing = [pin for pin in leaf_pins(then, now.flat()) if refusal(_text(pin)) is None]
        if not missing:
            return _with_warmup(then, pins), now
        replaced = {pin.key for pin in missing}
        pins = [*(pin for pin in pins if pin.key not in replaced), *missing]
    raise RunError(f"{', '.join(pin.key for pin in missing)}: can't be set to what the run had")


def _groups(then: Recorded, searched: Searched, base: Sequence[str], now: Settings) -> list[Pin]:
    """Pins of options that are there still; one of the user's may be gone."""
    pins: list[Pin] = []
    for pin in group_pins(then, now.flat()):
        if _composes(searched, [*base, *_texts([*pins, pin])]):
            pins.append(pin)
    return pins


def _options(then: Recorded, searched: Searched) -> list[str]:
    """The options that the run had, and what was typed of what is not pinned, one by one, as far as they are there."""
    usual = [each for each in then.overrides if each.lstrip("+~").startswith(("cache", "tracking", *AS_USUAL))]
    base: list[str] = []
    for override in [*(f"{group}={typed_as(then.settings.get(f'{group}.name'))}" for group in GROUPS), *usual]:
        if _composes(searched, [*base, override]):
            base.append(override)
    return base


def _composes(searched: Searched, overrides: Sequence[str]) -> bool:
    try:
        searched.compose(overrides)
    except ERRORS:
        return False
    return True


def _with_warmup(then: Recorded, pins: Sequence[Pin]) -> list[Pin]:
    own = warmup_pin(then, pins)
    return [*(pin for pin in pins if pin.key not in {each.key for each in own}), *own]


def _texts(pins: Sequence[Pin]) -> list[str]:
    return [_text(pin) for pin in pins]


def _text(pin: Pin) -> str:
    if pin.removed:
        return f"~{pin.key}"
    return f"{'++' if pin.added else ''}{pin.key}={typed_as(pin.value)}"


# ---------------------------------------------------------------------------------------------- what is typed besides


def _stays(pin: Pin, typed: Sequence[str]) -> bool:
    """What is typed wins, and what follows from it is not held back."""
    named = keys(typed)
    if pin.key in named or any(group in named for group in BRINGS_FIGURES):
        return False
    if any(group in CHOOSES and pin.key.partition(".")[0] == group for group in named):
        return False
    return not (pin.decided and any(key.startswith(DECIDED_BY) for key in named))


def _with_typed(searched: Searched, overrides: Sequence[str], typed: Sequence[str]) -> Settings:
    words = [*searched.flags(), *overrides, *typed]
    try:
        return searched.compose(
            [each for each in composition.complete([*overrides, *typed]) if not each.startswith("-")]
        )
    except ERRORS as error:
        raise RunError(explain(error, words) or str(error)) from error


def _changed(then: Recorded, asked: Settings) -> Iterator[Difference]:
    """Also what follows from it: an alpha that is in proportion to the rank, a batch that is decided anew."""
    now = asked.flat()
    for key, value in then.settings.items():
        if not key.startswith(AS_USUAL) and value != now.get(key, value):
            yield Difference(key, typed_as(value), typed_as(now[key]))


def _of_program(then: Recorded, now: Settings) -> Iterator[Difference]:
    """Settings that this version has and that one had not, or the other way round: no pin can say them."""
    for pin in leaf_pins(then, now.flat()):
        before, after = (
            ("no such setting", typed_as(pin.now)) if pin.removed else (typed_as(pin.value), "no such setting")
        )
        yield Difference(pin.key, before, after)


# -------------------------------------------------------------------------------------------------------------- telling


def masked(repetition: Repetition) -> Repetition:
    """As it may be told: what is printed is copied into mails and reports."""
    mask = Masker(os.environ)
    return replace(
        repetition,
        argv=tuple(masked_override(each, mask) for each in repetition.argv),
        typed=tuple(masked_override(each, mask) for each in repetition.typed),
        pins=tuple(
            replace(pin, value=masked_value(pin.key, pin.value, mask), now=masked_value(pin.key, pin.now, mask))
            for pin in repetition.pins
        ),
        changed=tuple(_masked(each, mask) for each in repetition.changed),
        differences=tuple(_masked(each, mask) for each in repetition.differences),
    )


def _masked(difference: Difference, mask: Masker) -> Difference:
    then, now = (str(masked_value(difference.what, each, mask)) for each in (difference.then, difference.now))
    return replace(difference, then=then, now=now)


def _lines(repetition: Repetition) -> Iterator[str]:
    yield f"repeats {repetition.run}"
    yield from _section("pinned, as it would be other now:", [_pin_words(pin) for pin in repetition.pins])
    yield from _section("other than then:", [str(each) for each in repetition.differences])
    yield from _section(
        f"typed in addition: {shlex.join(repetition.typed)}", [str(each) for each in repetition.changed]
    )
    if not repetition.differences and not repetition.typed:
        yield "  nothing else is other than then"
    yield repetition.command


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"  {title}"
        yield from (f"    {line}" for line in lines)


def _pin_words(pin: Pin) -> str:
    if pin.removed:
        return f"{_text(pin)}   (now {typed_as(pin.now)})"
    now = "" if pin.now is None else f"now {typed_as(pin.now)}"
    why = ", ".join(part for part in ("decided then" if pin.decided else "", now) if part)
    return f"{_text(pin)}   ({why})" if why else _text(pin)


def _as_json(repetition: Repetition) -> str:
    told: Mapping[str, object] = {
        "run": repetition.run,
        "command": repetition.command,
        "argv": repetition.argv,
        "cwd": str(repetition.cwd),
        "pinned": [{**asdict(pin), "typed": _text(pin)} for pin in repetition.pins],
        "differences": [asdict(each) for each in repetition.differences],
        "typed": repetition.typed,
        "changed": [asdict(each) for each in repetition.changed],
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"
