"""The parsers of sd-scripts, read without running it: each trick of the reading, and a real checkout."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pipeline.backends.kohya.arguments import Argument, Kind, Parser, Value, check_value, unknown_reason
from pipeline.backends.kohya.lycoris_arguments import Lycoris, lycoris_folder, read_lycoris
from pipeline.backends.kohya.manifest import (
    FILE,
    SCRIPTS,
    Difference,
    commit_of,
    differences,
    load,
    manifest_of,
    parser_for,
    stored,
    version_of,
)
from pipeline.backends.kohya.parsers import read_parser
from pipeline.errors import UnreadableFile

ROOT, PYTHON = os.environ.get("SD_SCRIPTS_ROOT"), os.environ.get("SD_SCRIPTS_PYTHON")
needs_checkout = pytest.mark.skipif(not ROOT, reason="SD_SCRIPTS_ROOT is not set")
needs_both = pytest.mark.skipif(not (ROOT and PYTHON), reason="SD_SCRIPTS_ROOT and SD_SCRIPTS_PYTHON are not set")


def checkout(folder: Path, **sources: str) -> Path:
    """Files of a made-up checkout: `library__a` is library/a.py."""
    for name, source in sources.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source), encoding="utf-8")
    return folder


def read(folder: Path, body: str, before: str = "", **sources: str) -> dict[str, Argument]:
    """The arguments of a script whose setup_parser has this body."""
    lines = [*dedent(before).splitlines(), "def setup_parser():", "    parser = argparse.ArgumentParser()"]
    lines += [f"    {line}" for line in dedent(body).strip().splitlines()]
    script = "\n".join(["import argparse", *lines, "    return parser\n"])
    return dict(read_parser(checkout(folder, train=script, **sources), "train.py").arguments)


def one(folder: Path, call: str, before: str = "") -> Argument:
    [argument] = read(folder, f"parser.add_argument({call})", before).values()
    return argument


# ------------------------------------------------------------------------------------------------------- one argument


@pytest.mark.parametrize(
    ("call", "kind", "default"),
    [
        ("'--a'", "str", None),
        ("'--a', type=str, default='x', help='anything ' + unknown()", "str", "x"),
        ("'--a', type=int, default=3", "int", 3),
        ("'--a', type=float, default=-1.0", "float", -1.0),
        ("'--a', type=float, default=2 / 8", "float", 0.25),
        ("'--a', action='store_true'", "flag", False),
        ("'--a', action='store_true', default=None", "flag", None),
        ("'--a', action='store_false'", "off_flag", True),
        ("'--a', action=argparse.BooleanOptionalAction, default=True", "flag", True),
        ("'--a', type=int, nargs='*'", "list[int]", None),
        ("'--a', type=float, nargs='+', default=[1.0, 2.0]", "list[float]", [1.0, 2.0]),
        ("'--a', nargs='*'", "list[str]", None),
        ("'--a', nargs='?', const='all'", "optional_str", None),
        ("'--a', action='append', type=int", "list[int]", None),
        ("'--a', action='count', default=0", "int", 0),
        ("'--a', default=argparse.SUPPRESS", "str", None),
    ],
)
def test_kinds_and_defaults(tmp_path: Path, call: str, kind: Kind, default: Value) -> None:
    argument = one(tmp_path, call)
    assert (argument.name, argument.kind, argument.default, argument.note) == ("a", kind, default, "")
    assert type(argument.default) is type(default)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("'-s', '--some-thing'", "some_thing"),
        ("'--first', '--second'", "first"),
        ("'-s'", "s"),
        ("'--shown', dest='kept'", "kept"),
        ("'folder'", "folder"),
    ],
)
def test_the_name_is_the_destination(tmp_path: Path, call: str, name: str) -> None:
    assert one(tmp_path, call).name == name


def test_required(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        parser.add_argument("--a", required=True)
        parser.add_argument("--b", required=False)
        parser.add_argument("c")
        parser.add_argument("d", nargs="?")
        """,
    )
    assert [argument.required for argument in found.values()] == [True, False, True, False]


