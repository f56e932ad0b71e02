"""Prints what the parsers of real scripts take.   PYTHON real_parsers.py SCRIPT...   in the checkout's folder

Run by the checkout's own interpreter: it imports the scripts, which the program itself never does. A line of JSON:
{"train_network.py": {"seed": {"type": "int", "nargs": null, "choices": null, "flag": false}}}
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))


def main(scripts: "list[str]") -> None:
    found = {name: taken(importlib.import_module(name[: -len(".py")]).setup_parser()) for name in scripts}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def taken(parser: argparse.ArgumentParser) -> "dict[str, object]":
    return {
        action.dest: {
            "type": getattr(action.type, "__name__", None),
            "nargs": action.nargs,
            "choices": None if action.choices is None else list(action.choices),
            "flag": isinstance(action.const, bool),
        }
        for action in parser._actions
    }


if __name__ == "__main__":
    main(sys.argv[1:])
