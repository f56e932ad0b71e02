"""Fills the generated parts of the pages from the sources, so that they say what the program does.

    python -m docs.make

A part stands between `<!-- made: NAME -->` and `<!-- end -->`; everything else on the pages is written by hand.
"""

from __future__ import annotations

import ast
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from docs.kohya_page import kohya_tables
from docs.memory_page import memory_tables
from docs.memory_profiles_page import profiles_table
from docs.models_page import model_tables
from docs.optimizers_page import optimizer_table
from docs.profiles_page import grade_table, kin_table, profile_tables
from docs.rules_page import rule_tables
from pipeline.checks.limits import LIMITS, MANY
from pipeline.deaths import FIXES, SIGNS
from pipeline.errors import Cause
from pipeline.files import write_text
from pipeline.mistakes import FACTS, VARIANTS
from pipeline.settings import PROJECT, Settings

DOCS = PROJECT / "docs"
CONF = PROJECT / "conf"
PART = re.compile(r"(<!-- made: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
WORDS = {int: "whole number", float: "number", bool: "true, false", str: "text", list: "list", dict: "names and values"}
TABLES_OF_FIGURES = {"figures", *FACTS}


def main() -> None:
    """Writes the pages that are not as they should be."""
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = filled(old)
        if new != old:
            write_text(page, new)
            sys.stdout.write(f"{page.relative_to(PROJECT)} is new\n")


def filled(page: str) -> str:
    """A page's text with its generated parts made anew."""
    return PART.sub(lambda part: f"{part[1]}{PARTS[part['name']]()}{part[3]}", page)


def table(titles: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """In Markdown."""
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# ---------------------------------------------------------------------------------------------------------- settings


def group_tables() -> str:
    """Each group's options with their purpose."""
    parts = []
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir()):
        rows = ((f"`{folder.name}={file.stem}`", purpose(file)) for file in sorted(folder.glob("*.yaml")))
        parts.append(f"### {folder.name}\n\n{table(('what to type', 'for'), rows)}")
    return "\n".join(parts)


def purpose(file: Path) -> str:
    """The first comment of a YAML file, without its command."""
    comments = (line[2:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    return next(line for line in comments if not line.startswith("@")).partition("   ")[0]


def settings_tables() -> str:
    """Every setting, a table a group."""
    docs, defaults = docstrings(), Defaults()
    by_group: dict[str, list[tuple[str, ...]]] = {}
    for key, kind, owner in settings():
        group, _, name = key.rpartition(".")
        value, comment = defaults.of(key)
        meaning = docs.get((owner.__name__, name or key)) or comment
        meaning = one_line("" if meaning == type_words(kind) else meaning) + only_in(key)
        row = (f"`{key}`", type_words(kind), range_words(key), value, meaning.strip())
        by_group.setdefault(group, []).append(row)
    titles = ("setting", "type", "range", "default", "meaning")
    return "\n".join(
        f"### {group or 'without a group'}\n\n{table(titles, iter(dict.fromkeys(rows)))}"
        for group, rows in by_group.items()
    )


def settings() -> Iterator[tuple[str, Any, type]]:
    """Dotted name, type and dataclass of every setting, those of every mode and backend included."""
    yield from _settings("", Settings)


def _settings(prefix: str, schema: type) -> Iterator[tuple[str, Any, type]]:
    kinds = typing.get_type_hints(schema)
    for field in fields(schema):
        key, kind = f"{prefix}{field.name}", kinds[field.name]
        if key in TABLES_OF_FIGURES:
            continue
        group = next((part for part in (kind, *typing.get_args(kind)) if is_dataclass(part)), None)
        if typing.get_origin(kind) is list:
            yield key, kind, schema
        elif group is not None:
            yield from _settings(f"{key}.", typing.cast(type, group))
        elif key in VARIANTS:
            for schema_of_option in VARIANTS[key].values():
                yield from _settings(f"{key}.", schema_of_option)
        else:
            yield key, kind, schema


def type_words(kind: Any) -> str:
    """What may be typed."""
    parts = typing.get_args(kind)
    if NoneType in parts:
        return f"{type_words(parts[0])}, or null"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(str(choice.value) for choice in kind)
    return WORDS[typing.get_origin(kind) or kind]


def range_words(key: str) -> str:
    """What a number may be; a bound that is there for the computer's sake is left out."""
    limit = LIMITS.get(key)
    if limit is None:
        return ""
    if limit.high >= MANY:
        return f"more than {limit.low:g}" if limit.open else f"{limit.low:g} or more"
    return str(limit)


def only_in(key: str) -> str:
    """Said of a setting of one mode or one backend."""
    group = key.partition(".")[0]
    having = [option for option, schema in VARIANTS.get(group, {}).items() if key in keys_of(group, schema)]
    return f" With {group}={having[0]} only." if len(having) == 1 else ""


def keys_of(group: str, schema: type) -> set[str]:
    """Dotted names of an option's own settings."""
    return {key for key, _, _ in _settings(f"{group}.", schema)}


def docstrings() -> dict[tuple[str, str], str]:
    """(class, field) -> the text under the field."""
    tree = ast.parse((PROJECT / "pipeline" / "settings.py").read_text(encoding="utf-8"))
    found = {}
    for schema in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, below in zip(schema.body, schema.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[schema.name, field.target.id] = str(ast.literal_eval(below.value))
    return found


class Defaults:
    """What `python run.py` without a word composes, and the comments beside it."""

    def __init__(self) -> None:
        chosen = {"network": "auto"}
        for entry in read_yaml(CONF / "config.yaml")["defaults"]:
            chosen |= entry if isinstance(entry, dict) else {}
        self._files = {group: CONF / group / f"{option}.yaml" for group, option in chosen.items() if option}

    def of(self, key: str) -> tuple[str, str]:
        """The default as it stands in the YAML, and its comment."""
        group, _, name = key.partition(".")
        if group in VARIANTS:
            files = [CONF / group / f"{option}.yaml" for option in VARIANTS[group]]
            found = [self._in(file, key if group == "mode" else name) for file in files]
            return next(each for each in found if each is not None)
        own = self._in(self._files[group], name) if group in self._files else None
        return own or self._in(CONF / "config.yaml", key) or ("", "")

    @staticmethod
    def _in(file: Path, key: str) -> tuple[str, str] | None:
        value: Any = read_yaml(file)
        names = (each for each in value.get("defaults", ()) if isinstance(each, str))
        under = [each for each in names if file.with_name(f"{each}.yaml").exists()]
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                beside = (Defaults._in(file.with_name(f"{each}.yaml"), key) for each in under)
                return next((found for found in beside if found is not None), None)
            value = value[part]
        return default_words(value), comments(file).get(key, "")


def comments(file: Path) -> dict[str, str]:
    """Dotted key -> the comment on its line."""
    found, section = {}, ""
    for line in file.read_text(encoding="utf-8").splitlines():
        parts = re.fullmatch(r"( *)(\w+):(.*?)(?: # (.*))?", line)
        if parts is None:
            continue
        indent, name, value, comment = parts.groups()
        if not indent:
            section = "" if value else f"{name}."
        if comment:
            found[f"{section if indent else ''}{name}"] = comment
    return found


def default_words(value: object) -> str:
    """`null`, `0.1`, or where the value is taken from."""
    if isinstance(value, str) and "${figure:" in value:
        return "the profile's"
    if isinstance(value, str) and value.startswith("${model.known"):
        return "the model's"
    if isinstance(value, str):
        bare = value.removeprefix("${project:}/")
        return "" if bare == "???" else f"`{bare}`" if bare else '`""`'
    if isinstance(value, list):
        return f"{len(value)} of them" if value else "none"
    return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


def read_yaml(file: Path) -> Any:
    """As PyYAML sees it: interpolations are text."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def one_line(text: str) -> str:
    """With a full stop, and with a capital unless it begins with a value."""
    words = " ".join(text.split()).rstrip(".")
    begins_with_value = words.partition(" ")[0].endswith(":")
    return f"{words if begins_with_value else words[:1].upper() + words[1:]}." if words else ""


# ------------------------------------------------------------------------------------------------------------ errors


def cause_table() -> str:
    """What a trainer dies of, and what to type."""
    headlines: dict[Cause, str] = {}
    for sign in SIGNS:
        headlines.setdefault(sign.cause, re.sub(r"\{(\w+)\}", "...", sign.headline))
    own_words = {
        Cause.NOT_FINITE: "the loss or its gradient is not a finite number; the pictures of the batch are named",
        Cause.PROCESS_COUNT: "accelerate started more or fewer processes than were asked for, or each trains alone",
        Cause.STOPPED_BY_USER: "Ctrl-C or SIGTERM: a checkpoint was saved",
        Cause.UNKNOWN: "none of these; the end of the log is shown",
    }
    told = headlines | own_words
    rows = ((f"`{cause}`", told[cause], typed(FIXES.get(cause, "the same command goes on"))) for cause in Cause)
    return table(("cause", "what happened", "try"), rows)


def typed(fix: str) -> str:
    """Markdown takes <...> for a tag."""
    return fix.replace("<", "&lt;").replace(">", "&gt;")


PARTS: dict[str, Callable[[], str]] = {
    "groups": group_tables,
    "settings": settings_tables,
    "profiles": lambda: profile_tables(table),
    "grades": lambda: grade_table(table),
    "kin": lambda: kin_table(table),
    "causes": cause_table,
    "models": lambda: model_tables(table),
    "kohya": lambda: kohya_tables(table),
    "memory": lambda: memory_tables(table),
    "profiles_memory": lambda: profiles_table(table),
    "optimizers": lambda: optimizer_table(table),
    "rules": lambda: rule_tables(table),
}

if __name__ == "__main__":
    main()