def test_where_it_is_added(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "parser.add_argument('--a')\nadd_more(parser)",
        "from library.more import add_more",
        library__more="def add_more(parser):\n    parser.add_argument('--b')\n",
    )
    assert {name: argument.where for name, argument in found.items()} == {
        "a": "train.py:setup_parser",
        "b": "library/more.py:add_more",
    }


def test_a_path_is_a_text_in_a_toml(tmp_path: Path) -> None:
    assert one(tmp_path, "'--a', type=Path", "from pathlib import Path").kind == "str"


def test_a_function_that_makes_numbers(tmp_path: Path) -> None:
    before = """
    def number(text):
        try:
            if text.endswith("%"):
                return float(text[:-1]) / 100.0
            return int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(text)
    def lowered(text):
        return text.lower()
    """
    assert one(tmp_path, "'--a', type=number", before).kind == "int_or_float"
    told = one(tmp_path, "'--a', type=lowered", before)
    assert told.kind == "other"
    assert told.note == "what it takes can't be told (train.py:14)"


# ------------------------------------------------------------------------------------------------- constants and names


@pytest.mark.parametrize(
    ("before", "choices"),
    [
        ("NAMES = ['a', 'b']", "NAMES"),
        ("NAMES = ('a',)\nMORE = [*NAMES, 'b']", "MORE"),
        ("NAMES = {'a': 1, 'b': 2}", "NAMES.keys()"),
        ("NAMES = {'a': 1, 'b': 2}", "list(NAMES)"),
        ("import enum\nclass Name(enum.Enum):\n    A = 'a'\n    B = 'b'", "[each.value for each in Name]"),
        ("from enum import StrEnum\nclass Name(StrEnum):\n    A = 'a'\n    B = 'b'", "list(Name)"),
        ("from typing import Literal, get_args\nName = Literal['a', 'b']", "get_args(Name)"),
        ("A = 'a'", "[A, f'{A}'.replace('a', 'b')] if 0 else [A, 'b']"),
        ("from library.names import *", "NAMES"),
        ("import library.names as names", "names.NAMES"),
        ("import library.names", "library.names.NAMES"),
        ("from library import names", "names.NAMES"),
        ("class Trainer:\n    NAMES = ['a', 'b']", "Trainer.NAMES"),
    ],
)
def test_choices_from_constants(tmp_path: Path, before: str, choices: str) -> None:
    checkout(tmp_path, library__names="from .more import NAMES\n", library__more="NAMES = ['a', 'b']\n")
    argument = one(tmp_path, f"'--a', choices={choices}", before)
    assert (argument.choices, argument.kind, argument.note) == (("a", "b"), "str", "")


def test_choices_may_be_numbers_or_none(tmp_path: Path) -> None:
    assert one(tmp_path, "'--a', type=int, choices=[None, *range(2)]").choices == (None, 0, 1)


@pytest.mark.parametrize(
    "before",
    [
        "import os\nNAMES = os.listdir()",
        "NAMES = ['a']\nNAMES.append('b')",
        "NAMES = ['a']\nif open('x'):\n    NAMES = ['b']",
        "NAMES = ['a']\ndef other():\n    global NAMES\n    NAMES = []",
        "from elsewhere import NAMES",
    ],
)
def test_choices_that_can_not_be_told_are_said(tmp_path: Path, before: str) -> None:
    argument = one(tmp_path, "'--a', choices=NAMES", before)
    line = 4 + before.count("\n") + 1
    assert (argument.kind, argument.note) == ("other", f"its choices can't be told (train.py:{line})")


def test_a_default_that_can_not_be_told_is_said(tmp_path: Path) -> None:
    argument = one(tmp_path, "'--a', type=int, default=os.cpu_count()", "import os")
    assert (argument.kind, argument.default) == ("int", None)
    assert argument.note == "the default can't be told (train.py:5)"


