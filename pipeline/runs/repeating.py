"""What it takes to repeat a run: what it was told, which settings would be other now, and what else is.

One rule says "the same settings": what was typed then is typed again, and each setting of the run's config.yaml that
this does not give any more is typed too, pinned. What was decided then (the batch by the free memory, the optimizer
that works here) stands in config.yaml as it was decided, so it is pinned as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RunError
from pipeline.explanation import DECIDED
from pipeline.explanation import FILE_NAME as EXPLANATION
from pipeline.records import Checkout, Dataset, Facts
from pipeline.runs.reading import PLAN, flat_config
from pipeline.versions import MadeWith

AS_USUAL = ("until", "explain", "resume", "cache.", "tracking.")
"""Beginnings of settings that are not pinned: how far a run goes, and where it is told of. They decide no weight."""
GROUPS = ("model", "profile", "data", "mode", "backend", "optimizer", "memory", "hardware")
"""Whose options are told by their names."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a run keeps of how it was made."""

    run_dir: Path
    settings: Mapping[str, object]
    """Flat, as they were used."""
    plan: Mapping[str, Any]
    overrides: tuple[str, ...]
    """As typed, completed; of a trial its own. Empty where Hydra's folder is gone."""
    config_dir: Path | None
    config_name: str
    searched: tuple[Path, ...]
    """The folders of --config-dir."""
    cwd: Path | None
    """Where it was started: relative paths are those of this folder. None where nothing tells."""
    decided: frozenset[str]
    """Settings that the plan decided."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A setting that is typed so that it is as it was."""

    key: str
    value: object
    now: object
    """What it would be."""
    added: bool = False
    """There is no such setting now."""
    removed: bool = False
    """It is taken away: the run had none."""
    decided: bool = False
    """By the plan, then; otherwise a default has changed since."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is other than then, and can't be pinned."""

    what: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"{self.what}: {self.then} then, {self.now} now"


def recorded(run_dir: Path) -> Recorded:
    """Raises RunError where the run's files can't be read."""
    hydra = _hydra(run_dir / ".hydra" / "hydra.yaml")
    runtime = hydra.get("runtime") or {}
    sources = [each for each in runtime.get("config_sources") or () if each["schema"] == "file"]
    main = [Path(each["path"]) for each in sources if each["provider"] == "main"]
    return Recorded(
        run_dir=run_dir,
        settings=flat_config(run_dir),
        plan=_object(run_dir / PLAN),
        overrides=tuple((hydra.get("overrides") or {}).get("task") or ()),
        config_dir=main[0] if main else None,
        config_name=(hydra.get("job") or {}).get("config_name") or "config",
        searched=tuple(Path(each["path"]) for each in sources if each["provider"] != "main"),
        cwd=Path(runtime["cwd"]) if "cwd" in runtime else None,
        decided=_decided(run_dir / EXPLANATION),
    )


def group_pins(then: Recorded, now: Mapping[str, object]) -> list[Pin]:
    """Options of groups that are others now."""
    keys = [(group, f"{group}.name") for group in GROUPS]
    return [
        Pin(group, then.settings[key], now.get(key), decided=key in then.decided)
        for group, key in keys
        if then.settings.get(key) not in (None, now.get(key))
    ]


def leaf_pins(then: Recorded, now: Mapping[str, object]) -> list[Pin]:
    """Settings that are others now, of those that are pinned at all."""
    before, after = pinned_at_all(then.settings), pinned_at_all(now)
    other = [key for key, value in before.items() if key not in after or after[key] != value]
    changed = [
        Pin(key, before[key], after.get(key), added=key not in after, decided=key in then.decided) for key in other
    ]
    return [*changed, *(Pin(key, None, after[key], removed=True) for key in after if key not in before)]


def pinned_at_all(settings: Mapping[str, object]) -> dict[str, object]:
    """An empty set of names and values needs no pin: what is in it now is taken away."""
    return {key: value for key, value in settings.items() if not key.startswith(AS_USUAL) and value != {}}


def warmup_pin(then: Recorded, pins: Sequence[Pin]) -> list[Pin]:
    """A warm-up that is typed is not cut to a tenth of the run, as one of the defaults is. So the number that it came
    to is typed where its settings are pinned."""
    if not any(pin.key in ("train.warmup_steps", "train.warmup_fraction") for pin in pins):
        return []
    return [Pin("train.warmup_steps", then.plan["warmup_steps"], None, decided=True)]


