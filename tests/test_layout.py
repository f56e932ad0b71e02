"""The shape of the project, read from its own sources: who imports whom, where heavy libraries may stand, names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from pipeline.settings import PROJECT, Settings

STAGES = {f"pipeline.{stage}" for stage in ("detect", "validate", "render", "execute", "log")}
SWEEP = "pipeline.sweep"
ENTRANCES = {"run", "pipeline.__main__", "pipeline.doctor", "pipeline.repeat", f"{SWEEP}.launch", f"{SWEEP}.preloaded"}
COMMAND_LINE = {f"pipeline.{name}" for name in ("composition", "mistakes", "overrides")}
HYDRA_BORDER = {"run", "pipeline.settings", "pipeline.slurm", *COMMAND_LINE, f"{SWEEP}.launch", f"{SWEEP}.axes"}
NATIVE = "pipeline.backends.native"
TORCHLESS_NATIVE = {
    NATIVE,
    *(
        f"{NATIVE}.{name}"
        for name in ("render", "support", "memory", "job", "quiet", "layout", "features", "preflight", "__main__")
    ),
}
"""What the runner loads of the native backend, and the trainer's entrance, which reads the job first."""
TRAINER_LIBRARIES = {"torch", "diffusers", "transformers", "lycoris", "accelerate", "bitsandbytes", "peft"}
RECORDS = {
    *("pipeline.records", "pipeline.settings", "pipeline.families", "pipeline.guidance", "pipeline.figures"),
    *("pipeline.errors", "pipeline"),
}
VAGUE_NAMES = {"utils", "util", "common", "manager", "base", "helpers", "misc"}
GROUPS_WITHOUT_FIELD = {"experiment", "launch", "schema"}


@dataclass(frozen=True)
class Import:
    """One import statement's module."""

    module: str
    line: int
    at_top: bool
    """Run when the file is imported: neither in a function nor for type checkers only."""


def sources() -> dict[str, Path]:
    """Module name -> file, of the program itself."""
    files = [PROJECT / "run.py", *sorted((PROJECT / "pipeline").rglob("*.py"))]
    return {module_name(file): file for file in files}


def module_name(file: Path) -> str:
    parts = file.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[Import]:
    yield from _imports(ast.parse(file.read_text(encoding="utf-8")), at_top=True)


def _imports(node: ast.AST, *, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(name.name, child.lineno, at_top) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module, "imports are absolute"
            known = {f"{child.module}.{name.name}" for name in child.names} & set(sources())
            yield from (Import(name, child.lineno, at_top) for name in sorted(known) or [child.module])
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(ast.Module(child.orelse, []), at_top=at_top)
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, at_top=at_top and not in_function)


def height(module: str) -> int:
    """Where a module stands: a module imports those below it."""
    if module in ENTRANCES | COMMAND_LINE:
        return 6
    if module in ("pipeline.runner", "pipeline.measure"):
        return 5
    if module in {*STAGES, "pipeline.preflight"}:
        return 4
    if module.startswith("pipeline.backends"):
        return 3
    if module in RECORDS:
        return {
            "pipeline.errors": 0,
            "pipeline": 0,
            "pipeline.settings": 1,
            "pipeline.records": 1,
            "pipeline.families": 0,
            "pipeline.guidance": 0,
            "pipeline.figures": 0,
        }[module]
    return 2


MODULES = sources()


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    for imported in imports(MODULES[module]):
        if imported.module in MODULES and imported.module != module:
            assert height(imported.module) <= height(module), f"{module}:{imported.line} imports {imported.module}"
            if module in STAGES:
                assert imported.module not in STAGES, f"{module}:{imported.line}: stages never import each other"


@pytest.mark.parametrize("module", MODULES)
def test_backends_do_not_know_each_other(module: str) -> None:
    if module.count(".") < 2 or not module.startswith("pipeline.backends."):
        return
    own = ".".join(module.split(".")[:3])
    for imported in imports(MODULES[module]):
        foreign = imported.module.startswith("pipeline.backends.") and not f"{imported.module}.".startswith(f"{own}.")
        assert not foreign, f"{module}:{imported.line} imports {imported.module}"


@pytest.mark.parametrize("module", MODULES)
def test_hydra_stays_at_the_border(module: str) -> None:
    if module not in HYDRA_BORDER:
        found = [imported for imported in imports(MODULES[module]) if library(imported) in {"hydra", "omegaconf"}]
        assert not found


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_loaded_where_they_are_needed(module: str) -> None:
    trainer_only = module.startswith(NATIVE) and module not in TORCHLESS_NATIVE
    forbidden = {"mlflow"} if trainer_only else TRAINER_LIBRARIES | {"mlflow"}
    found = [
        f"line {each.line}: {each.module}"
        for each in imports(MODULES[module])
        if each.at_top and library(each) in forbidden
    ]
    assert not found


def library(imported: Import) -> str:
    return imported.module.partition(".")[0]


@pytest.mark.parametrize("module", sorted(module for module in MODULES if not module.startswith(NATIVE)))
def test_the_runner_loads_no_trainer_module(module: str) -> None:
    if module == f"{SWEEP}.preloaded":  # of the process that trainers are forked from, and of no other
        return
    for imported in imports(MODULES[module]):
        if imported.module.startswith(NATIVE):
            assert imported.module in TORCHLESS_NATIVE, f"{module}:{imported.line} imports {imported.module}"


def test_names_say_what_is_inside() -> None:
    folders = [path for name in ("pipeline", "tests", "conf", "demo", "bench") for path in (PROJECT / name).rglob("*")]
    vague = [path for path in folders if path.stem in VAGUE_NAMES]
    assert folders
    assert not vague


def test_every_config_group_is_a_field_of_the_settings() -> None:
    groups = {path.name for path in (PROJECT / "conf").iterdir() if path.is_dir()}
    assert groups
    assert groups - GROUPS_WITHOUT_FIELD <= {field.name for field in fields(Settings)}


@pytest.mark.parametrize(
    "file", sorted((PROJECT / "conf").rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_every_yaml_opens_with_its_purpose_and_a_command(file: Path) -> None:
    opening = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        opening.append(line)
    assert "python run.py" in "\n".join(opening)