# --------------------------------------------------------------------------------------------------- calls and branches


def test_constant_arguments_decide_branches(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "add(parser, True)\nadd(parser, with_b=True, kind=int)",
        """
        def add(parser, with_a=False, with_b: bool = False, *, kind=str):
            if with_a and not with_b:
                parser.add_argument("--a", type=kind)
            elif with_b:
                parser.add_argument("--b", type=kind)
            else:
                parser.add_argument("--never")
        """,
    )
    assert {name: argument.kind for name, argument in found.items()} == {"a": "str", "b": "int"}


def test_a_script_takes_the_parser_of_another(tmp_path: Path) -> None:
    root = checkout(
        tmp_path,
        base="""
        import argparse
        from library import both
        def setup_parser() -> argparse.ArgumentParser:
            made = argparse.ArgumentParser()
            both.first(made)
            return made
        """,
        library__both="""
        def first(p):
            group = p.add_argument_group("more")
            second(group)
        def second(parser):
            parser.add_mutually_exclusive_group().add_argument("--deep", type=int)
        """,
        train="""
        import base
        def setup_parser():
            parser = base.setup_parser()
            parser.add_argument("--own")
            parser.set_defaults(deep=3)
            return parser
        """,
    )
    found = read_parser(root, "train.py").arguments
    assert set(found) == {"deep", "own"}
    assert found["deep"].default == 3


def test_loops_over_constants(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        for number in range(1, 3):
            parser.add_argument(f"--te{number}", type=float)
        for name, kind in (("x", int), ("y", float)):
            if name == "y":
                continue
            parser.add_argument("--" + name, type=kind)
        """,
    )
    assert {name: argument.kind for name, argument in found.items()} == {"te1": "float", "te2": "float", "x": "int"}


def test_a_method_kept_in_a_name(tmp_path: Path) -> None:
    assert set(read(tmp_path, "add = parser.add_argument\nadd('--a')\nadd(*['-b', '--bb'], **{'type': int})")) == {
        "a",
        "bb",
    }


def test_parents(tmp_path: Path) -> None:
    body = "child = argparse.ArgumentParser(parents=[parser])\nchild.add_argument('--b')\nreturn child"
    assert set(read(tmp_path, f"parser.add_argument('--a')\n{body}")) == {"a", "b"}


def test_statements_without_the_parser_are_passed_over(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        import logging
        while logging.busy():
            logging.wait()
        prepare()
        with open("x") as file:
            parser.add_argument("--a", type=int)
        try:
            file.read()
        except OSError:
            pass
        logging.info("ready")
        parser.description = "trains"
        """,
        "def prepare():\n    prepare()\n    for each in unknown():\n        each.do()\n",
    )
    assert set(found) == {"a"}
    assert not found["a"].note


