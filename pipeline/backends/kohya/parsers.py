"""What a script of sd-scripts takes, read from a checkout without running any of it.

The script's `setup_parser` is followed statement by statement, into the functions of the checkout that it calls, as
far as its `add_argument` calls need it. A condition on constants is decided. What can't be decided is said: an
argument of kind "other" with a note, or UnreadableFile with file and line where the whole parser is in doubt.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from pipeline.backends.kohya.arguments import Argument, Kind, Parser, Value
from pipeline.backends.kohya.constants import (
    CONSTANTS,
    Class,
    Function,
    Given,
    Member,
    Method,
    Reader,
    Scope,
    place,
    spoil,
    truth,
)
from pipeline.backends.kohya.sources import UNKNOWN, Binding, External, Module, Modules, stored
from pipeline.errors import UnreadableFile

ENTRY = "setup_parser"
MAX_DEPTH = 15
ADDING = {"add_argument", "add_argument_group", "add_mutually_exclusive_group", "set_defaults", "add_subparsers"}
HARMLESS = {
    "parse_args",
    "parse_known_args",
    "print_help",
    "print_usage",
    "format_help",
    "format_usage",
    "error",
    "exit",
}
TEXTS = {"prog", "usage", "description", "epilog", "formatter_class"}
TYPES: dict[str, Kind] = {
    **{"builtins.str": "str", "pathlib.Path": "str", "builtins.int": "int", "builtins.float": "float"},
    "builtins.bool": "flag",
}
LISTS: dict[Kind, Kind] = {"str": "list[str]", "int": "list[int]", "float": "list[float]"}


@dataclass(slots=True, eq=False)
class Built:
    """A parser as it is being built; its groups are the same to us."""

    arguments: dict[str, Argument] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Left:
    """How a block was left before its end."""

    by: type[ast.stmt]
    value: Any = None


def read_parser(root: Path, script: str) -> Parser:
    """The script's own parser. Raises UnreadableFile for what can't be read or followed."""
    if Path(script).name != script or not script.endswith(".py"):
        raise UnreadableFile(f"{script} is not the name of a script")
    walk = Walk(Modules(root))
    try:
        return Parser(script, walk.built(script).arguments)
    except RecursionError as error:
        raise UnreadableFile(f"{root / script}: nested too deeply to be read") from error


class Walk(Reader):
    """Follows a script's functions while they build its parser."""

    def built(self, script: str) -> Built:
        module = self.modules.find(script.removesuffix(".py"))
        if module is None or module.is_package:
            raise UnreadableFile(f"{self.modules.root} has no {script}: is it a checkout of sd-scripts?")
        function = self.lookup(module, ENTRY)
        if not isinstance(function, Function):
            raise UnreadableFile(f"{script}:1: no {ENTRY} that can be read")
        parser = self._follow(function, Given(), function.node, Scope(module))
        if not isinstance(parser, Built):
            self.fail(function.node, function.scope, f"{ENTRY} returns what can't be told to be a parser")
        return parser

    # ------------------------------------------------------------------------------------------------------- calls

    def member(self, owner: Any, name: str) -> Any:
        inside = isinstance(owner, Built | Method) and self._carries(owner)
        return Method(owner, name) if inside or name in ADDING else super().member(owner, name)

    def called(self, function: Any, given: Given, node: ast.Call, scope: Scope) -> Any:
        if isinstance(function, Method) and isinstance(function.owner, Built):
            return self._on_parser(function.owner, function.name, given, node, scope)
        if isinstance(function, Method) and function.name in ADDING:
            return self._unknown_parser(function, given, node, scope)
        if isinstance(function, External) and function.name == "argparse.ArgumentParser":
            return self._new_parser(given, node, scope)
        if isinstance(function, Function):
            return self._follow(function, given, node, scope)
        if isinstance(function, External) and function.name in ("builtins.exec", "builtins.eval"):
            self.fail(node, scope, f"runs text by {function.name.rpartition('.')[2]}")
        listed = isinstance(function, Method) and isinstance(function.owner, list) and not self.conditions
        kept = listed and function.name in ("append", "extend")
        if not kept and any(self._carries(value) for value in (function, *given.all())):
            self.fail(node, scope, f"gives its parser to {ast.unparse(node.func)[:80]}, which can't be followed")
        return super().called(function, given, node, scope)

    def _unknown_parser(self, method: Method, given: Given, node: ast.Call, scope: Scope) -> Any:
        owner = method.owner
        if isinstance(owner, Module | Class):
            found = super().member(owner, method.name)
            return self.called(found, given, node, scope) if isinstance(found, Function) else UNKNOWN
        return self.fail(node, scope, f"can't tell which parser {ast.unparse(node.func)[:80]} is of")

    def _new_parser(self, given: Given, node: ast.Call, scope: Scope) -> Any:
        """UNKNOWN for one of a module, since its other statements are not followed."""
        if not scope.function:
            return UNKNOWN
        parents = self.items(given.named.get("parents", []))
        if not given.whole or parents is None or given.named.get("argument_default") is not None:
            self.fail(node, scope, "begins with arguments or defaults that can't be told")
        parser = Built()
        for parent in parents:
            if not isinstance(parent, Built):
                self.fail(node, scope, "has a parent that can't be told")
            parser.arguments |= parent.arguments
            parser.defaults |= parent.defaults
        return parser

    def _on_parser(self, parser: Built, name: str, given: Given, node: ast.Call, scope: Scope) -> Any:
        if name in ("add_argument_group", "add_mutually_exclusive_group"):
            return parser
        if name in HARMLESS:
            return UNKNOWN
        if not given.whole:
            self.fail(node, scope, f"what {name} is given can't be told")
        if name == "add_argument":
            return self._add(parser, given, node, scope)
        if name == "set_defaults":
            return self._set_defaults(parser, given, node, scope)
        return self.fail(node, scope, f"can't follow the parser's {name}")

    def _follow(self, function: Function, given: Given, node: ast.AST, scope: Scope) -> Any:
        """Runs through the body of a function of the checkout."""
        inner = Scope(function.scope.module, function.node.name, outer=function.scope, depth=scope.depth + 1)
        given_parser = any(self._carries(value) for value in given.all())
        if inner.depth > MAX_DEPTH:
            return self.fail(node, scope, "calls go too deep to be followed") if given_parser else UNKNOWN
        bound = self._bind(function, given)
        if bound is None or any(isinstance(each, ast.Yield | ast.YieldFrom) for each in ast.walk(function.node)):
            return self.fail(node, scope, f"can't follow {function.node.name}") if given_parser else UNKNOWN
        inner.names |= bound
        left = self.run(function.node.body, inner)
        return left.value if left and left.by is ast.Return else None if left is None else UNKNOWN

    def _bind(self, function: Function, given: Given) -> dict[str, Any] | None:
        """Parameters with what they are given; None for a call that would fail."""
        takes = function.node.args
        positional = [each.arg for each in (*takes.posonlyargs, *takes.args)]
        names = [*positional, *(each.arg for each in takes.kwonlyargs)]
        bound = dict.fromkeys(names, UNKNOWN) | self._defaults(takes, positional, function.scope)
        bound |= dict(zip(positional, given.values, strict=False))
        bound |= {name: value for name, value in given.named.items() if name in names}
        rest, other = given.values[len(positional) :], {k: v for k, v in given.named.items() if k not in names}
        if (rest and not takes.vararg) or (other and not takes.kwarg):
            return None
        more = {takes.vararg.arg: tuple(rest)} if takes.vararg else {}
        others = {takes.kwarg.arg: other} if takes.kwarg else {}
        unsure = {} if given.whole else dict.fromkeys({*names, *more, *others} - set(given.named), UNKNOWN)
        return {**bound, **more, **others, **unsure}

    def _defaults(self, takes: ast.arguments, positional: list[str], scope: Scope) -> dict[str, Any]:
        """Of the parameters that have one."""
        last = positional[len(positional) - len(takes.defaults) :]
        found = dict(zip(last, takes.defaults, strict=True))
        found |= {
            each.arg: default
            for each, default in zip(takes.kwonlyargs, takes.kw_defaults, strict=True)
            if default is not None
        }
        return {name: self.value(default, scope) for name, default in found.items()}

    # -------------------------------------------------------------------------------------------------- statements

    def run(self, body: Sequence[ast.stmt], scope: Scope) -> Left | None:
        """Follows statements; says how they were left before their end."""
        for statement in body:
            self.step(statement, scope)
            left = self._statement(statement, scope)
            if left is not None:
                return left
        return None

    def _statement(self, node: ast.stmt, scope: Scope) -> Left | None:
        followed = self._STATEMENTS.get(type(node))
        if followed is not None:
            return followed(self, node, scope)
        self.strange(node, scope)
        for name in stored(node):
            scope.names[name] = UNKNOWN
        return None

    def strange(self, node: ast.expr | ast.stmt, scope: Scope) -> Any:
        """What is not understood is passed over, unless it works on a parser."""
        if self._mentions(node, scope):
            self.fail(node, scope, f"can't follow what it does with its parser: {ast.unparse(node)[:80]}")
        return UNKNOWN

    def _expression(self, node: ast.Expr, scope: Scope) -> None:
        self.value(node.value, scope)

    def _assign(self, node: ast.Assign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        for target in node.targets:
            if isinstance(target, ast.Attribute | ast.Subscript):
                self._put(node, target, value, scope)
            else:
                self.assign(target, value, scope)

    def _put(self, node: ast.Assign, target: ast.Attribute | ast.Subscript, value: Any, scope: Scope) -> None:
        """Assigns to a part of something."""
        owner = self.value(target.value, scope)
        told = isinstance(owner, Built) and isinstance(target, ast.Attribute) and target.attr in TEXTS
        if self._carries(value) or (self._carries(owner) and not told):
            self.fail(node, scope, f"can't follow what it does with its parser: {ast.unparse(node)[:80]}")
        if isinstance(target, ast.Subscript):
            spoil(owner)

    def _annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self._assign(ast.copy_location(ast.Assign([node.target], node.value), node), scope)

    def _changed(self, node: ast.AugAssign, scope: Scope) -> None:
        """`+=` of a local name; a list grows in place."""
        name = node.target
        if not isinstance(name, ast.Name) or self.conditions:
            spoil(self.value(name, scope))
            self.strange(node, scope)
            scope.names |= dict.fromkeys(stored(node), UNKNOWN)
            return
        loaded = ast.copy_location(ast.Name(name.id, ast.Load()), node)
        old = self.value(loaded, scope)
        new = self.value(ast.copy_location(ast.BinOp(loaded, node.op, node.value), node), scope)
        spoil(old)
        scope.names[name.id] = new

    def _if(self, node: ast.If, scope: Scope) -> Left | None:
        known = truth(self.value(node.test, scope))
        if known is not None:
            return self.run(node.body if known else node.orelse, scope)
        return self._undecided(node, (node.body, node.orelse), f"if {ast.unparse(node.test)[:60]}", scope)

    def _try(self, node: ast.Try, scope: Scope) -> Left | None:
        bodies = (node.body, *(each.body for each in node.handlers), node.orelse, node.finalbody)
        return self._undecided(node, bodies, "try", scope)

    def _undecided(self, node: ast.stmt, bodies: Sequence[list[ast.stmt]], told: str, scope: Scope) -> Left | None:
        """Any of the bodies may run: what they add is noted, what they assign is lost."""
        self.conditions.append(f"{told} ({place(node, scope)})")
        ways = [left for body in bodies if (left := self.run(body, scope)) and left.by is not ast.Raise]
        self.conditions.pop()
        holds = any(self._carries(value) for value in scope.names.values())
        if ways and (holds or any(self._carries(left.value) for left in ways)):
            self.fail(node, scope, f"whether it ends here can't be told: {told}")
        for name in stored(node):
            if self._carries(scope.names.get(name)):
                self.fail(node, scope, f"which parser {name} is can't be told: {told}")
            scope.names[name] = UNKNOWN
        return Left(ast.Return, UNKNOWN) if ways else None

    def _for(self, node: ast.For, scope: Scope) -> Left | None:
        items = self.items(self.value(node.iter, scope))
        if items is None:
            self.strange(node, scope)
            scope.names |= dict.fromkeys(stored(node), UNKNOWN)
            return None
        for item in items:
            self.assign(node.target, item, scope)
            left = self.run(node.body, scope)
            if left is not None and left.by is ast.Break:
                return None
            if left is not None and left.by is not ast.Continue:
                return left
        return self.run(node.orelse, scope)

    def _with(self, node: ast.With, scope: Scope) -> Left | None:
        for each in node.items:
            value = self.value(each.context_expr, scope)
            if self._carries(value):
                self.fail(node, scope, "can't follow its parser into a with statement")
            if each.optional_vars is not None:
                self.assign(each.optional_vars, UNKNOWN, scope)
        return self.run(node.body, scope)

    def _return(self, node: ast.Return, scope: Scope) -> Left:
        return Left(ast.Return, self.value(node.value, scope) if node.value else None)

    def _leave(self, node: ast.stmt, _scope: Scope) -> Left:
        return Left(type(node), UNKNOWN)

    def _define(self, node: ast.FunctionDef | ast.ClassDef, scope: Scope) -> None:
        scope.names[node.name] = self.defined(Binding(node), scope)

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            scope.names[bound] = self.defined(Binding(node, alias), scope)

    def _nothing(self, _node: ast.stmt, _scope: Scope) -> None:
        """`pass` and the like."""

    _STATEMENTS: ClassVar[dict[type[ast.stmt], Callable[[Walk, Any, Scope], Left | None]]] = {
        **{ast.Expr: _expression, ast.Assign: _assign, ast.AnnAssign: _annotated, ast.AugAssign: _changed},
        **{ast.If: _if, ast.Try: _try, ast.For: _for, ast.With: _with, ast.Return: _return, ast.Raise: _leave},
        **{ast.Break: _leave, ast.Continue: _leave, ast.FunctionDef: _define, ast.ClassDef: _define},
        **{ast.Import: _import, ast.ImportFrom: _import, ast.Pass: _nothing, ast.Global: _nothing},
    }

    # ----------------------------------------------------------------------------------------------- where parsers are

    def _mentions(self, node: ast.AST, scope: Scope) -> bool:
        """Whether it names a parser, or adds to one."""
        for child in ast.walk(node):
            self.step(node, scope)
            if isinstance(child, ast.Attribute) and child.attr in ADDING:
                return True
            if isinstance(child, ast.Name) and self._carries(self._local(child.id, scope)):
                return True
        return False

    @staticmethod
    def _local(name: str, scope: Scope) -> Any:
        around: Scope | None = scope
        while around is not None and name not in around.names:
            around = around.outer
        return UNKNOWN if around is None else around.names[name]

    def _carries(self, value: Any) -> bool:
        """Whether a parser can be reached through the value."""
        seen: set[int] = set()
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, Built):
                return True
            if id(value) not in seen:
                seen.add(id(value))
                waiting += self._within(value)
        return False

    def _within(self, value: Any) -> list[Any]:
        """What can be reached through a value in one step."""
        if isinstance(value, Method):
            return [value.owner]
        if isinstance(value, list | tuple | dict):
            self.work += len(value)
            return list(value.values()) if isinstance(value, dict) else list(value)
        if isinstance(value, Function) and value.scope.function:
            nodes = list(ast.walk(value.node))
            self.work += len(nodes)
            return [self._local(node.id, value.scope) for node in nodes if isinstance(node, ast.Name)]
        return []

    # --------------------------------------------------------------------------------------------------- arguments

    def _set_defaults(self, parser: Built, given: Given, node: ast.Call, scope: Scope) -> None:
        for name, value in given.named.items():
            parser.defaults[name] = UNKNOWN if self.conditions else value
            if name in parser.arguments:
                old = parser.arguments[name]
                parser.arguments[name] = self._with_default(old, parser.defaults[name], node, scope)

    def _with_default(self, argument: Argument, value: Any, node: ast.Call, scope: Scope) -> Argument:
        told = plain(value)
        if told is UNKNOWN:
            note = f"the default can't be told ({place(node, scope)})"
            return replace(argument, default=None, note=noted(argument.note, note))
        return replace(argument, default=cast(Value, told))

    def _add(self, parser: Built, given: Given, node: ast.Call, scope: Scope) -> Any:
        """Adds the argument of one call. What the call returns holds the parser: a change of it can't be followed."""
        name = self._name_of(given, node, scope)
        if name is None:
            return None
        where = f"{scope.module.shown}:{scope.function}"
        kind, choices, note = self._kind(given.named), plain_list(self, given.named.get("choices", [])), ""
        if kind == "other":
            note = f"what it takes can't be told ({place(node, scope)})"
        if choices is None:
            kind, choices, note = "other", [], f"its choices can't be told ({place(node, scope)})"
        if self.conditions:
            kind, note = "other", noted(note, f"only {'; '.join(self.conditions)}")
        required = self._required(given)
        if required is None:
            required, note = False, noted(note, f"whether it is required can't be told ({place(node, scope)})")
        argument = Argument(name, kind, None, tuple(choices), required, where, note)
        default = given.named.get("default", parser.defaults.get(name, usual_default(given.named)))
        parser.arguments[name] = self._with_default(argument, default, node, scope)
        return Method(parser, "add_argument")

    def _name_of(self, given: Given, node: ast.Call, scope: Scope) -> str | None:
        """Its destination; None for an argument that holds no value."""
        options, given_name = given.values, given.named.get("dest")
        action = given.named.get("action")
        if action in ("help", "version"):
            return None
        known = bool(options) and all(isinstance(each, str) and each for each in options)
        if not (known or (not options and isinstance(given_name, str))) or given_name is UNKNOWN:
            self.fail(node, scope, "the name of an argument can't be told")
        if isinstance(given_name, str):
            return given_name
        long = [each for each in options if each.startswith("--")]
        return str((long or options)[0]).lstrip("-").replace("-", "_")

    @staticmethod
    def _required(given: Given) -> bool | None:
        if given.values and not given.values[0].startswith("-"):
            return given.named.get("nargs") not in ("?", "*")
        return truth(given.named.get("required", False))

    def _kind(self, named: dict[str, Any]) -> Kind:
        action = named.get("action", "store")
        if action in ("store_true", "store_false"):
            return "flag" if action == "store_true" else "off_flag"
        if action == External("argparse.BooleanOptionalAction"):
            return "flag"
        single = self._single(named.get("type"))
        if action in ("append", "extend") or action == "count":
            plain_ones = action == "extend" or named.get("nargs") is None
            return "int" if action == "count" else LISTS.get(single, "other") if plain_ones else "other"
        return _counted(single, named.get("nargs")) if action == "store" else "other"

    def _single(self, kind: Any) -> Kind:
        """Of one value, by the `type` that makes it."""
        if kind is None:
            return "str"
        if isinstance(kind, External):
            return TYPES.get(kind.name, "other")
        return self._returned(kind) if isinstance(kind, Function) else "other"

    def _returned(self, function: Function) -> Kind:
        """Of a function that makes numbers; what one does to a text can't be told."""
        inner = Scope(function.scope.module, function.node.name, outer=function.scope)
        found = {self._number(node.value, inner) for node in ast.walk(function.node) if isinstance(node, ast.Return)}
        if found == {"int", "float"}:
            return "int_or_float"
        return cast(Kind, found.pop()) if len(found) == 1 else "other"

    def _number(self, node: ast.expr | None, scope: Scope) -> str:
        if isinstance(node, ast.BinOp):
            sides = {self._number(node.left, scope), self._number(node.right, scope)}
            floats = isinstance(node.op, ast.Div) or "float" in sides
            return "other" if "other" in sides else "float" if floats else "int"
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return type(node.value).__name__
        maker = self.value(node.func, scope) if isinstance(node, ast.Call) else UNKNOWN
        names = {External("builtins.int"): "int", External("builtins.float"): "float"}
        return names.get(maker, "other") if isinstance(maker, External) else "other"


