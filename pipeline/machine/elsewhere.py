"""The facts of another machine in the place of this one's, to render for it; nothing is trained here with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.errors import Problem, UnreadableFile
from pipeline.machine.cards import Found
from pipeline.machine.facts import facts_here, machine_from, read_facts
from pipeline.records import Machine
from pipeline.settings import PlatformName, Settings, Until

KEY = "hardware.facts"
MADE_BY = "`python -m pipeline doctor --json > FILE` on that machine"


def machine_elsewhere(settings: Settings, file: str) -> tuple[Machine, tuple[Problem, ...]]:
    """The machine of the file, as its trainer's torch sees it; never raises."""
    try:
        facts = read_facts(Path(file).expanduser())
    except (UnreadableFile, RuntimeError) as error:
        here, _ = machine_from(facts_here(Found(), None), PlatformName.cpu)
        return here, (Problem(KEY, file, str(error).removeprefix(f"{file} "), f"{KEY}=FILE, made by {MADE_BY}"),)
    answer = facts.others.get(settings.backend.name, facts.answer)
    machine, problems = machine_from(replace(facts, answer=answer), settings.hardware.name)
    return machine, (*_not_here(settings, file), *problems)


def _not_here(settings: Settings, file: str) -> Iterator[Problem]:
    if settings.until is Until.log:
        reason = "holds the facts of another machine: nothing can be trained here with them"
        yield Problem(KEY, file, reason, f"until=render, or {KEY}=null")
