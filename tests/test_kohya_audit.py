"""The settings audit: every argument in its place, what another version changed, and the verb that tells both."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from docs.kohya_page import argument_rows, kohya_tables
from docs.make import table as markdown
from pipeline.backends.kohya.arguments import Argument, Parser
from pipeline.backends.kohya.audit import Table, as_json, audit, lycoris_audit, print_audit, sorted_out
from pipeline.backends.kohya.lycoris_arguments import Lycoris
from pipeline.backends.kohya.manifest import LORA_SCRIPTS, SCRIPTS, load
from pipeline.backends.kohya.translation import withheld_of
from pipeline.errors import UnreadableFile
from pipeline.settings import PROJECT

TYPES = {"int_or_float": "either", "optional_str": "str"}


def call(argument: Argument) -> str:
    """The add_argument call that makes such an argument."""
    if argument.kind == "flag":
        return f"    p.add_argument('--{argument.name}', action='store_true', default={argument.default!r})"
    kind = argument.kind.removeprefix("list[").removesuffix("]")
    parts = [f"'--{argument.name}'", f"type={TYPES.get(kind, kind)}", f"default={argument.default!r}"]
    parts += ["nargs='*'"] if kind != argument.kind else []
    parts += [f"choices={list(argument.choices)!r}"] if argument.choices else []
    return f"    p.add_argument({', '.join(parts)}, required={argument.required})"


def script(parser: Parser, *, without: str = "", more: str = "") -> str:
    """A script with such a parser."""
    calls = [call(each) for each in parser.arguments.values() if each.name != without]
    either = "def either(text):\n    if text:\n        return int(text)\n    return float(text)\n"
    body = "\n".join([*calls, *([more] if more else [])])
    return f"import argparse\n{either}def setup_parser():\n    p = argparse.ArgumentParser()\n{body}\n    return p\n"


@pytest.fixture
def same(tmp_path: Path) -> Path:
    """A made-up checkout with the arguments of the audited version, and none of its code."""
    for name, parser in load().parsers.items():
        (tmp_path / name).write_text(script(parser), encoding="utf-8")
    return tmp_path


@pytest.fixture
def other(same: Path) -> Path:
    """One script has an argument more, lacks one, and has another default."""
    more = "    p.add_argument('--fresh', type=int)\n    p.set_defaults(network_alpha=2)"
    source = script(load().parsers["train_network.py"], without="lowram", more=more)
    (same / "train_network.py").write_text(source, encoding="utf-8")
    (same / "README.md").write_text("- **Version 0.11.0 (2027-01-01):**\n", encoding="utf-8")
    return same


def told(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SD_SCRIPTS_")}
    command = [sys.executable, "-m", "pipeline", "audit", *arguments]
    return subprocess.run(
        command, cwd=PROJECT, env=environment | variables, capture_output=True, text=True, timeout=120, check=False
    )


def shown(found: Any) -> str:
    text = io.StringIO()
    with redirect_stdout(text):
        print_audit(found)
    return text.getvalue()


def a_table(settings: Mapping[str, str], **withheld: str) -> Table:
    return Table(lambda _: settings, lambda _: withheld)


# ------------------------------------------------------------------------------------------------------------- places


def test_every_argument_has_its_place() -> None:
    names = ("seed", "config_file", "lowram", "strange")
    arguments = {name: Argument(name, "int", None) for name in names}
    arguments["strange"] = Argument("strange", "other", None, note="its choices can't be told (a.py:1)")
    table = a_table({"seed": "seed", "unet_lr": "optimizer.lr"}, config_file="why")
    found = sorted_out(Parser("s.py", arguments), table)
    assert found.reached == {"seed": "seed"}
    assert found.passed == ("lowram",)
    assert found.withheld == {"config_file": "why"}
    assert found.undecided == {"strange": "its choices can't be told (a.py:1)"}
    assert found.lacking == ("unet_lr",)
    assert found.arguments == 4
    assert found.parity == pytest.approx(2 / 3)


def test_what_a_setting_reaches_is_not_withheld() -> None:
    found = sorted_out(Parser("s.py", {"a": Argument("a", "int", None)}), a_table({"a": "x"}, a="why"))
    assert (found.reached, found.withheld, found.parity) == ({"a": "x"}, {}, 1.0)


def test_our_settings_and_what_is_passed_on_make_the_audited_version_whole() -> None:
    found = audit(None)
    assert [each.script for each in found.scripts] == list(SCRIPTS)
    for each in found.scripts:
        assert each.parity == 1.0, each.script
        assert each.reached
        assert not each.lacking, f"{each.script} does not have what our settings would write"


def test_what_is_withheld_is_an_argument_of_some_script() -> None:
    """Else a reason stands for nothing, and a misspelt name would be passed on."""
    names = {name for parser in load().parsers.values() for name in parser.arguments}
    assert {name for script in SCRIPTS for name in withheld_of(script)} <= names


def test_what_is_passed_on_makes_the_audited_version_whole() -> None:
    found = audit(None, table=a_table({}))
    assert [each.script for each in found.scripts] == list(SCRIPTS)
    assert not found.failed
    for each in found.scripts:
        assert each.parity == 1.0, each.script
        assert not each.lacking, f"{each.script} does not have what our settings would write"
        places = [*each.reached, *each.passed, *each.withheld, *each.undecided]
        assert sorted(places) == sorted(load().parsers[each.script].arguments)


def test_a_checkout_like_the_audited_one_differs_in_nothing(same: Path) -> None:
    assert not [each for found in audit(same).scripts for each in found.differences]


def test_a_broken_script_does_not_hide_the_others(same: Path) -> None:
    (same / "train_db.py").write_text("def setup_parser(:\n", encoding="utf-8")
    (same / "fine_tune.py").unlink()
    found = audit(same)
    errors = {each.script: each.error for each in found.scripts if each.error}
    assert found.failed
    assert set(errors) == {"train_db.py", "fine_tune.py"}
    assert "train_db.py:1: not Python" in (errors["train_db.py"] or "")
    assert "Can't be read" in shown(found)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="is no folder"):
        audit(tmp_path / "missing")


# ------------------------------------------------------------------------------------------------------------ LyCORIS


def test_arguments_of_lycoris_by_setting() -> None:
    found = lycoris_audit(load().lycoris)
    assert "network.algo" not in found.reached[""]
    assert {"algo", "conv_dim", "conv_alpha"} <= set(found.reached[""])
    assert "dora_wd" in found.reached["locon"]
    assert "factor" in found.reached["lokr"]
    assert "dropout" in found.passed["ia3"]
    assert not found.missing
    assert set(found.withheld) == {"use_cp", "use_conv_cp", "disable_conv_cp"}


def test_an_algorithm_that_a_version_lacks_is_told() -> None:
    algorithms = {name: taken for name, taken in load().lycoris.algorithms.items() if name != "ia3"}
    found = lycoris_audit(Lycoris("3.2.0", algorithms))
    assert found.missing == ("ia3",)
    assert found.differences == ("algo ia3 is gone",)


# ----------------------------------------------------------------------------------------------------------- the verb


@pytest.mark.slow
def test_the_verb_tells_what_another_version_changed(other: Path) -> None:
    done = told("--root", str(other))
    assert done.returncode == 0, done.stderr
    assert "sd-scripts 0.11.0 (no git checkout); audited: 0.10.1 48d368fa" in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    new, gone, changed = (lines.index(f"{kind} since the audited version") for kind in ("New", "Gone", "Changed"))
    assert lines[new + 1] == "fresh int, default null [train_network]"
    assert lines[gone + 1] == "lowram was flag, default false [train_network]"
    assert lines[changed + 1] == "network_alpha default: 1 -> 2 [train_network]"
    assert max(map(len, done.stdout.splitlines()[2:])) <= 100


@pytest.mark.slow
def test_the_verb_as_json(other: Path) -> None:
    done = told("--json", SD_SCRIPTS_ROOT=str(other))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == "0.11.0"
    assert found["audited"]["commit"] == load().commit
    assert list(found["scripts"]) == list(SCRIPTS)
    one = found["scripts"]["train_network.py"]
    assert one["new"] == {"fresh": "int, default null"}
    assert one["gone"] == {"lowram": "was flag, default false"}
    assert one["changed"] == {"network_alpha": "default: 1 -> 2"}
    assert one["arguments"] == len(load().parsers["train_network.py"].arguments)
    assert found["scripts"]["sdxl_train.py"]["new"] == {}


@pytest.mark.slow
def test_the_verb_without_a_checkout(tmp_path: Path) -> None:
    done = told()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sd-scripts 0.10.1 48d368fa\nthe audited version (no checkout")
    wrong = told("--root", str(tmp_path / "missing"))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.endswith("missing is no folder: is it the checkout of sd-scripts?\n")
    assert told("--root", str(tmp_path)).returncode == 1


def test_the_same_of_several_scripts_is_told_once(same: Path) -> None:
    for name in LORA_SCRIPTS:
        source = script(load().parsers[name], more="    p.add_argument('--fresh', action='store_true')")
        (same / name).write_text(source, encoding="utf-8")
    text = shown(audit(same, table=a_table({"seed": "seed"}, config_file="the program writes it")))
    assert text.count("fresh") == 2, "once as new, once among what backend.args passes on"
    assert " ".join(text.split()).count("config_file the program writes it") == 1


def test_json_is_one_object_with_differences() -> None:
    found = audit(None, table=a_table({"seed": "seed", "never_there": "x.y"}))
    one = json.loads(as_json(found))["scripts"]["train_db.py"]
    assert one["reached"] == {"seed": "seed"}
    places = [*one["reached"], *one["backend_args"], *one["withheld"], *one["undecided"]]
    assert len(places) == one["arguments"]
    assert one["lacking"] == ["never_there"]
    assert "never_there" in shown(found)


# ----------------------------------------------------------------------------------------------------------- the page


def test_the_page_has_every_argument_of_every_script() -> None:
    page = kohya_tables(markdown)
    names = {name for parser in load().parsers.values() for name in parser.arguments}
    assert [name for name in sorted(names) if f"| `{name}` |" not in page] == []


def test_the_page_says_where_ways_differ() -> None:
    def settings(name: str) -> dict[str, str]:
        return {"learning_rate": "optimizer.lr"} if name not in LORA_SCRIPTS else {}

    found = audit(None, table=Table(settings, lambda _: {"learning_rate": "has no effect here"}))
    rows = argument_rows(found)["library/train_util.py:add_optimizer_arguments"]
    row = next(row for row in rows if row[0] == "`learning_rate`")
    way = "withheld: has no effect here (all LoRA); `optimizer.lr` (all finetune)"
    assert row == ("`learning_rate`", "number", "`2e-06`", way, "all")
