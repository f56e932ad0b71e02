"""What of sd-scripts can be set from here: every argument of every script, and what another version changed.

An argument is reached by a setting of ours, or passed on by `backend.args`, which checks it against the same parser,
or withheld on purpose. Parity is the share of the arguments that are not withheld and can be set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backends.kohya.arguments import Parser
from pipeline.backends.kohya.lycoris_arguments import OF_THE_NETWORK, Lycoris, lycoris_folder, read_lycoris
from pipeline.backends.kohya.manifest import SCRIPTS, Difference, commit_of, differences, load, parser_for, version_of
from pipeline.backends.kohya.translation import settings_of, withheld_of
from pipeline.checks.networks import ARGUMENTS, WITH_DROPOUT
from pipeline.errors import UnreadableFile
from pipeline.settings import Algorithm

WIDTH = 100
BY_SETTING = {
    **{"algo": "network.algo", "dropout": "network.dropout"},
    **{"conv_dim": "network.conv_rank", "conv_alpha": "network.conv_alpha", "dora_wd": "network.algo"},
}
"""What LyCORIS takes as a network argument and we have as a setting."""
OUR_NAMES = {"wd_on_output": "wd_on_out"}
OLD_NAMES = dict.fromkeys(("use_cp", "use_conv_cp", "disable_conv_cp"), "an old name of use_tucker")


@dataclass(frozen=True, slots=True)
class Table:
    """What our settings reach, and what is withheld."""

    settings: Callable[[str], Mapping[str, str]]
    """Of a script: argument -> the setting that writes it."""
    withheld: Callable[[str], Mapping[str, str]]
    """Of a script: argument -> why it is not offered."""


@dataclass(frozen=True, slots=True)
class ScriptAudit:
    """What of one script can be set."""

    script: str
    arguments: int
    reached: Mapping[str, str]
    """Argument -> setting."""
    passed: tuple[str, ...]
    """By `backend.args` only."""
    withheld: Mapping[str, str]
    undecided: Mapping[str, str]
    """Arguments that no value can be checked for, with the reason: these can't be set."""
    lacking: tuple[str, ...]
    """What our settings would write and this script does not have."""
    differences: tuple[Difference, ...]
    """Since the audited version."""
    error: str | None = None

    @property
    def parity(self) -> float:
        relevant = self.arguments - len(self.withheld)
        return (len(self.reached) + len(self.passed)) / relevant if relevant else 0.0


@dataclass(frozen=True, slots=True)
class LycorisAudit:
    """What of LyCORIS can be set."""

    version: str
    reached: Mapping[str, tuple[str, ...]]
    """Algorithm -> network arguments; those of any algorithm stand under ''."""
    passed: Mapping[str, tuple[str, ...]]
    """The others, by `backend.network_args`."""
    missing: tuple[str, ...]
    """Algorithms of ours that this version does not have."""
    withheld: Mapping[str, str]
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Of one checkout, or of the manifest."""

    root: Path | None
    version: str
    commit: str
    scripts: tuple[ScriptAudit, ...]
    lycoris: LycorisAudit | None
    """None: it is not installed."""

    @property
    def failed(self) -> bool:
        return any(each.error for each in self.scripts)


def audit(root: Path | None, python: str | None = None, table: Table | None = None) -> Audit:
    """Raises UnreadableFile for what is no folder; a script that can't be read is told with the others."""
    if root is not None and not root.is_dir():
        raise UnreadableFile(f"{root} is no folder: is it the checkout of sd-scripts?")
    audited, table = load(), table or our_table()
    version, commit = (version_of(root), commit_of(root)) if root else (audited.version, audited.commit)
    scripts = tuple(_script(root, script, table) for script in SCRIPTS)
    return Audit(root, version, commit, scripts, _lycoris(root, python))


def our_table() -> Table:
    """As render translates."""
    return Table(settings_of, withheld_of)


def _script(root: Path | None, script: str, table: Table) -> ScriptAudit:
    known = load().parsers[script]
    try:
        parser = parser_for(root, script)
    except UnreadableFile as error:
        return ScriptAudit(script, 0, {}, (), {}, {}, (), (), str(error))
    return sorted_out(parser, table, tuple(differences(known, parser)) if root else ())


