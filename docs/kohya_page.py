"""The generated parts of docs/kohya-settings.md: every argument of sd-scripts, and what sets it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from pipeline.backends.kohya.arguments import Argument
from pipeline.backends.kohya.audit import Audit, LycorisAudit, ScriptAudit, audit
from pipeline.backends.kohya.manifest import FINETUNE_SCRIPTS, LORA_SCRIPTS, SCRIPTS, load

Table = Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]
KINDS = {
    **{"str": "text", "int": "whole number", "float": "number", "flag": "true, false", "off_flag": "true, false"},
    **{"int_or_float": "whole number, or a fraction below 1", "optional_str": "text", "other": "?"},
    **{"list[str]": "list of texts", "list[int]": "list of whole numbers", "list[float]": "list of numbers"},
}
GROUPS = {SCRIPTS: "all", LORA_SCRIPTS: "all LoRA", FINETUNE_SCRIPTS: "all finetune"}


def kohya_tables(table: Table) -> str:
    """Counts, then the arguments by the function that adds them, then LyCORIS."""
    found = audit(None)
    manifest = load()
    opening = f"Read from version {manifest.version}, commit `{manifest.commit[:8]}`, and lycoris-lora"
    parts = [f"{opening} {manifest.lycoris.version}.\n", "### Scripts\n", table(COUNTS, map(count_row, found.scripts))]
    for where, rows in argument_rows(found).items():
        parts += [f"### `{where}`\n", table(ARGUMENTS, iter(rows))]
    assert found.lycoris is not None
    parts += ["### LyCORIS: `network_args`\n", table(ALGORITHMS, lycoris_rows(found.lycoris))]
    return "\n".join(parts)


COUNTS = ("script", "arguments", "by setting", "by `backend.args`", "withheld", "parity")
ARGUMENTS = ("argument", "takes", "default", "set by", "scripts")
ALGORITHMS = ("algo", "by setting", "by `backend.network_args`")


def count_row(found: ScriptAudit) -> tuple[str, ...]:
    counts = (found.arguments, len(found.reached), len(found.passed), len(found.withheld))
    return (f"`{found.script}`", *map(str, counts), f"{found.parity:.0%}")


def argument_rows(found: Audit) -> dict[str, list[tuple[str, ...]]]:
    """By where it is added: a row an argument."""
    holders: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for script in found.scripts:
        for argument in load().parsers[script.script].arguments.values():
            key = (argument.where, argument.name, takes(argument), default(argument))
            holders.setdefault(key, {})[script.script] = set_by(script, argument.name)
    rows: dict[str, list[tuple[str, ...]]] = {}
    for (where, name, kind, usual), ways in holders.items():
        row = (f"`{name}`", kind, usual, way_words(ways), script_words(ways))
        rows.setdefault(where, []).append(row)
    return rows


def takes(argument: Argument) -> str:
    choices = ", ".join(f"`{choice}`" for choice in argument.choices if choice is not None)
    return choices or KINDS[argument.kind]


def default(argument: Argument) -> str:
    return "" if argument.default is None else f"`{json.dumps(argument.default)}`"


def set_by(script: ScriptAudit, name: str) -> str:
    """The setting, `backend.args`, or why there is none."""
    if name in script.reached:
        setting = script.reached[name]
        return f"`{setting}`" if " " not in setting else setting
    if name in script.withheld:
        return f"withheld: {script.withheld[name]}"
    if name in script.undecided:
        return f"none: {script.undecided[name]}"
    return "`backend.args`" if name in script.passed else "not yet"


def way_words(ways: dict[str, str]) -> str:
    """One way for all scripts, or each with its scripts."""
    scripts: dict[str, dict[str, str]] = {}
    for script, way in ways.items():
        scripts.setdefault(way, {})[script] = way
    if len(scripts) == 1:
        return next(iter(scripts))
    return "; ".join(f"{way} ({script_words(those)})" for way, those in scripts.items())


def script_words(scripts: dict[str, str]) -> str:
    return GROUPS.get(tuple(scripts)) or ", ".join(script.removesuffix(".py") for script in scripts)


def lycoris_rows(found: LycorisAudit) -> Iterator[tuple[str, ...]]:
    for algorithm, names in found.reached.items():
        passed = ", ".join(f"`{name}`" for name in found.passed[algorithm])
        yield (algorithm or "any", ", ".join(f"`{name}`" for name in names), passed)
