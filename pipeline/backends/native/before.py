"""What the base model can do before the training, the same for all trials of a sweep that begin with it: judged and
drawn once, and kept in a folder of the sweep.

The folder's name holds a digest of everything that it follows from (render.py), so that other pictures, prompts or
weights never meet it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FILE_NAME = "before.json"
Tell = Callable[..., None]


def told_before(folder: Path, run_dir: Path, tell: Tell) -> bool:
    """Tells the events of step 0 again, with the pictures in `run_dir`; False where there is nothing to tell."""
    try:
        kept = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except OSError:
        return False
    if kept["values"]:
        tell("metric", step=0, values=kept["values"])
    for sample in kept["samples"]:
        path = run_dir / sample["path"]
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / path.name, path)
        tell("sample", **sample)
    return True


def keep_before(folder: Path, run_dir: Path, values: dict[str, float], samples: Sequence[dict[str, Any]]) -> None:
    """Under a name of its own first: another trial may do the same at this moment, and the first one stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    for sample in samples:
        shutil.copyfile(run_dir / sample["path"], made / Path(sample["path"]).name)
    (made / FILE_NAME).write_text(json.dumps({"values": values, "samples": list(samples)}), encoding="utf-8")
    try:
        made.rename(folder)
    except OSError:
        shutil.rmtree(made)
