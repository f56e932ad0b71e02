"""Python sources that are read and never run: their modules, and what the names in them stand for."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline.errors import UnreadableFile

MAX_BYTES = 4_000_000
MUTATORS = {"append", "extend", "insert", "remove", "pop", "clear", "update", "sort", "reverse", "add", "discard"}


class Unknown(Enum):
    """What only running the source could tell."""

    UNKNOWN = "unknown"


UNKNOWN = Unknown.UNKNOWN


@dataclass(frozen=True, slots=True)
class External:
    """Something that the sources bring in from elsewhere, by its dotted name."""

    name: str


@dataclass(frozen=True, slots=True)
class Binding:
    """One statement of a module that gives a name its meaning."""

    statement: ast.stmt
    alias: ast.alias | None = None
    sure: bool = True
    """Not in a branch, and not a change of what was there before."""


@dataclass(slots=True, eq=False)
class Module:
    """A parsed file."""

    name: str
    """Dotted, from the root."""
    shown: str
    """File, from the root."""
    is_package: bool = False
    bindings: dict[str, Binding] = field(default_factory=dict)
    """The last one of each name."""
    stars: list[ast.ImportFrom] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


class Modules:
    """The modules under a folder, parsed when they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, Module | None] = {}

    def find(self, name: str) -> Module | None:
        """The module of a dotted name; None where the root has none. Raises UnreadableFile for a broken one."""
        if name not in self._known:
            self._known[name] = self._load(name)
        return self._known[name]

    def _load(self, name: str) -> Module | None:
        parts = name.split(".")
        if not all(part.isidentifier() for part in parts):
            return None
        folder = self.root.joinpath(*parts)
        for path, is_package in ((folder / "__init__.py", True), (folder.with_name(f"{folder.name}.py"), False)):
            if path.is_file():
                return parsed(path, path.relative_to(self.root).as_posix(), name, is_package=is_package)
        return Module(name, "/".join(parts), is_package=True) if folder.is_dir() else None

    def imported(self, module: Module, binding: Binding) -> Module | External | tuple[Module | External, str]:
        """What an import statement brings: a module, or a name of one."""
        statement, alias = binding.statement, binding.alias
        assert alias is not None
        if isinstance(statement, ast.ImportFrom):
            return self.source(module, statement), alias.name
        name = alias.name if alias.asname else alias.name.partition(".")[0]
        return self.find(name) or External(name)

    def source(self, module: Module, statement: ast.ImportFrom) -> Module | External:
        """The module of `from ... import`."""
        name = statement.module or ""
        if statement.level:
            package = module.name.split(".") if module.name else []
            kept = len(package) - statement.level + module.is_package
            name = ".".join([*package[: max(kept, 0)], *([name] if name else [])])
        return self.find(name) or External(name)


def parsed_tree(path: Path, shown: str) -> ast.Module:
    """Raises UnreadableFile, with the line, for what is no Python."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableFile(f"{shown}: larger than any source file ({MAX_BYTES} bytes)")
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise UnreadableFile(f"{shown}:{error.lineno or 1}: not Python: {error.msg}") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableFile(f"{shown}:1: can't be read: {error}") from error


def parsed(path: Path, shown: str, name: str, *, is_package: bool = False) -> Module:
    """A module with its bindings. Raises UnreadableFile, with the line, for what is no Python."""
    tree = parsed_tree(path, shown)
    module = Module(name, shown, is_package)
    module.stars = [each for each in tree.body if isinstance(each, ast.ImportFrom) and each.names[0].name == "*"]
    for bound, binding in bindings(tree.body, sure=True):
        module.bindings[bound] = binding
    changed = (name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names)
    for bound in changed:
        module.bindings[bound] = Binding(tree.body[0], sure=False)
    return module


def bindings(body: list[ast.stmt], *, sure: bool) -> Iterator[tuple[str, Binding]]:
    """Names that statements bind or change, in their order; those of branches are not sure."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield bound, Binding(statement, alias, sure)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name, Binding(statement, sure=sure)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            yield from ((name, Binding(statement, sure=sure)) for name in stored(statement))
            yield from ((name, Binding(statement, sure=False)) for name in changed_by(statement))
        else:
            yield from ((name, Binding(statement, sure=False)) for name in (*stored(statement), *changed_by(statement)))
            yield from (each for block in blocks(statement) for each in bindings(block, sure=False))


def blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The bodies of a compound statement."""
    for name in ("body", "orelse", "finalbody"):
        yield getattr(statement, name, [])
    for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
        yield part.body


def stored(node: ast.AST) -> list[str]:
    """Names that are assigned in a statement or below it, functions and imports included."""
    found = []
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load):
            found.append(child.id)
        elif isinstance(child, ast.FunctionDef | ast.ClassDef):
            found.append(child.name)
        elif isinstance(child, ast.alias):
            found.append(child.asname or child.name.partition(".")[0])
    return found


def changed_by(statement: ast.stmt) -> list[str]:
    """Names whose list or mapping a statement changes in place."""
    found = []
    for child in ast.walk(statement):
        if isinstance(child, ast.Attribute) and child.attr in MUTATORS and isinstance(child.value, ast.Name):
            found.append(child.value.id)
        if isinstance(child, ast.Subscript) and not isinstance(child.ctx, ast.Load):
            found += [child.value.id] if isinstance(child.value, ast.Name) else []
    return found