def _hydra(path: Path) -> Mapping[str, Any]:
    """Nothing for what an older run left in the directory of a newer one: Hydra's folder is the newer's."""
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{path} can't be read: {error}") from error
    return told["hydra"] if isinstance(told, dict) and isinstance(told.get("hydra"), dict) else {}


def _object(path: Path) -> Mapping[str, Any]:
    try:
        made: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read: {error}") from error
    return made


def _decided(path: Path) -> frozenset[str]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(row["key"] for row in rows if row["source"] == DECIDED)
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


# ------------------------------------------------------------------------------------------------- what else differs


def differences(plan: Mapping[str, Any], facts: Facts, made: MadeWith) -> list[Difference]:
    """What is other than in the plan of then, of what may decide the weights."""
    then, now = _facts_of(plan), _facts_now(facts)
    rows = [Difference(what, value, now[what]) for what, value in then.items() if value != now.get(what, value)]
    return [*rows, *_versions(plan, made), *_pictures(plan, facts.dataset), *_checkout(plan, facts.checkout)]


def _facts_of(plan: Mapping[str, Any]) -> dict[str, str]:
    machine, checkpoint = plan["machine"], plan["checkpoint"]
    return _named(
        machine["platform"],
        machine["device_names"],
        machine["cpu_cores"],
        machine["torch_version"],
        checkpoint["digest"],
    )


def _facts_now(facts: Facts) -> dict[str, str]:
    machine, checkpoint = facts.machine, facts.checkpoint
    digest = None if checkpoint is None else checkpoint.digest
    return _named(machine.platform, machine.device_names, machine.cpu_cores, machine.torch_version, digest)


def _named(platform: str, devices: Sequence[str], cores: int, torch: str, digest: str | None) -> dict[str, str]:
    return {
        "platform": platform,
        "devices": ", ".join(devices),
        "cores (threads)": str(cores),
        "the trainer's torch": torch or "none",
        "the model's digest": _short(digest),
    }


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "can't be read"


def _versions(plan: Mapping[str, Any], made: MadeWith) -> Iterator[Difference]:
    then = plan.get("made_with")
    if not then:
        yield Difference("versions and commit", "not recorded", f"python {made.python}, commit {_commit(asdict(made))}")
        return
    before, after = {"python": then["python"], **then["packages"]}, {"python": made.python, **made.packages}
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield Difference(name, before.get(name, "none"), after.get(name, "none"))
    if _commit(then) != _commit(asdict(made)) or made.dirty:
        yield Difference("commit of this program", _commit(then), _commit(asdict(made)))


def _commit(made: Mapping[str, Any]) -> str:
    return "unknown" if made["commit"] is None else f"{made['commit'][:12]}{' with changes' if made['dirty'] else ''}"


def _pictures(plan: Mapping[str, Any], now: Dataset | None) -> Iterator[Difference]:
    """In words, since a digest says only that there is something."""
    then = plan["dataset"]
    if now is None:
        yield Difference("pictures", str(len(then["train"]) + len(then["heldout"])), "none that can be read")
    elif now.digest != then["digest"]:
        before = {each["digest"]: each["caption"] for each in (*then["train"], *then["heldout"])}
        after = {each.digest: each.caption for each in (*now.train, *now.heldout)}
        captions = sum(before[digest] != after[digest] for digest in before if digest in after)
        gone, new = len(before.keys() - after.keys()), len(after.keys() - before.keys())
        told = f"{new} new, {gone} gone, {captions} with other captions"
        yield Difference("pictures", str(len(then["train"]) + len(then["heldout"])), told)


def _checkout(plan: Mapping[str, Any], now: Checkout | None) -> Iterator[Difference]:
    """Of a backend that trains with one."""
    then = plan.get("checkout")
    if then is None or now is None:
        return
    if then["commit"] != now.commit:
        yield Difference("commit of the trainer", then["commit"] or "unknown", now.commit or "unknown")
    for name in dict.fromkeys([*then["packages"], *now.packages]):
        before, after = then["packages"].get(name, "none"), now.packages.get(name, "none")
        if before != after:
            yield Difference(f"the trainer's {name}", before, after)
