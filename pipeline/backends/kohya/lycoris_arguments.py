"""What lycoris-lora takes as sd-scripts calls it: its algorithms and their `network_args`, read without importing it.

LyCORIS takes any `network_args` and ignores those that it does not know or that an algorithm has no use for.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backends.kohya.constants import Class, Function, Reader
from pipeline.backends.kohya.sources import Modules
from pipeline.errors import UnreadableFile

PACKAGE = "lycoris"
TABLE = "network_module_dict"
ENTRY = "create_network"
GIVEN = {"self", "lora_name", "org_module", "multiplier", "lora_dim", "alpha"}
"""What every module is given beside its arguments."""
OF_THE_NETWORK = ""
"""Instead of an algorithm: arguments that say which layers are trained, and how."""


@dataclass(frozen=True, slots=True)
class Lycoris:
    """One version of it."""

    version: str
    algorithms: Mapping[str, tuple[str, ...]]
    """Algorithm -> network_args that its module names; those of the network itself stand under ''."""

    def differences(self, other: Lycoris) -> list[str]:
        """What another version has more or less."""
        found = []
        for algorithm in sorted({*self.algorithms, *other.algorithms}):
            old, new = {*self.algorithms.get(algorithm, ())}, {*other.algorithms.get(algorithm, ())}
            told = f"algo {algorithm}" if algorithm else "any algo"
            if algorithm not in self.algorithms or algorithm not in other.algorithms:
                found.append(f"{told} is {'new' if algorithm in other.algorithms else 'gone'}")
            else:
                found += [f"{told}: {name} is new" for name in sorted(new - old)]
                found += [f"{told}: {name} is gone" for name in sorted(old - new)]
        return found


def lycoris_folder(python: str | None) -> Path | None:
    """The package in the environment of an interpreter, else in ours; None where neither has it."""
    if python:
        environment = Path(python).parent.parent
        found = sorted(environment.glob(f"lib/python3*/site-packages/{PACKAGE}"))
        found += sorted(environment.glob(f"Lib/site-packages/{PACKAGE}"))
        return next((folder for folder in found if folder.is_dir()), None)
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.origin).parent if spec and spec.origin else None


def read_lycoris(folder: Path) -> Lycoris:
    """Raises UnreadableFile for a package that can't be read as LyCORIS."""
    try:
        return _Reading(folder).told()
    except RecursionError as error:
        raise UnreadableFile(f"{folder}: nested too deeply to be read") from error


class _Reading(Reader):
    def __init__(self, folder: Path) -> None:
        super().__init__(Modules(folder.parent))
        self._folder = folder

    def told(self) -> Lycoris:
        modules = self._found("wrapper", TABLE)
        entry = self._found("kohya", ENTRY)
        known = isinstance(modules, dict) and all(isinstance(each, Class) for each in modules.values())
        if not known or not isinstance(entry, Function):
            raise UnreadableFile(f"{self._folder}: no {TABLE} or no {ENTRY} that can be read")
        reaches = dict(_reached(entry.node))
        parameters = {str(name): _parameters(each.node) for name, each in modules.items()}
        of_modules = {name for taken, _ in parameters.values() for name in taken}
        own = tuple(sorted(name for name, target in reaches.items() if target not in of_modules))
        algorithms = {
            algorithm: tuple(sorted(name for name, target in reaches.items() if target in used))
            for algorithm, (_, used) in parameters.items()
        }
        return Lycoris(version_of(self._folder), {OF_THE_NETWORK: own} | algorithms)

    def _found(self, module: str, name: str) -> Any:
        found = self.modules.find(f"{self._folder.name}.{module}")
        return self.lookup(found, name) if found is not None else None


def _reached(entry: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """(name in network_args, keyword that it becomes); a name that becomes none is the network's own matter."""
    sources: dict[str, set[str]] = {}
    for node in ast.walk(entry):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            sources.setdefault(node.targets[0].id, set()).update(_taken(node.value))
    yield from ((name, "") for name in _taken(entry))
    for node in ast.walk(entry):
        if isinstance(node, ast.keyword) and node.arg:
            local = sources.get(node.value.id, set()) if isinstance(node.value, ast.Name) else set()
            yield from ((name, node.arg) for name in sorted(local | _taken(node.value)))


def _taken(node: ast.AST) -> set[str]:
    """Names that `kwargs.get` asks for."""
    calls = (each for each in ast.walk(node) if isinstance(each, ast.Call) and each.args)
    asked = (each.args[0] for each in calls if ast.unparse(each.func) == "kwargs.get")
    return {each.value for each in asked if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def _parameters(module: ast.ClassDef) -> tuple[set[str], set[str]]:
    """What a module's __init__ takes, and what of it the body names."""
    init = next((each for each in module.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
    if init is None:
        return set(), set()
    taken = {each.arg for each in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)} - GIVEN
    named = {node.id for each in init.body for node in ast.walk(each) if isinstance(node, ast.Name)}
    return taken, taken & named


def version_of(folder: Path) -> str:
    """By the installed distribution beside the package; empty for a mere folder."""
    for info in sorted(folder.parent.glob("lycoris_lora-*.dist-info")):
        found = re.match(r"lycoris_lora-(.+)\.dist-info$", info.name)
        if found:
            return found[1]
    return ""
