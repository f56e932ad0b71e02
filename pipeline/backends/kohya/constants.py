"""What an expression of a source stands for, as far as that can be told without running it.

A value is a constant of Python, a container of values, or one of the records here; what only running the source
could tell is UNKNOWN, and so is everything that is made of it.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Never

from pipeline.backends.kohya.sources import MUTATORS, UNKNOWN, Binding, External, Module, Modules
from pipeline.errors import UnreadableFile

MAX_STEPS = 400_000
MAX_ITEMS = 2_000
MAX_TEXT = 10_000
MAX_NUMBER = 10**15
CONSTANTS = (str, int, float, bool, type(None))
READING = {"keys", "values", "items", "copy", "lower", "upper", "strip"}
"""Methods that change nothing, and are called for what they return."""
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul},
    **{ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod},
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Is: operator.is_, ast.IsNot: operator.is_not},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.In: lambda item, among: item in among, ast.NotIn: lambda item, among: item not in among},
}
BUILTINS: dict[str, Callable[..., Any]] = {
    **{"builtins.list": list, "builtins.tuple": tuple, "builtins.sorted": sorted, "builtins.len": len},
    **{"builtins.str": str, "builtins.int": int, "builtins.float": float, "typing.get_args": tuple},
    **{"builtins.enumerate": lambda items: list(enumerate(items)), "builtins.set": lambda items: list(set(items))},
}


@dataclass(slots=True, eq=False)
class Scope:
    """The names of a call, of the function around it, and of its module."""

    module: Module
    function: str = ""
    names: dict[str, Any] = field(default_factory=dict)
    outer: Scope | None = None
    depth: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function of the sources, with the names around it."""

    node: ast.FunctionDef
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Class:
    """A class of the sources."""

    node: ast.ClassDef
    scope: Scope


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an enumeration."""

    name: str
    value: Any
    alike: bool
    """It equals its value, as a text's or a number's does."""


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A method of a value, not called yet."""

    owner: Any
    name: str


@dataclass(slots=True)
class Given:
    """What a call is given."""

    values: list[Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)
    whole: bool = True
    """False: there is more that can't be told."""

    def all(self) -> list[Any]:
        return [*self.values, *self.named.values()]