def _counted(single: Kind, count: Any) -> Kind:
    if count is None:
        return single
    if count == "?":
        return "optional_str" if single == "str" else "other"
    return LISTS.get(single, "other") if count in ("*", "+") else "other"


def usual_default(named: dict[str, Any]) -> Any:
    """What argparse takes without a default."""
    return {"store_true": False, "store_false": True}.get(str(named.get("action")))


def plain(value: Any) -> Any:
    """A default as a TOML could hold it; UNKNOWN for any other."""
    if isinstance(value, Member):
        return value.value if value.alike and isinstance(value.value, CONSTANTS) else UNKNOWN
    if value == External("argparse.SUPPRESS"):
        return None
    if isinstance(value, list | tuple):
        return list(value) if all(isinstance(each, str | int | float) for each in value) else UNKNOWN
    return value if isinstance(value, CONSTANTS) else UNKNOWN


def plain_list(reader: Reader, value: Any) -> list[Any] | None:
    """Choices; None for what can't be told."""
    if value is None:
        return []
    items = reader.items(value)
    told = [plain(each) for each in items] if items is not None else [UNKNOWN]
    return told if all(isinstance(each, CONSTANTS) for each in told) else None


def noted(note: str, more: str) -> str:
    """Both, where there are two."""
    return f"{note}; {more}" if note else more
