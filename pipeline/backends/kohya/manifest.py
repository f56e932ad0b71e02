"""The parsers of the sd-scripts that was audited, for a machine without a checkout.

    python -m pipeline.backends.kohya.manifest ROOT [PYTHON]

reads them from a checkout anew, and LyCORIS from the environment of its interpreter. Stored are names, kinds,
defaults and choices, each once: a group is what the same scripts get from the same function.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.backends.kohya.arguments import Argument, Parser
from pipeline.backends.kohya.lycoris_arguments import Lycoris, lycoris_folder, read_lycoris
from pipeline.backends.kohya.network_arguments import MODULES, read_network_arguments
from pipeline.backends.kohya.parsers import read_parser
from pipeline.errors import RunError, UnreadableFile
from pipeline.files import write_text

FILE = Path(__file__).with_name("manifest.json")
LORA_SCRIPTS = tuple(
    f"{name}train_network.py" for name in ("", "sdxl_", "sd3_", "flux_", "lumina_", "hunyuan_image_", "anima_")
)
FINETUNE_SCRIPTS = (
    *("fine_tune.py", "train_db.py", "sdxl_train.py"),
    *("sd3_train.py", "flux_train.py", "lumina_train.py", "anima_train.py"),
)
SCRIPTS = (*LORA_SCRIPTS, *FINETUNE_SCRIPTS)
MEANING = ("kind", "default", "choices", "required")
STORED = (*MEANING, "note")
VERSION = re.compile(r"\bVersion (\d+\.\d+\.\d+)\b")
HEX = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parsers of one version."""

    commit: str
    version: str
    """As its README names it."""
    parsers: Mapping[str, Parser]
    """By script."""
    networks: Mapping[str, tuple[str, ...]]
    """Network module -> the network_args that it knows."""
    lycoris: Lycoris


@dataclass(frozen=True, slots=True)
class Difference:
    """What another version of a script does otherwise."""

    kind: Literal["new", "gone", "changed"]
    name: str
    words: str


@cache
def load() -> Manifest:
    """The committed one."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    arguments: dict[str, dict[str, Argument]] = {script: {} for script in stored["scripts"]}
    for group in stored["groups"]:
        for name, parts in group["arguments"].items():
            for script in group["scripts"]:
                arguments[script][name] = _restored(name, group["where"], parts)
    parsers = {script: Parser(script, named) for script, named in arguments.items()}
    algorithms = {name: tuple(taken) for name, taken in stored["lycoris"]["algorithms"].items()}
    networks = {module: tuple(taken) for module, taken in stored["networks"].items()}
    lycoris = Lycoris(stored["lycoris"]["version"], algorithms)
    return Manifest(stored["commit"], stored["version"], parsers, networks, lycoris)


def parser_for(root: Path | None, script: str) -> Parser:
    """Of the checkout where there is one, else of the audited version. Raises UnreadableFile."""
    if root is not None:
        return read_parser(root, script)
    parsers = load().parsers
    if script not in parsers:
        raise UnreadableFile(f"{script} is none of the scripts that are known: {', '.join(parsers)}")
    return parsers[script]


def network_arguments_for(root: Path | None, module: str) -> tuple[str, ...]:
    """Of the checkout where there is one, else of the audited version. Raises UnreadableFile."""
    return load().networks[module] if root is None else read_network_arguments(root, module)


def differences(audited: Parser, theirs: Parser) -> list[Difference]:
    """What a script of another version has more, less or otherwise."""
    found = []
    for name in sorted({*audited.arguments, *theirs.arguments}):
        old, new = audited.arguments.get(name), theirs.arguments.get(name)
        if old is None and new is not None:
            found.append(Difference("new", name, described(new)))
        elif new is None and old is not None:
            found.append(Difference("gone", name, f"was {described(old)}"))
        elif old is not None and new is not None and (words := "; ".join(_changes(old, new))):
            found.append(Difference("changed", name, words))
    return found


def described(argument: Argument) -> str:
    """Its kind, default and choices, in words."""
    words = f"{argument.kind}, default {json.dumps(argument.default)}"
    words += f", one of {', '.join(map(json.dumps, argument.choices))}" if argument.choices else ""
    return words + (", required" if argument.required else "") + (f" ({argument.note})" if argument.note else "")


def _changes(old: Argument, new: Argument) -> list[str]:
    told = []
    for part in MEANING:
        before, after = getattr(old, part), getattr(new, part)
        if part == "choices" and {*before} != {*after}:
            more, less = sorted(map(str, {*after} - {*before})), sorted(map(str, {*before} - {*after}))
            told += [f"choices: +{each}" for each in more] + [f"choices: -{each}" for each in less]
        elif part != "choices" and (before != after or type(before) is not type(after)):
            told.append(f"{part}: {json.dumps(before)} -> {json.dumps(after)}")
    return told


# ------------------------------------------------------------------------------------------------------------ storing


def manifest_of(root: Path, python: str | None) -> Manifest:
    """Of a checkout's training scripts, all of which it must have, and of the LyCORIS of an interpreter."""
    folder = lycoris_folder(python)
    if folder is None:
        raise UnreadableFile("lycoris-lora is not installed: there is nothing to read its algorithms from")
    parsers = {script: read_parser(root, script) for script in SCRIPTS}
    networks = {module: read_network_arguments(root, module) for module in MODULES}
    return Manifest(commit_of(root), version_of(root), parsers, networks, read_lycoris(folder))