class Reader:
    """Tells values. Its work is bounded, so that no source can keep it busy."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self.conditions: list[str] = []
        """Undecided conditions under which the statement at hand would run."""
        self.work = 0
        """Steps so far."""
        self._looking: set[tuple[str, str]] = set()
        self._readers: dict[type[ast.expr], Callable[[Any, Scope], Any]] = {
            **{ast.Constant: self._constant, ast.Name: self._name, ast.Attribute: self._attribute},
            **{ast.List: self._list, ast.Tuple: self._tuple, ast.Set: self._list, ast.Dict: self._dict},
            **{ast.Call: self._call, ast.BinOp: self._binary, ast.UnaryOp: self._unary, ast.Compare: self._compare},
            **{ast.BoolOp: self._either, ast.IfExp: self._choice, ast.Subscript: self._item},
            **{ast.ListComp: self._comprehension, ast.JoinedStr: self._joined, ast.NamedExpr: self._named},
        }

    def value(self, node: ast.expr, scope: Scope) -> Any:
        """What the expression stands for."""
        self.step(node, scope)
        reader = self._readers.get(type(node))
        return reader(node, scope) if reader else self.strange(node, scope)

    def step(self, node: ast.AST, scope: Scope) -> None:
        """Counts the work."""
        self.work += 1
        if self.work > MAX_STEPS:
            self.fail(node, scope, "there is no end to it")

    def fail(self, node: ast.AST, scope: Scope, reason: str) -> Never:
        """Ends the reading, with file and line."""
        raise UnreadableFile(f"{place(node, scope)}: {reason}")

    def strange(self, _node: ast.expr | ast.stmt, _scope: Scope) -> Any:
        """What is not understood."""
        return UNKNOWN

    # ------------------------------------------------------------------------------------------------------- names

    def lookup(self, module: Module, name: str) -> Any:
        """A module's own name. UNKNOWN where it has none or may have several."""
        if name in module.values:
            return module.values[name]
        if (module.name, name) in self._looking:
            return UNKNOWN
        self._looking.add((module.name, name))
        try:
            module.values[name] = self._bound(module, name)
        finally:
            self._looking.discard((module.name, name))
        return module.values[name]

    def _bound(self, module: Module, name: str) -> Any:
        binding = module.bindings.get(name)
        if binding is None:
            starred = (self.modules.source(module, each) for each in reversed(module.stars))
            found = (self.lookup(each, name) for each in starred if isinstance(each, Module) and name[0] != "_")
            known = next((value for value in found if value is not UNKNOWN), UNKNOWN)
            submodule = self.modules.find(f"{module.name}.{name}") if module.is_package else None
            return submodule if known is UNKNOWN and submodule else known
        return self.defined(binding, Scope(module)) if binding.sure else UNKNOWN

    def defined(self, binding: Binding, scope: Scope) -> Any:
        """What a statement makes of the name that it binds."""
        statement = binding.statement
        if binding.alias is not None:
            return self._imported(self.modules.imported(scope.module, binding))
        if isinstance(statement, ast.FunctionDef):
            return UNKNOWN if statement.decorator_list else Function(statement, scope)
        if isinstance(statement, ast.ClassDef):
            return UNKNOWN if statement.decorator_list else Class(statement, scope)
        if isinstance(statement, ast.Assign) and all(isinstance(each, ast.Name) for each in statement.targets):
            return self.value(statement.value, scope)
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            return self.value(statement.value, scope)
        return UNKNOWN

    def _imported(self, found: Module | External | tuple[Module | External, str]) -> Any:
        if not isinstance(found, tuple):
            return found
        source, name = found
        return self.member(source, name)

    def member(self, owner: Any, name: str) -> Any:
        """An attribute of a value."""
        if isinstance(owner, External):
            return External(f"{owner.name}.{name}")
        if isinstance(owner, Module):
            return self.lookup(owner, name)
        if isinstance(owner, Class):
            return self._of_class(owner, name)
        if isinstance(owner, Member) and name in ("name", "value"):
            return owner.name if name == "name" else owner.value
        return Method(owner, name) if isinstance(owner, str | list | dict) else UNKNOWN

    def _of_class(self, owner: Class, name: str) -> Any:
        if self.is_enum(owner):
            return next((each for each in self.members(owner) if each.name == name), UNKNOWN)
        found = [each for each in owner.node.body if name in _targets(each)]
        return self.defined(Binding(found[-1]), owner.scope) if found else UNKNOWN

    def is_enum(self, owner: Class) -> bool:
        bases = [self.value(base, owner.scope) for base in owner.node.bases]
        return any(isinstance(base, External) and base.name.startswith("enum.") for base in bases)

    def members(self, owner: Class) -> list[Member]:
        """Of an enumeration."""
        bases = {ast.unparse(base).rpartition(".")[2] for base in owner.node.bases}
        alike = bool(bases & {"StrEnum", "IntEnum", "str", "int"})
        named = [(name, each) for each in owner.node.body for name in _targets(each) if isinstance(each, ast.Assign)]
        return [Member(name, self.defined(Binding(each), owner.scope), alike) for name, each in named]

    # ------------------------------------------------------------------------------------------------- expressions

    def _constant(self, node: ast.Constant, _scope: Scope) -> Any:
        return node.value if isinstance(node.value, CONSTANTS) else UNKNOWN

    def _name(self, node: ast.Name, scope: Scope) -> Any:
        around: Scope | None = scope
        while around is not None:
            if node.id in around.names:
                return around.names[node.id]
            around = around.outer
        if node.id in scope.module.bindings or scope.module.stars:
            found = self.lookup(scope.module, node.id)
            if found is not UNKNOWN or node.id in scope.module.bindings:
                return found
        return External(f"builtins.{node.id}")

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Any:
        return self.member(self.value(node.value, scope), node.attr)

    def _list(self, node: ast.List | ast.Tuple | ast.Set, scope: Scope) -> list[Any]:
        values: list[Any] = []
        for each in node.elts:
            if isinstance(each, ast.Starred):
                items = self.items(self.value(each.value, scope))
                values += [UNKNOWN] if items is None else items
            else:
                values.append(self.value(each, scope))
        return values if len(values) <= MAX_ITEMS else [UNKNOWN]

    def _tuple(self, node: ast.Tuple, scope: Scope) -> tuple[Any, ...]:
        return tuple(self._list(node, scope))

    def _dict(self, node: ast.Dict, scope: Scope) -> Any:
        made: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            told = self.value(value, scope)
            name = UNKNOWN if key is None else self.value(key, scope)
            if key is None and isinstance(told, dict):
                made |= told
            elif isinstance(name, CONSTANTS):
                made[name] = told
            else:
                return UNKNOWN
        return made

    def _binary(self, node: ast.BinOp, scope: Scope) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        numbers = all(isinstance(each, int | float) and abs(each) < MAX_NUMBER for each in (left, right))
        joined = isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, str | list | tuple)
        if not (numbers or joined) or type(node.op) not in ARITHMETIC:
            return UNKNOWN
        if joined:
            self.work += len(right)
        if joined and len(left) + len(right) > MAX_ITEMS:
            return UNKNOWN
        return attempted(ARITHMETIC[type(node.op)], left, right)

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> Any:
        value = self.value(node.operand, scope)
        if isinstance(node.op, ast.Not):
            known = truth(value)
            return UNKNOWN if known is None else not known
        return -value if isinstance(node.op, ast.USub) and isinstance(value, int | float) else UNKNOWN

    def _compare(self, node: ast.Compare, scope: Scope) -> Any:
        left = self.value(node.left, scope)
        for comparison, each in zip(node.ops, node.comparators, strict=True):
            right = self.value(each, scope)
            told = _compared(type(comparison), left, right)
            if told is not True:
                return told
            left = right
        return True

    def _either(self, node: ast.BoolOp, scope: Scope) -> Any:
        """`and`, `or`: the first that decides."""
        value = UNKNOWN
        for each in node.values:
            value = self.value(each, scope)
            known = truth(value)
            if known is None or known is isinstance(node.op, ast.Or):
                return UNKNOWN if known is None else value
        return value

    def _choice(self, node: ast.IfExp, scope: Scope) -> Any:
        known = truth(self.value(node.test, scope))
        if known is None:
            return self.strange(node, scope)
        return self.value(node.body if known else node.orelse, scope)

    def _item(self, node: ast.Subscript, scope: Scope) -> Any:
        owner, key = self.value(node.value, scope), self.value(node.slice, scope)
        if isinstance(owner, External) and owner.name.endswith(".Literal"):
            return key if isinstance(key, tuple) else (key,)
        if isinstance(owner, str | list | tuple | dict) and isinstance(key, CONSTANTS) and decided(owner):
            return attempted(operator.getitem, owner, key)
        return UNKNOWN

    def _comprehension(self, node: ast.ListComp, scope: Scope) -> Any:
        """With one loop, and nothing that can't be told."""
        loop = node.generators[0]
        items = self.items(self.value(loop.iter, scope))
        if len(node.generators) > 1 or items is None or not isinstance(loop.target, ast.Name | ast.Tuple):
            return self.strange(node, scope)
        inner = Scope(scope.module, scope.function, outer=scope, depth=scope.depth)
        made = []
        for item in items:
            self.assign(loop.target, item, inner)
            kept = [truth(self.value(test, inner)) for test in loop.ifs]
            if None in kept:
                return self.strange(node, scope)
            if all(kept):
                made.append(self.value(node.elt, inner))
        return made

    def _joined(self, node: ast.JoinedStr, scope: Scope) -> Any:
        parts = []
        for each in node.values:
            plain = isinstance(each, ast.FormattedValue) and each.conversion == -1 and each.format_spec is None
            part = self.value(each.value, scope) if isinstance(each, ast.FormattedValue) else self.value(each, scope)
            if not isinstance(part, CONSTANTS) or not (plain or isinstance(each, ast.Constant)):
                return UNKNOWN
            parts.append(str(part))
        return "".join(parts) if sum(map(len, parts)) <= MAX_TEXT else UNKNOWN

    def _named(self, node: ast.NamedExpr, scope: Scope) -> Any:
        value = self.value(node.value, scope)
        self.assign(node.target, value, scope)
        return value

    def assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        """Binds names in the scope."""
        if isinstance(target, ast.Name):
            scope.names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            items = self.items(value)
            fits = items is not None and len(items) == len(target.elts)
            for number, each in enumerate(target.elts):
                self.assign(each, items[number] if items is not None and fits else UNKNOWN, scope)
        elif isinstance(target, ast.Subscript):
            spoil(self.value(target.value, scope))

    def items(self, value: Any) -> list[Any] | None:
        """What a loop over it meets; None where that can't be told."""
        if isinstance(value, list | tuple | dict | str):
            self.work += len(value)
            return list(value) if decided(value) else None
        return [*self.members(value)] if isinstance(value, Class) and self.is_enum(value) else None

    # ------------------------------------------------------------------------------------------------------- calls

    def _call(self, node: ast.Call, scope: Scope) -> Any:
        function = self.value(node.func, scope)
        return self.called(function, self.given(node, scope), node, scope)

    def given(self, node: ast.Call, scope: Scope) -> Given:
        """The arguments of a call; `help` texts are nobody's matter."""
        given = Given()
        for each in node.args:
            value = self.value(each.value if isinstance(each, ast.Starred) else each, scope)
            items = self.items(value) if isinstance(each, ast.Starred) else [value]
            given.whole = given.whole and items is not None
            given.values += items or []
        for keyword in node.keywords:
            value = UNKNOWN if keyword.arg == "help" else self.value(keyword.value, scope)
            more: Any = value if keyword.arg is None else {keyword.arg: value}
            if isinstance(more, dict) and all(isinstance(name, str) for name in more):
                given.named |= more
            else:
                given.whole = False
        return given

    def called(self, function: Any, given: Given, _node: ast.Call, _scope: Scope) -> Any:
        """What a call returns."""
        if isinstance(function, Method):
            return self._method(function, given)
        if isinstance(function, External) and function.name == "builtins.range":
            return self._range(given)
        if isinstance(function, External) and function.name in BUILTINS and len(given.values) == 1 and not given.named:
            return self._builtin(function.name, given.values[0])
        return UNKNOWN

    def _method(self, method: Method, given: Given) -> Any:
        owner, name = method.owner, method.name
        certain = given.whole and not given.named and not self.conditions
        if name in MUTATORS:
            if name in ("append", "extend") and isinstance(owner, list) and certain and len(given.values) == 1:
                items = given.values if name == "append" else self.items(given.values[0])
                owner += [UNKNOWN] if items is None or len(owner) + len(items) > MAX_ITEMS else items
            else:
                spoil(owner)
            return None
        if name not in READING or given.all():
            return UNKNOWN
        told = attempted(getattr(owner, name, None), *())
        return list(told) if name in ("keys", "values", "items") and told is not UNKNOWN else told

    def _builtin(self, name: str, value: Any) -> Any:
        simple = name in ("builtins.str", "builtins.int", "builtins.float")
        if simple:
            return attempted(BUILTINS[name], value) if isinstance(value, str | int | float) else UNKNOWN
        items = self.items(value)
        alike = items is not None and all(isinstance(item, CONSTANTS) for item in items)
        if items is None or (name in ("builtins.sorted", "builtins.set") and not alike):
            return UNKNOWN
        return attempted(BUILTINS[name], items)

    def _range(self, given: Given) -> Any:
        if not given.values or not given.whole or not all(type(each) is int for each in given.values):
            return UNKNOWN
        numbers = attempted(range, *given.values)
        return list(numbers) if isinstance(numbers, range) and len(numbers[: MAX_ITEMS + 1]) <= MAX_ITEMS else UNKNOWN


