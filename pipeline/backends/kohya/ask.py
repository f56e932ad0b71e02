"""Asks an environment what it holds, and prints the answer as lines of JSON.   python ask.py TORCH_ASK ROOT NAME...

Run by the interpreter of a checkout, which may be an older Python and knows nothing of this project. TORCH_ASK is the
file that asks torch, ROOT the checkout, from which nothing may be imported, and each NAME a package whose version is
wanted, or `module:` and a module of which it is only asked whether it is there.

    {"python": "3.11.7", "torch": "2.14.1+cu130", "platform": "cpu", "devices": [...],
     "packages": {"torch": "2.14.1"}, "broken": {"bitsandbytes": "ImportError: ..."}}

One line after each import: where an import kills the interpreter or hangs, the last line says which one it was.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import platform
import runpy
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

MODULE = "module:"
IMPORTED = ("torchvision", "bitsandbytes")
"""Compiled against one build of torch or one driver: that they are installed does not say that they run."""
NEVER_ENDED = "importing it ended the interpreter, or never came to an end"


def main(torch_ask: str, root: str, names: list[str]) -> None:
    _forget(Path(__file__).parent, Path(root))
    versions = {name: _version(name) for name in names}
    packages = {name: version for name, version in versions.items() if version and name not in IMPORTED}
    answer = {"python": platform.python_version(), "packages": packages, "broken": {}, **_torch(torch_ask)}
    for name in IMPORTED:
        _write({**answer, "broken": {**answer["broken"], name: NEVER_ENDED}})
        _import(name, answer)
    _write(answer)


def _forget(*folders: Path) -> None:
    """Python puts the folder of a script on its path, and an editable installation that of its sources."""
    unwanted = {folder.resolve() for folder in folders}
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in unwanted]


def _version(name: str) -> str:
    if name.startswith(MODULE):
        return "there" if importlib.util.find_spec(name[len(MODULE) :]) else ""
    try:
        return str(metadata.version(name))
    except metadata.PackageNotFoundError:
        return ""


def _torch(torch_ask: str) -> dict[str, Any]:
    """Empty where it is not installed; a torch that is and can't be imported ends the program with its own words."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return {"torch": "", "platform": "cpu", "devices": []}
    said: dict[str, Any] = runpy.run_path(torch_ask)["answer"](torch, "auto")
    return said


def _import(name: str, answer: dict[str, Any]) -> None:
    """Adds the package to what is there or to what is broken; to neither where it is not installed."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  (a broken build raises whatever it likes)
        if not isinstance(error, ModuleNotFoundError) or error.name != name:
            said = str(error).strip().splitlines() or [""]
            answer["broken"][name] = f"{type(error).__name__}: {said[0]}"
    else:
        answer["packages"][name] = _version(name) or str(getattr(module, "__version__", ""))


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