def test_what_an_undecided_condition_adds_is_said(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        if torch.cuda.is_available():
            parser.add_argument("--a", type=int)
        try:
            import thing
            parser.add_argument("--b")
        except ImportError:
            pass
        parser.add_argument("--c")
        """,
        "import torch",
    )
    assert [argument.kind for argument in found.values()] == ["other", "other", "str"]
    assert found["a"].note == "only if torch.cuda.is_available() (train.py:5)"
    assert found["b"].note == "only try (train.py:7)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("while True:\n    parser.add_argument('--a')", "train.py:4: can't follow what it does with its parser: while"),
        ("for name in names():\n    parser.add_argument(name)", "train.py:4: can't follow"),
        ("parser.add_argument(names())", "train.py:4: the name of an argument can't be told"),
        ("parser.add_argument(*names())", "train.py:4: what add_argument is given can't be told"),
        ("parser.add_argument('--a', **names())", "train.py:4: what add_argument is given can't be told"),
        ("other.add_arguments(parser)", "train.py:4: gives its parser to other.add_arguments"),
        ("list(map(lambda name: parser.add_argument(name), ['--a']))", "train.py:4: can't follow"),
        ("list(map(parser.add_argument, ['--a']))", "train.py:4: gives its parser to map"),
        ("def add(name):\n    parser.add_argument(name)\nmap(add, ['--a'])", "train.py:6: gives its parser to map"),
        ("setattr(parser, 'a', 1)", "train.py:4: gives its parser to setattr"),
        ("exec('parser.add_argument(1)')", "train.py:4: runs text by exec"),
        ("parser._actions.clear()", "train.py:4: gives its parser to parser._actions.clear"),
        ("parser.add_argument('--a').required = True", "train.py:4: can't follow what it does"),
        ("parser.add_subparsers()", "train.py:4: can't follow the parser's add_subparsers"),
        ("if names():\n    return parser", "train.py:4: whether it ends here can't be told"),
        ("if names():\n    parser = argparse.ArgumentParser()", "train.py:4: which parser parser is can't be told"),
        ("thing.parser = parser", "train.py:4: can't follow what it does with its parser"),
        ("parser = Own()\nparser.add_argument('--a')", "train.py:5: can't tell which parser parser.add_argument is of"),
        ("parser = names()", "train.py:2: setup_parser returns what can't be told to be a parser"),
    ],
)
def test_what_can_not_be_followed_is_said_with_its_line(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read(tmp_path, body)
    assert str(caught.value).startswith(reason)


def test_a_parser_of_a_module_is_not_guessed(tmp_path: Path) -> None:
    source = "import argparse\nPARSER = argparse.ArgumentParser()\nPARSER.add_argument('--a')\n"
    root = checkout(tmp_path, train=f"{source}def setup_parser():\n    return PARSER\n")
    with pytest.raises(UnreadableFile, match=r"train\.py:4: setup_parser returns what can't be told"):
        read_parser(root, "train.py")


# --------------------------------------------------------------------------------------------------- broken checkouts


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"library/more\.py:2: not Python"):
        read(tmp_path, "more.add(parser)", "import library.more as more", library__more="x = 1\ndef add(:\n")


def test_a_broken_file_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    found = read(tmp_path, "parser.add_argument('--a')", "from library.more import x", library__more="def (:\n")
    assert set(found) == {"a"}


@pytest.mark.parametrize("script", ["missing.py", "../train.py", "library/more.py", "train"])
def test_a_missing_script(tmp_path: Path, script: str) -> None:
    with pytest.raises(UnreadableFile, match=r"no missing\.py|is not the name of a script"):
        read_parser(checkout(tmp_path, library__more=""), script)


def test_a_script_without_the_function(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"train\.py:1: no setup_parser"):
        read_parser(checkout(tmp_path, train="import os\n"), "train.py")


@pytest.mark.parametrize("content", [b"x = '\xff\xfe'\n", b"a\x00b", b"(" * 5000, b"-" * 20000 + b"1", b""])
def test_files_that_are_no_python(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.py").write_bytes(content)
    with pytest.raises(UnreadableFile):
        read_parser(tmp_path, "train.py")


@pytest.mark.parametrize(
    "source",
    [
        "def setup_parser():\n    return setup_parser()\n",
        "def setup_parser():\n    setup_parser(); setup_parser()\n    return setup_parser()\n",
        "def setup_parser():\n    add(argparse.ArgumentParser())\ndef add(p):\n    add(p); add(p)\n",
        "def setup_parser():\n    a = 'aaaaaaaaaa'\n    for i in range(2000):\n        a = f'{a}{a}'\n    return a\n",
        "def setup_parser():\n    a = [1]\n    for i in range(2000):\n        a = [a, a]\n    return a\n",
        "def setup_parser():\n    a = [1]\n    for i in range(2000):\n        a = [*a, *a]\n    return sorted(a)\n",
        "def setup_parser():\n    a = 9\n    for i in range(2000):\n        a = a * a\n    return a\n",
        "def setup_parser():\n    while True:\n        pass\n",
        "def setup_parser():\n"
        + "".join(f"{'    ' * (depth + 1)}for a{depth} in range(1000):\n" for depth in range(9))
        + f"{'    ' * 10}pass\n",
        "from train import *\nfrom train import other as setup_parser\nfrom train import setup_parser as other\n",
        "A = B\nB = A\ndef setup_parser():\n    return A\n",
        f"def setup_parser():\n    return {'not ' * 90}{'+'.join(['x'] * 800)}\n",
        "import os\nos.mkdir('was-run')\ndef setup_parser():\n    os.mkdir('was-run')\n    return 1\n",
    ],
)
def test_no_source_keeps_the_reading_busy_or_runs(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = checkout(tmp_path, train=f"import argparse\n{source}")
    begun = time.monotonic()
    with pytest.raises(UnreadableFile):
        read_parser(root, "train.py")
    assert time.monotonic() - begun < 20
    assert not (tmp_path / "was-run").exists()


def test_modules_that_import_each_other(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "one.add(parser)",
        "from library import one",
        library__one="from library.two import NAMES\nMINE = 'b'\ndef add(p): p.add_argument('--a', choices=NAMES)\n",
        library__two="from library.one import MINE\nNAMES = ['a', MINE]\n",
    )
    assert found["a"].choices == ("a", "b")


# ------------------------------------------------------------------------------------------------------------- values


def an(kind: Kind, *choices: str | int | None) -> Argument:
    return Argument("name", kind, None, choices)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        (an("str"), "x"),
        (an("int"), 3),
        (an("float"), 3),
        (an("float"), 0.5),
        (an("flag"), False),
        (an("off_flag"), True),
        (an("optional_str"), "x"),
        (an("int_or_float"), 100),
        (an("int_or_float"), 0.1),
        (an("list[float]"), [1, 0.5]),
        (an("list[str]"), []),
        (an("str", None, "fp16"), "fp16"),
        (an("list[str]", "a", "b"), ["b"]),
    ],
)
def test_values_that_have_their_effect(argument: Argument, value: object) -> None:
    assert check_value(argument, value) is None


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        (an("str"), 1, "must be a text"),
        (an("int"), True, "must be a whole number"),
        (an("int"), 1.0, "must be a whole number"),
        (an("float"), "1e-4", "must be a number"),
        (an("flag"), 1, "must be true or false"),
        (an("flag"), "true", "must be true or false"),
        (an("int_or_float"), 100.0, "a number with a point is a fraction here: a count is written 100"),
        (an("list[int]"), 3, "must be a list, of which each is a whole number"),
        (an("list[int]"), [3, "x"], "must be a whole number"),
        (an("str"), None, "a TOML has no null: leave it out"),
        (an("str", None, "fp16", "bf16"), "pf16", "must be one of fp16, bf16. Did you mean fp16?"),
        (an("list[str]", "a", "b"), ["a", "c"], "must be one of a, b."),
    ],
)
def test_values_that_would_have_none(argument: Argument, value: object, reason: str) -> None:
    assert check_value(argument, value) == reason


def test_a_kind_that_can_not_be_told_takes_no_value() -> None:
    told = check_value(Argument("name", "other", None, note="what it takes can't be told (a.py:1)"), "x")
    assert told == "can't be checked: what it takes can't be told (a.py:1)"


def test_an_unknown_name() -> None:
    parser = Parser("train.py", {"unet_lr": an("float")})
    assert unknown_reason(parser, "unet_rl") == "train.py has no argument unet_rl. Did you mean unet_lr?"


# ----------------------------------------------------------------------------------------------------------- manifest


def test_differences() -> None:
    same, old = an("str"), Argument("changed", "str", "a", ("a", "b"), where="x.py:f")
    new = Argument("changed", "str", "c", ("a", "c"), where="y.py:g")
    audited = Parser("s.py", {"same": same, "old": same, "changed": old})
    theirs = Parser("s.py", {"same": same, "fresh": an("int"), "changed": new})
    assert differences(audited, theirs) == [
        Difference("changed", "changed", 'default: "a" -> "c"; choices: +c; choices: -b'),
        Difference("new", "fresh", "int, default null"),
        Difference("gone", "old", "was str, default null"),
    ]
    assert differences(audited, audited) == []


def test_one_is_not_true_and_no_point_is_no_number_with_one() -> None:
    one_ = Parser("s.py", {"a": Argument("a", "float", 1)})
    assert [each.words for each in differences(one_, Parser("s.py", {"a": Argument("a", "float", 1.0)}))] == [
        "default: 1 -> 1.0"
    ]


def test_the_manifest_has_every_script() -> None:
    manifest = load()
    assert tuple(manifest.parsers) == SCRIPTS
    assert manifest.version == "0.10.1"
    assert len(manifest.commit) == 40
    assert all(len(parser.arguments) > 150 for parser in manifest.parsers.values())
    assert not [each for parser in manifest.parsers.values() for each in parser.arguments.values() if each.note]


def test_the_manifest_holds_no_help() -> None:
    assert "help" not in FILE.read_text(encoding="utf-8")


def test_the_manifest_reads_back_as_it_was_written() -> None:
    assert stored(load()) == FILE.read_text(encoding="utf-8")


def test_the_checkout_wins(tmp_path: Path) -> None:
    body = "    p = argparse.ArgumentParser()\n    p.add_argument('--a')\n    return p\n"
    root = checkout(tmp_path, train_network=f"import argparse\ndef setup_parser():\n{body}")
    assert set(parser_for(root, "train_network.py").arguments) == {"a"}
    assert "unet_lr" in parser_for(None, "train_network.py").arguments
    with pytest.raises(UnreadableFile, match=r"other\.py is none of the scripts"):
        parser_for(None, "other.py")


def test_the_commit_is_read_without_git(tmp_path: Path) -> None:
    git, sha = tmp_path / ".git", "0123456789" * 4
    (git / "refs/heads").mkdir(parents=True)
    assert commit_of(tmp_path) == ""
    (git / "HEAD").write_text(f"{sha}\n", encoding="utf-8")
    assert commit_of(tmp_path) == sha
    (git / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{sha} refs/heads/main\n", encoding="utf-8")
    assert commit_of(tmp_path) == sha
    (git / "refs/heads/main").write_text(f"{sha[::-1]}\n", encoding="utf-8")
    assert commit_of(tmp_path) == sha[::-1]


def test_the_version_is_the_first_of_the_readme(tmp_path: Path) -> None:
    assert version_of(tmp_path) == ""
    (tmp_path / "README.md").write_text("- **Version 1.2.3 (2026):**\n- **Version 1.2.2:**\n", encoding="utf-8")
    assert version_of(tmp_path) == "1.2.3"


# ------------------------------------------------------------------------------------------------------ a real checkout

DUMP = """
import argparse, importlib, json, sys
sys.argv = ["dump"]
told = {}
for script in %r:
    actions = importlib.import_module(script.removesuffix(".py")).setup_parser()._actions
    told[script] = [
        {
            "name": action.dest, "action": type(action).__name__, "nargs": action.nargs, "default": action.default,
            "type": getattr(action.type, "__name__", None), "required": action.required,
            "choices": None if action.choices is None else list(action.choices),
        }
        for action in actions if not isinstance(action, argparse._HelpAction)
    ]
print("dumped:" + json.dumps(told))
"""
SINGLE: dict[str | None, Kind] = {
    **{None: "str", "str": "str", "Path": "str", "int": "int", "float": "float", "int_or_float": "int_or_float"},
}


def kind_of(action: dict[str, Any]) -> str:
    """What argparse itself says of an argument, in our words."""
    if action["action"] in ("_StoreTrueAction", "_StoreFalseAction"):
        return "flag" if action["action"] == "_StoreTrueAction" else "off_flag"
    assert action["action"] == "_StoreAction"
    kind = SINGLE[action["type"]]
    return kind if action["nargs"] is None else f"list[{kind}]" if action["nargs"] in "*+" else f"optional_{kind}"


@needs_both
@pytest.mark.slow
def test_every_argument_is_read_as_the_real_parser_has_it() -> None:
    assert ROOT and PYTHON
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [PYTHON, "-c", DUMP % (SCRIPTS,)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("dumped:"))
    for script, actions in json.loads(line.removeprefix("dumped:")).items():
        real = {
            each["name"]: (kind_of(each), repr(each["default"]), each["choices"] or [], each["required"])
            for each in actions
        }
        ours = {
            each.name: (each.kind, repr(each.default), list(each.choices), each.required)
            for each in read_parser(Path(ROOT), script).arguments.values()
        }
        assert ours == real, script


@needs_checkout
def test_the_manifest_is_what_the_audited_checkout_says() -> None:
    assert ROOT
    if commit_of(Path(ROOT)) != load().commit:
        pytest.skip("another version than the audited one")
    now = manifest_of(Path(ROOT), PYTHON)
    assert now.parsers == load().parsers
    assert stored(replace(now, lycoris=load().lycoris)) == FILE.read_text(encoding="utf-8")


def test_lycoris_is_read_without_being_imported() -> None:
    folder = lycoris_folder(None)
    assert folder is not None
    now = read_lycoris(folder)
    assert now.version
    if now.version == load().lycoris.version:
        assert now == load().lycoris


def lycoris(folder: Path, modules: str, kohya: str) -> Path:
    """A made-up package."""
    (folder / "lycoris_lora-9.9.dist-info").mkdir()
    checkout(folder, lycoris____init__="", lycoris__modules=modules)
    table = "from .modules import Plain, Blocks\nnetwork_module_dict = {'lora': Plain, 'blocks': Blocks}\n"
    checkout(folder, lycoris__wrapper=table, lycoris__kohya=kohya)
    return folder / "lycoris"


MODULES = """
import torch
class Plain(torch.nn.Module):
    def __init__(self, lora_name, org_module, lora_dim=4, alpha=1, dropout=0.0, unused=False, **kwargs):
        self.dropout = dropout
class Blocks(Plain):
    def __init__(self, lora_name, org_module, lora_dim=4, alpha=1, block_size=4, **kwargs):
        self.size = int(block_size)
"""
CREATE = """
def create_network(multiplier, network_dim, **kwargs):
    dropout = float(kwargs.get("dropout", 0.0) or 0.0)
    unused = kwargs.get("unused", False)
    ratio = kwargs.get("ratio")
    network = Network(dropout=dropout, unused=unused, block_size=kwargs.get("size", 4), algo=kwargs.get("algo"))
    network.set(ratio)
"""


def test_arguments_of_lycoris(tmp_path: Path) -> None:
    assert read_lycoris(lycoris(tmp_path, MODULES, CREATE)) == Lycoris(
        "9.9", {"": ("algo", "ratio"), "lora": ("dropout",), "blocks": ("size",)}
    )


def test_a_package_that_is_not_lycoris(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no network_module_dict or no create_network"):
        read_lycoris(lycoris(tmp_path, MODULES, "x = 1\n"))


def test_lycoris_of_an_interpreter(tmp_path: Path) -> None:
    package = tmp_path / "env/lib/python3.10/site-packages/lycoris"
    package.mkdir(parents=True)
    assert lycoris_folder(str(tmp_path / "env/bin/python")) == package
    assert lycoris_folder(str(tmp_path / "other/bin/python")) is None


def test_versions_of_lycoris_differ() -> None:
    old = Lycoris("1", {"": ("algo",), "lora": ("a", "b")})
    new = Lycoris("2", {"": ("algo",), "lora": ("b", "c"), "x": ()})
    assert old.differences(new) == ["algo lora: c is new", "algo lora: a is gone", "algo x is new"]
    assert old.differences(old) == []