def place(node: ast.AST, scope: Scope) -> str:
    """file:line."""
    return f"{scope.module.shown}:{getattr(node, 'lineno', 1)}"


def truth(value: Any) -> bool | None:
    """None where it can't be told."""
    if isinstance(value, Function | Class | Module | Method):
        return True
    known = isinstance(value, CONSTANTS) or (isinstance(value, list | tuple | dict) and decided(value))
    return bool(value) if known else None


def decided(value: Any) -> bool:
    """Not a container whose contents were lost."""
    return not (isinstance(value, list | tuple | dict) and any(item is UNKNOWN for item in value))


def spoil(container: Any) -> None:
    """Marks a container as changed in a way that can't be told."""
    if isinstance(container, list):
        container[:] = [UNKNOWN]
    elif isinstance(container, dict):
        container.clear()
        container[UNKNOWN] = UNKNOWN


def attempted(function: Any, *values: Any) -> Any:
    """A wrong operation of the source is not ours to report."""
    try:
        return function(*values)
    except (TypeError, ValueError, ArithmeticError, LookupError):
        return UNKNOWN


def _compared(comparison: type[ast.cmpop], left: Any, right: Any) -> Any:
    among = comparison in (ast.In, ast.NotIn)
    simple = isinstance(left, CONSTANTS) and (
        isinstance(right, CONSTANTS) or (among and isinstance(right, list | tuple | dict) and decided(right))
    )
    if comparison in (ast.Is, ast.IsNot) and right is None and truth(left) and not simple:
        return comparison is ast.IsNot
    return attempted(COMPARISONS[comparison], left, right) if simple else UNKNOWN


def _targets(statement: ast.stmt) -> Sequence[str]:
    """Names that a statement of a class binds."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
    return [each.id for each in targets if isinstance(each, ast.Name)]
