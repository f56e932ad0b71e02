"""What sd-scripts' own network modules (networks/*.py) take as `network_args`, read without importing them.

Each takes any `k=v` and asks its keyword arguments for the names it knows: what nobody asks for has no effect.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pipeline.backends.kohya.sources import parsed_tree

MODULES = (
    *("networks.lora", "networks.lora_flux", "networks.lora_sd3", "networks.lora_lumina"),
    *("networks.lora_hunyuan_image", "networks.lora_anima"),
)
"""Those that the catalog of models names."""


def read_network_arguments(root: Path, module: str) -> tuple[str, ...]:
    """Of a module of a checkout, such as networks.lora. Raises UnreadableFile."""
    relative = Path(*module.split(".")).with_suffix(".py")
    return tuple(sorted(set(_asked_for(parsed_tree(root / relative, relative.as_posix())))))


def _asked_for(tree: ast.AST) -> Iterator[str]:
    """The literal of every `kwargs.get("name", ...)`, whatever the mapping is called before `kwargs`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            owner, name = node.func.value, node.args[0]
            of_kwargs = isinstance(owner, ast.Name) and owner.id.endswith("kwargs")
            if of_kwargs and isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value
