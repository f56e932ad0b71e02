"""What was found out about a machine, as a record that can be carried to another one, and the machine that follows.

`python -m pipeline doctor --json` prints it, and `hardware.facts=FILE` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from pipeline.errors import Problem, UnreadableFile
from pipeline.machine import host
from pipeline.machine.architectures import install_command
from pipeline.machine.cards import Card, Found
from pipeline.machine.verdict import Verdict, judge
from pipeline.records import Answer, Device, Machine, Platform
from pipeline.settings import PlatformName

VERSION = 1
"""Of the file."""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """A machine, with nothing decided."""

    found: Found
    answer: Answer | None
    """Of our own interpreter's torch; None where it could not be asked."""
    no_answer: str = ""
    """Why it could not."""
    cpu_name: str = ""
    cpu_cores: int = 1
    """Cores that may be used."""
    memory_bytes: int = 0
    """Available, of the machine; of a trial beside others its share at the most."""
    others: Mapping[str, Answer] = field(default_factory=dict)
    """Of the interpreters that other backends train with, by the backend's name."""
    memory_is_share: bool = False
    """Others use the rest at the same time."""


def facts_here(found: Found, answer: Answer | None, *, no_answer: str = "") -> MachineFacts:
    """Of this machine."""
    available, share = host.available_memory_bytes(), host.memory_share_bytes()
    return MachineFacts(
        found=found,
        answer=answer,
        no_answer=no_answer,
        cpu_name=host.cpu_name(),
        cpu_cores=host.cpu_cores(),
        memory_bytes=min(available, share or available),
        memory_is_share=0 < share < available,
    )


def machine_from(facts: MachineFacts, wanted: PlatformName, *, python: str = "") -> tuple[Machine, tuple[Problem, ...]]:
    """The machine to train on, and what keeps the wanted platform from being used. `python` is the interpreter that
    answered, where it is not our own."""
    if facts.answer is None:
        return _machine(facts, Verdict("cpu"), torch_version=""), (_no_torch(facts, wanted),)
    verdict = judge(facts.found, facts.answer, wanted, python=python)
    return _machine(facts, verdict, torch_version=facts.answer.torch), verdict.problems


def _machine(facts: MachineFacts, verdict: Verdict, *, torch_version: str) -> Machine:
    """bf16 is never claimed for a CPU: without AMX or AVX512-BF16 it is emulated, hundreds of times slower."""
    devices = verdict.devices
    return Machine(
        platform=verdict.platform,
        device_names=tuple(device.name for device in devices) or (facts.cpu_name,),
        memory_bytes=min((device.free_bytes for device in devices), default=facts.memory_bytes),
        cpu_cores=facts.cpu_cores,
        bf16=bool(devices) and all(device.bf16 for device in devices),
        torch_version=torch_version,
        architectures=verdict.architectures,
        attention=verdict.attention,
        variables=verdict.variables,
        warnings=verdict.warnings,
        total_memory_bytes=min((device.total_bytes for device in devices), default=0),
        host_memory_bytes=facts.memory_bytes,
        memory_is_share=facts.memory_is_share and not devices,
    )


def _no_torch(facts: MachineFacts, wanted: PlatformName) -> Problem:
    best = next((card for card in facts.found.usable if not card.integrated), None)
    platform = wanted.value if best is None or wanted is not PlatformName.auto else best.platform
    here = best if best is not None and best.platform == platform else None
    install = install_command(here.arch if here else "", platform, here.driver if here else "")
    return Problem(
        "hardware",
        wanted.value,
        f"torch can't be asked what it can drive: {facts.no_answer}",
        f"python -c 'import torch' shows it whole; to install it: {install}",
    )


# ---------------------------------------------------------------------------------------------------------- as a file


def facts_record(facts: MachineFacts) -> dict[str, Any]:
    """As JSON can hold it."""
    return {"version": VERSION, **asdict(facts)}


def read_facts(path: Path) -> MachineFacts:
    """Raises UnreadableFile."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        said = whole["facts"]
        if said["version"] != VERSION:
            raise ValueError(f"it is of version {said['version']}, and {VERSION} is read here")
        return _facts_from(said)
    except OSError as error:
        raise UnreadableFile(f"{path} can't be read: {error.strerror}") from error
    except KeyError as error:
        raise UnreadableFile(f"{path} has no {error}: it is not what doctor --json prints") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UnreadableFile(f"{path} is not what doctor --json prints: {error}") from error


def _facts_from(said: Any) -> MachineFacts:
    found = said["found"]
    return MachineFacts(
        found=Found(
            cards=tuple(Card(**card) for card in found["cards"]),
            wsl=bool(found["wsl"]),
            complaint=str(found["complaint"]),
            environment={str(name): str(value) for name, value in found["environment"].items()},
        ),
        answer=None if said["answer"] is None else answer_from(said["answer"]),
        no_answer=str(said["no_answer"]),
        cpu_name=str(said["cpu_name"]),
        cpu_cores=int(said["cpu_cores"]),
        memory_bytes=int(said["memory_bytes"]),
        others={str(name): answer_from(answer) for name, answer in said["others"].items()},
    )


def answer_from(said: Any) -> Answer:
    """What `ask.py` printed. Raises ValueError, TypeError, KeyError or AttributeError for what is no answer."""
    platform: Platform = said["platform"]
    devices = tuple(_device(device) for device in said["devices"])
    if platform not in get_args(Platform) or (platform != "cpu" and not devices):
        raise ValueError(platform)
    return Answer(
        torch=str(said["torch"]),
        platform=platform,
        devices=devices,
        builds={str(name): str(version) for name, version in said.get("builds", {}).items()},
        arch_list=tuple(str(arch) for arch in said.get("arch_list", ())),
    )


def _device(said: Any) -> Device:
    return Device(
        name=str(said["name"]),
        free_bytes=int(said["free_bytes"]),
        bf16=bool(said["bf16"]),
        arch=str(said.get("arch", "")),
        total_bytes=int(said.get("total_bytes", 0)),
    )
