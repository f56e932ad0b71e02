"""What is rendered for sd-scripts, for every model and mode that it trains, kept as files that a person can read.

    python -m tests.golden_kohya

makes them anew and shows the difference. Each holds train.toml and then dataset.toml, of a run with `profile=style` on
a card with bfloat16, without a checkout: by the audited version.
"""

from __future__ import annotations

import difflib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import tomli_w

from pipeline.backends.kohya.memory import most_blocks
from pipeline.backends.kohya.network import network_part
from pipeline.backends.kohya.render import render
from pipeline.memory.profiles import first_candidate
from pipeline.records import Checkpoint, Facts, Plan
from pipeline.settings import PROJECT, Algorithm, Settings
from pipeline.validate import validate
from tests import given

FOLDER = PROJECT / "tests" / "kohya_golden"
NETWORKS, RESOLUTIONS = "networks", "resolutions"
MODES = ("lora", "finetune")
MEMORY = "memory=low_memory"
"""Named, so that the files do not follow the estimate; of the four, the one that says most."""
MODELS = tuple(sorted(path.stem for path in (PROJECT / "conf" / "model").glob("*.yaml") if path.stem != "auto"))


@cache
def models() -> Path:
    """A folder of empty files that stand for the models and their parts; it is gone with the process."""
    folder = tempfile.TemporaryDirectory()
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def composed(model: str, mode: str, *more: str) -> Settings:
    """As a user would type it, with every part of the model in a file of its own where the script wants that."""
    folder = models()
    file = folder / "model.safetensors"
    file.touch()
    typed = [
        "backend=kohya",
        f"model={model}",
        f"model.path={file}",
        f"mode={mode}",
        "data=folder",
        "data.dir=pictures",
    ]
    bare = given.settings(*typed)
    parts = [name for name, part in bare.model.known.parts.items() if not part.inside and _is_named(bare, name)]
    for name in parts:
        (folder / f"{name}.safetensors").touch()
    given_parts = [f"model.parts.{name}={folder / name}.safetensors" for name in parts]
    return given.settings(*typed, *given_parts, *more)


def sized(settings: Settings) -> Settings:
    """With what validate lets the memory profile decide."""
    return first_candidate(settings, most_blocks(settings))


def _is_named(settings: Settings, name: str) -> bool:
    """Of parts of which one is enough only the first."""
    return not any(name in either[1:] for either in settings.model.known.alternatives)


def facts_of(settings: Settings) -> Facts:
    """Of a card, and of a model that is what it is taken for."""
    known = settings.model.known
    checkpoint = Checkpoint(
        path=Path(settings.model.path),
        layout="single_file",
        family=settings.model.family,
        prediction=settings.model.signature.get("predicts") or "v_prediction",
        parameters=10**9,
        bytes=2 * 10**9,
        digest="c" * 64,
        models=(settings.model.name,),
        parts=("denoiser", *(name for name, part in known.parts.items() if part.inside)),
    )
    return given.facts(machine=given.CARD, checkpoint=checkpoint, dataset=given.dataset(), disk_free_bytes=10**13)


def plan_of(model: str, mode: str, *more: str) -> Plan:
    settings = composed(model, mode, *more)
    return validate(settings, facts_of(settings))


def has_script(model: str, mode: str) -> bool:
    kohya = composed(model, "lora").model.known.kohya
    return (kohya.lora_script if mode == "lora" else kohya.finetune_script) is not None


CASES = tuple((model, mode) for model in MODELS for mode in MODES if has_script(model, mode))


def golden(model: str, mode: str) -> str:
    """The text of a file; folders of this machine have names that stand for them."""
    return _rendered(plan_of(model, mode, MEMORY), f"model={model} mode={mode} {MEMORY}")


def resolutions() -> str:
    """Mirror images, and a picture for each of three resolutions that is too small for the next; eight are held out."""
    words = ("train.resolution_px=512", "train.more_resolutions_px=[768,1024]", "train.flip=true", "train.batch_size=2")
    settings = composed("flux_dev", "lora", *words, "train.effective_batch_size=2")
    whole = given.dataset(24, 8)
    sizes = [(512, 512)] * 8 + [(768, 768)] * 8 + [(1024, 1024)] * 8
    train = (replace(each, width_px=w, height_px=h) for each, (w, h) in zip(whole.train, sizes, strict=True))
    facts = replace(facts_of(settings), dataset=replace(whole, train=tuple(train)))
    return _rendered(validate(settings, facts), f"model=flux_dev {' '.join(words)}")


def _rendered(plan: Plan, words: str) -> str:
    with tempfile.TemporaryDirectory() as run_dir:
        job = Path(run_dir, "job")
        render(plan, Path(run_dir))
        train, dataset = (job / "train.toml").read_text(), (job / "dataset.toml").read_text()
    text = f"# python run.py backend=kohya {words}\n\n# train.toml\n{train}\n# dataset.toml\n{dataset}"
    return text.replace(run_dir, "RUN").replace(str(models()), "MODELS")


def networks() -> str:
    """How each algorithm travels, on a model with convolutions and on one without."""
    tables = {
        model: {
            algorithm.value: _network(model, algorithm) for algorithm in Algorithm if algorithm is not Algorithm.tlora
        }
        for model in ("sdxl", "flux_dev")
    }
    return f"# python run.py backend=kohya model=... network=...\n\n{tomli_w.dumps(tables)}"


def _network(model: str, algorithm: Algorithm) -> dict[str, object]:
    settings = given.settings("backend=kohya", f"model={model}", "model.path=x", f"network={algorithm.value}")
    part = network_part(settings)
    assert part is not None
    shown = {"network_module": part.module, "network_dim": part.dim, "network_alpha": part.alpha}
    return {**{name: value for name, value in shown.items() if value is not None}, "network_args": part.lines()}


def texts() -> Iterator[tuple[str, str]]:
    """(name of the file, its text)."""
    for model, mode in CASES:
        yield f"{model}-{mode}.toml", golden(model, mode)
    yield f"{NETWORKS}.toml", networks()
    yield f"{RESOLUTIONS}.toml", resolutions()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    wanted = dict(texts())
    for stale in {path.name for path in FOLDER.iterdir()} - wanted.keys():
        (FOLDER / stale).unlink()
        sys.stdout.write(f"gone: {stale}\n")
    for name, text in wanted.items():
        path = FOLDER / name
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = difflib.unified_diff(before.splitlines(True), text.splitlines(True), name, f"{name}, new")
        sys.stdout.writelines(lines)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
