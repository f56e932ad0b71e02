"""How a model is told by its tensors: what they are called, what shapes they have, and what must not be among them.

A signature is data (`conf/model/<family>.yaml`, `others.yaml`). A name in it may hold `*`: then any numbers will
do, and the first tensor so called is looked at. A shape holds numbers, null for any, "<N" for less than N, and lists of
what may stand there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from pipeline.checkpoint.header import Tensor

Dim = int | str | None | Sequence[int]
Dims = tuple[Dim, ...]

NUMBER = re.compile(r"\.\d+(?=\.|$)")
PACKED = ("U8", "F4")
"""Types in which two numbers of four bits share a byte."""


@dataclass(frozen=True)
class Tensors:
    """The tensors of one part, its prefix taken off, with an index in which numbers are `*`."""

    by_name: Mapping[str, Tensor]

    @cached_property
    def by_pattern(self) -> Mapping[str, Tensor]:
        """The first of the tensors that differ by numbers only."""
        index: dict[str, Tensor] = {}
        for name, tensor in self.by_name.items():
            index.setdefault(NUMBER.sub(".*", name), tensor)
        return index

    @cached_property
    def modules(self) -> frozenset[str]:
        """First parts of the names of all matrices: vectors and scalars may be anything's."""
        return frozenset(name.partition(".")[0] for name, tensor in self.by_name.items() if len(tensor.shape) > 1)

    def find(self, name: str) -> Tensor | None:
        """By name, or by pattern where it holds a `*`."""
        return self.by_pattern.get(NUMBER.sub(".*", name)) if "*" in name else self.by_name.get(name)

    def begins(self, pattern: str) -> bool:
        """Any of the names, or of the patterns where it holds a `*`, begins so."""
        return f"\n{pattern}" in (self._patterns if "*" in pattern else self._names)

    @cached_property
    def _names(self) -> str:
        """All names in one text: searching it is many times as fast as asking one by one."""
        return "\n" + "\n".join(self.by_name)

    @cached_property
    def _patterns(self) -> str:
        return "\n" + "\n".join(self.by_pattern)

    def depth(self, module: str) -> int:
        """How many blocks there are under a name."""
        start = f"{module}."
        numbers = {name[len(start) :].partition(".")[0] for name in self.by_name if name.startswith(start)}
        return sum(number.isdigit() for number in numbers)


@dataclass(frozen=True, slots=True)
class Clauses:
    """What must be so. Empty modules: any."""

    shapes: Mapping[str, Dims]
    lacks: tuple[str, ...] = ()
    modules: frozenset[str] = frozenset()
    depth: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """How far tensors fit clauses, in words for people."""

    met: tuple[str, ...]
    missing: tuple[str, ...]
    """Not there: in a part of a model they may be in another file."""
    different: tuple[str, ...]
    """There, and not as they should be: it is another model."""

    @property
    def whole(self) -> bool:
        return bool(self.met) and not self.missing and not self.different

    @property
    def share(self) -> float:
        """Of the clauses that are met."""
        return len(self.met) / max(1, len(self.met) + len(self.missing) + len(self.different))


def fit(tensors: Tensors, clauses: Clauses) -> Fit:
    """Every clause against the tensors."""
    met, missing, different = [], [], []
    for name, dims in clauses.shapes.items():
        tensor = tensors.find(name)
        if tensor is None:
            missing.append(f"no {name}")
        elif has_shape(tensor, dims):
            met.append(f"{name} is {list(tensor.shape)}")
        else:
            different.append(f"{name} is {list(tensor.shape)}, not {_words(dims)}")
    different += [f"has {beginning}" for beginning in clauses.lacks if tensors.begins(beginning)]
    if clauses.modules:
        different += [f"has {module}" for module in sorted(tensors.modules - clauses.modules)]
    return Fit(tuple(met), tuple(missing), tuple(different))


def holds(tensors: Tensors, clauses: Clauses) -> bool:
    """Whether every clause is met; cheaper than `fit`, since most of the catalog fails at the first name."""
    return (
        all((t := tensors.find(name)) is not None and has_shape(t, dims) for name, dims in clauses.shapes.items())
        and not (clauses.modules and tensors.modules - clauses.modules)
        and not any(tensors.begins(beginning) for beginning in clauses.lacks)
    )


def fits_what_is_there(tensors: Tensors, clauses: Clauses) -> bool:
    """For variants, whose clauses name both layouts: at least one tensor is there, and all that are there fit."""
    found = [(tensor, dims) for name, dims in clauses.shapes.items() if (tensor := tensors.find(name)) is not None]
    lacks_all = not any(tensors.begins(beginning) for beginning in clauses.lacks)
    return lacks_all and (bool(found) or not clauses.shapes) and all(has_shape(*pair) for pair in found)


def has_shape(tensor: Tensor, dims: Dims) -> bool:
    """Whether the tensor has this shape; packed numbers count as what they unpack to."""
    if len(tensor.shape) == len(dims) and all(map(_is, tensor.shape, dims)):
        return True
    if tensor.dtype not in PACKED:
        return False
    known = [dim for dim in dims if isinstance(dim, int)]
    return len(known) < len(dims) or tensor.elements * 2 == prod(known)


def _is(size: int, dim: Dim) -> bool:
    if dim is None or isinstance(dim, int):
        return dim is None or size == dim
    if isinstance(dim, str):
        return size < int(dim.removeprefix("<"))
    return size in dim


def _words(dims: Dims) -> str:
    told = ("any" if dim is None else " or ".join(map(str, dim)) if isinstance(dim, list) else str(dim) for dim in dims)
    return f"[{', '.join(told)}]"