def sorted_out(parser: Parser, table: Table, changed: tuple[Difference, ...] = ()) -> ScriptAudit:
    """Every argument of a script in its place."""
    settings = table.settings(parser.script)
    names = sorted(parser.arguments)
    reached = {name: settings[name] for name in names if name in settings}
    reasons = table.withheld(parser.script)
    withheld = {name: reasons[name] for name in names if name in reasons and name not in reached}
    open_ = [parser.arguments[name] for name in names if name not in reached and name not in withheld]
    return ScriptAudit(
        script=parser.script,
        arguments=len(names),
        reached=reached,
        passed=tuple(each.name for each in open_ if each.kind != "other"),
        withheld=withheld,
        undecided={each.name: each.note for each in open_ if each.kind == "other"},
        lacking=tuple(sorted(set(settings) - set(names))),
        differences=changed,
    )


# ------------------------------------------------------------------------------------------------------------ LyCORIS


def _lycoris(root: Path | None, python: str | None) -> LycorisAudit | None:
    """With a checkout, of the version in its interpreter's environment."""
    if root is None:
        return lycoris_audit(load().lycoris)
    folder = lycoris_folder(python)
    return lycoris_audit(read_lycoris(folder)) if folder else None


def lycoris_audit(lycoris: Lycoris) -> LycorisAudit:
    """Which of its network arguments our settings reach, by algorithm."""
    reached, passed = {}, {}
    for algorithm, names in lycoris.algorithms.items():
        ours = _our_arguments(algorithm)
        offered = [name for name in names if name not in OLD_NAMES]
        reached[algorithm] = tuple(name for name in offered if name in ours)
        passed[algorithm] = tuple(name for name in offered if name not in ours)
    taken = {name for names in lycoris.algorithms.values() for name in names}
    old = {name: reason for name, reason in OLD_NAMES.items() if name in taken}
    missing = tuple(each.value for each in Algorithm if their_name(each) not in lycoris.algorithms)
    changed = tuple(load().lycoris.differences(lycoris))
    return LycorisAudit(lycoris.version, reached, passed, missing, old, changed)


def their_name(algorithm: Algorithm) -> str:
    """DoRA is LoCon with an option to them."""
    return "locon" if algorithm is Algorithm.dora else algorithm.value.replace("_", "-")


def _our_arguments(algorithm: str) -> set[str]:
    """As LyCORIS names them, of one of its algorithms."""
    if algorithm == OF_THE_NETWORK:
        return set(BY_SETTING)
    own = {each for each in Algorithm if their_name(each) == algorithm}
    names = {name for each in own for name in ARGUMENTS[each]}
    names |= {theirs for theirs, our in OUR_NAMES.items() if our in names}
    names |= {"dropout"} if own & WITH_DROPOUT else set()
    return names | ({"dora_wd"} if "weight_decompose" in names or Algorithm.dora in own else set())


# ------------------------------------------------------------------------------------------------------------- telling


def as_json(found: Audit) -> str:
    """One object."""
    audited = load()
    told: dict[str, Any] = {
        "root": str(found.root) if found.root else None,
        "version": found.version,
        "commit": found.commit,
        "audited": {"version": audited.version, "commit": audited.commit, "lycoris": audited.lycoris.version},
        "scripts": {each.script: _script_json(each) for each in found.scripts},
        "lycoris": _lycoris_json(found.lycoris) if found.lycoris else None,
    }
    return json.dumps(told, indent=1)


def _script_json(found: ScriptAudit) -> dict[str, Any]:
    by_kind: dict[str, dict[str, str]] = {"new": {}, "gone": {}, "changed": {}}
    for each in found.differences:
        by_kind[each.kind][each.name] = each.words
    return {
        "arguments": found.arguments,
        "reached": dict(found.reached),
        "backend_args": list(found.passed),
        "withheld": dict(found.withheld),
        "undecided": dict(found.undecided),
        "lacking": list(found.lacking),
        "parity": round(found.parity, 4),
        **by_kind,
        "error": found.error,
    }


def _lycoris_json(found: LycorisAudit) -> dict[str, Any]:
    return {
        "version": found.version,
        "reached": {name or "any": list(taken) for name, taken in found.reached.items()},
        "network_args": {name or "any": list(taken) for name, taken in found.passed.items()},
        "missing": list(found.missing),
        "withheld": dict(found.withheld),
        "differences": list(found.differences),
    }


