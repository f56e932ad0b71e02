"""The pages say what the program does: generated parts are new, links lead somewhere, settings exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.make import CONF, PART, PARTS, filled, settings
from pipeline.backends.kohya.manifest import load
from pipeline.settings import PROJECT

OURS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "demo/*.md", "demo/*/*.md", "bench/*.md")
    for path in PROJECT.glob(pattern)
)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ASSIGNMENT = re.compile(r"(?<![\w.=/?&$-])~?\+{0,2}([a-z_]\w*(?:\.\w+)*)=(?!=)")
NOT_SETTINGS = {"train.learning_rate"}
"""Shown as mistakes."""
PASSED_ON = {
    "backend.args": {name for parser in load().parsers.values() for name in parser.arguments},
    "backend.network_args": {
        name for taken in (*load().networks.values(), *load().lycoris.algorithms.values()) for name in taken
    },
}
"""By sd-scripts' own names."""


def named(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def code(text: str) -> Iterator[str]:
    """Fenced blocks, and what stands between backticks outside of them."""
    yield from FENCED.findall(text)
    yield from INLINE.findall(FENCED.sub("", text))


def known_keys() -> set[str]:
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    return groups | {key for key, _, _ in settings()}


def is_known(key: str) -> bool:
    section, _, name = key.rpartition(".")
    if section in PASSED_ON:
        return name == "NAME" or name in PASSED_ON[section]
    return key in known_keys() or key.startswith(("hydra.", "optimizer.args.", "network.args.", "model.parts."))


def test_there_are_pages() -> None:
    assert {"docs/first-run.md", "docs/settings.md", "CONTRIBUTING.md"} <= {named(page) for page in OURS}


@pytest.mark.parametrize("page", OURS, ids=named)
def test_generated_parts_are_new(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.parent.name != "docs":
        assert not PART.search(text), "only pages in docs/ have generated parts"
    assert filled(text) == text, f"{named(page)} is not what the sources say: python -m docs.make"


def test_every_generated_part_stands_on_one_page() -> None:
    found = [part["name"] for page in OURS for part in PART.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(PARTS)


@pytest.mark.parametrize("page", OURS, ids=named)
def test_relative_links_lead_to_a_file(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in targets if not (page.parent / link.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("page", OURS, ids=named)
def test_named_settings_exist(page: Path) -> None:
    keys = {key for block in code(page.read_text(encoding="utf-8")) for key in ASSIGNMENT.findall(block)}
    unknown = sorted(key for key in keys - NOT_SETTINGS if not is_known(key))
    assert not unknown, f"{named(page)} names what is no setting"


def test_a_wrong_setting_is_seen() -> None:
    block = next(code("```sh\npython run.py profile=style train.speed=1\n```"))
    assert [key for key in ASSIGNMENT.findall(block) if not is_known(key)] == ["train.speed"]


def test_a_stale_part_is_seen() -> None:
    assert filled("<!-- made: grades -->\nold\n<!-- end -->\n") != "<!-- made: grades -->\nold\n<!-- end -->\n"