def stored(manifest: Manifest) -> str:
    """The text of the file: a line an argument."""
    holders: dict[tuple[str, str, str], list[str]] = {}
    for script, parser in manifest.parsers.items():
        for argument in parser.arguments.values():
            key = (argument.where, argument.name, json.dumps(_parts(argument), ensure_ascii=False))
            holders.setdefault(key, []).append(script)
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (where, name, parts), scripts in holders.items():
        groups.setdefault((where, tuple(scripts)), []).append(f"    {json.dumps(name)}: {parts}")
    told = [_group(where, scripts, lines) for (where, scripts), lines in groups.items()]
    head = {"commit": manifest.commit, "version": manifest.version, "scripts": list(manifest.parsers)}
    opening = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items())
    networks = ",\n".join(f"   {json.dumps(name)}: {json.dumps(taken)}" for name, taken in manifest.networks.items())
    networks = f' "networks": {{\n{networks}\n }},\n'
    lycoris = ",\n".join(f"   {json.dumps(name)}: {json.dumps(taken)}" for name, taken in algorithms_of(manifest))
    ending = f' "lycoris": {{"version": {json.dumps(manifest.lycoris.version)}, "algorithms": {{\n{lycoris}\n }}}}'
    return f'{{\n{opening},\n "groups": [\n' + ",\n".join(told) + f"\n ],\n{networks}{ending}\n}}\n"


def algorithms_of(manifest: Manifest) -> list[tuple[str, tuple[str, ...]]]:
    return list(manifest.lycoris.algorithms.items())


def _group(where: str, scripts: Sequence[str], lines: Sequence[str]) -> str:
    opening = f'  {{"where": {json.dumps(where)},\n   "scripts": {json.dumps(scripts)},\n   "arguments": {{\n'
    return opening + ",\n".join(lines) + "\n   }}"


def _parts(argument: Argument) -> dict[str, Any]:
    """Without what is as usual."""
    parts = {name: getattr(argument, name) for name in STORED}
    usual = {"choices": (), "required": False, "note": "", "default": False if argument.kind == "flag" else None}
    return {name: value for name, value in parts.items() if name == "kind" or not _same(value, usual[name])}


def _same(value: object, usual: object) -> bool:
    return type(value) is type(usual) and value == usual


def _restored(name: str, where: str, parts: Mapping[str, Any]) -> Argument:
    default = parts.get("default", False if parts["kind"] == "flag" else None)
    choices = tuple(parts.get("choices", ()))
    return Argument(name, parts["kind"], default, choices, parts.get("required", False), where, parts.get("note", ""))


def commit_of(root: Path) -> str:
    """Empty for a folder that is no git checkout."""
    git = root / ".git"
    head = _line(git / "HEAD")
    if not head.startswith("ref: "):
        return head if HEX.fullmatch(head) else ""
    name = head.removeprefix("ref: ")
    loose = _line(git / name) if ".." not in name else ""
    packed = re.search(rf"^({HEX.pattern}) {re.escape(name)}$", _text(git / "packed-refs"), re.MULTILINE)
    return loose if HEX.fullmatch(loose) else packed[1] if packed else ""


def version_of(root: Path) -> str:
    """The newest that the README tells of; empty where it tells none."""
    found = VERSION.search(_text(root / "README.md"))
    return found[1] if found else ""


def _line(path: Path) -> str:
    return (_text(path).splitlines() or [""])[0].strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    if len(argv) not in (1, 2):
        sys.stderr.write("python -m pipeline.backends.kohya.manifest ROOT [PYTHON]\n")
        return 2
    try:
        manifest = manifest_of(Path(argv[0]), argv[1] if len(argv) > 1 else os.environ.get("SD_SCRIPTS_PYTHON"))
    except RunError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    write_text(FILE, stored(manifest))
    for script, parser in manifest.parsers.items():
        sys.stdout.write(f"{script:<34}{len(parser.arguments):>4} arguments\n")
    sys.stdout.write(
        f"{FILE.name}: {manifest.version or '?'} ({manifest.commit}), LyCORIS {manifest.lycoris.version}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