def print_audit(found: Audit) -> None:
    """A row a script, then what differs, what is withheld and what only `backend.args` reaches, each once."""
    from rich.console import Console

    console = Console(width=WIDTH, highlight=False, markup=False)
    console.print(_head(found))
    console.print(_counts(found.scripts))
    for title, entries in _lists(found):
        if entries:
            console.print(f"\n{title}", style="bold")
            console.print(_entries(entries))


def _head(found: Audit) -> str:
    audited = load()
    where = str(found.root) if found.root else "the audited version (no checkout: --root, or SD_SCRIPTS_ROOT)"
    version = f"sd-scripts {found.version or '(version unknown)'} {found.commit[:8] or '(no git checkout)'}"
    same = "" if found.commit == audited.commit else f"; audited: {audited.version} {audited.commit[:8]}"
    return f"{version}{same}\n{where}\n"


COUNTS = ("script", "arguments", "reached", "backend.args", "withheld", "unclear", "parity", "new", "gone", "changed")


def _counts(scripts: Sequence[ScriptAudit]) -> Any:
    from rich.table import Table as RichTable

    table = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title in COUNTS:
        table.add_column(title, justify="left" if title == "script" else "right", no_wrap=True)
    for each in scripts:
        if each.error:
            table.add_row(each.script.removesuffix(".py"), "unread", style="red")
            continue
        kinds = [sum(found.kind == kind for found in each.differences) for kind in ("new", "gone", "changed")]
        counts = (each.arguments, len(each.reached), len(each.passed), len(each.withheld), len(each.undecided))
        table.add_row(
            each.script.removesuffix(".py"),
            *map(str, counts),
            f"{each.parity:.0%}",
            *(str(count or "") for count in kinds),
        )
    return table


def _entries(entries: Sequence[tuple[str, str]]) -> Any:
    from rich.table import Table as RichTable

    table = RichTable(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", max_width=WIDTH // 2 - 8)
    table.add_column(overflow="fold")
    for name, words in entries:
        table.add_row(f"  {name}", words)
    return table


def _lists(found: Audit) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    scripts = [each for each in found.scripts if not each.error]
    yield "Can't be read", [(each.script, each.error) for each in found.scripts if each.error]
    for kind, title in (("new", "New"), ("gone", "Gone"), ("changed", "Changed")):
        told = [(each.script, (d.name, d.words)) for each in scripts for d in each.differences if d.kind == kind]
        yield f"{title} since the audited version", _once(told, len(scripts))
    lacking = [(each.script, (name, "")) for each in scripts for name in each.lacking]
    yield "Written by our settings, and unknown to the script", _once(lacking, len(scripts))
    undecided = [(each.script, entry) for each in scripts for entry in each.undecided.items()]
    yield "Can't be set, because no value can be checked", _once(undecided, len(scripts))
    withheld = {entry for each in scripts for entry in each.withheld.items()}
    yield "Withheld on purpose", sorted(withheld)
    passed = sorted({name for each in scripts for name in each.passed})
    yield "By backend.args only, checked against the script's own parser", [("", ", ".join(passed))] if passed else []
    yield from _lycoris_lists(found.lycoris)


def _once(told: Sequence[tuple[str, tuple[str, str]]], of: int) -> list[tuple[str, str]]:
    """The same of several scripts is told once, with their names."""
    scripts: dict[tuple[str, str], list[str]] = {}
    for script, entry in told:
        scripts.setdefault(entry, []).append(script.removesuffix(".py"))
    lines = []
    for (name, words), those in sorted(scripts.items()):
        where = "all scripts" if len(those) == of else ", ".join(those)
        lines.append((name, f"{words}  [{where}]".strip()))
    return lines


def _lycoris_lists(found: LycorisAudit | None) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    if found is None:
        yield "lycoris-lora", [("", "is not installed there: nothing to audit")]
        return
    title = f"lycoris-lora {found.version or '(version unknown)'}"
    yield f"{title}: network arguments by setting", [(k or "any", ", ".join(v)) for k, v in found.reached.items()]
    passed = [(name or "any", ", ".join(taken)) for name, taken in found.passed.items() if taken]
    yield f"{title}: by backend.network_args", passed
    yield f"{title}: lacks algorithms of ours", [("", ", ".join(found.missing))] if found.missing else []
    yield f"{title}: differs from {load().lycoris.version}", [("", words) for words in found.differences]
