"""Sweeps on disk as trials leave them: written by the journal and the outcome, with real pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image

from pipeline.errors import Cause
from pipeline.journal import Journal
from pipeline.outcome import recorded, write_outcome
from pipeline.records import Status
from pipeline.sweep.results import SWEEP_FILE

PROMPTS = ("a star", "a house")
COLOURS = ("red", "green", "blue", "orange")
BEFORE = 0.4
STEPS = 20


def new_sweep(folder: Path, *shared: str) -> Path:
    """What Hydra writes before the first trial."""
    folder.mkdir(parents=True)
    (folder / SWEEP_FILE).write_text(yaml.safe_dump({"hydra": {"overrides": {"task": list(shared)}}}))
    return folder


def add_trial(
    sweep_dir: Path,
    number: int,
    varied: Mapping[str, str],
    *,
    loss: float | None = None,
    ends: Status | None = "finished",
    reason: str = "",
    prompts: Sequence[str] = PROMPTS,
    shared: Sequence[str] = ("profile=style",),
    weights: bytes | None = b"weights",
) -> Path:
    """A trial with its held-out loss at the end; `ends` None: it goes on. The journal holds all but the end of one
    that goes on."""
    run_dir = begin_trial(sweep_dir, number, [*shared, *(f"{key}={value}" for key, value in varied.items())])
    journal = Journal(run_dir)
    _train(journal, loss)
    if loss is not None:
        _draw(journal, run_dir, prompts, COLOURS[number % len(COLOURS)])
    if ends == "finished" and weights is not None:
        (run_dir / "weights").mkdir()
        (run_dir / "weights" / "style-demo.safetensors").write_bytes(weights)
        journal.write("weights", path="weights/style-demo.safetensors", memory_bytes=2**30)
    if ends is not None:
        _end(journal, run_dir, ends, reason)
    journal.close()
    return run_dir


def begin_trial(sweep_dir: Path, number: int, overrides: Sequence[str]) -> Path:
    """As far as the runner's first line."""
    run_dir = sweep_dir / str(number)
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    journal = Journal(run_dir)
    journal.write("run", name=str(number), command=f"python run.py {' '.join(overrides)}", pid=1, host="here")
    journal.close()
    return run_dir


def _train(journal: Journal, loss: float | None) -> None:
    journal.write("metric", step=0, values={"heldout/loss": BEFORE})
    for step in range(1, STEPS + 1):
        journal.write("step", step=step, steps=STEPS, loss=1 / step, lr=1e-4, memory_bytes=2**29)
    if loss is not None:
        journal.write("metric", step=STEPS // 2, values={"heldout/loss": (BEFORE + loss) / 2})
        journal.write("metric", step=STEPS, values={"heldout/loss": loss})


def _draw(journal: Journal, run_dir: Path, prompts: Sequence[str], colour: str) -> None:
    (run_dir / "samples").mkdir()
    for step in (0, STEPS):
        for index, prompt in enumerate(prompts):
            path = f"samples/step-{step:06}_{index}.png"
            Image.new("RGB", (8, 8), colour if step else "black").save(run_dir / path)
            journal.write("sample", step=step, index=index, prompt=prompt, seed=index, path=path)


def _end(journal: Journal, run_dir: Path, ends: Status, reason: str) -> None:
    cause = None
    if ends == "failed":
        cause = Cause.NOT_FINITE
        journal.write("failure", cause=cause.value, message=f"{reason}\nmore of it")
    if ends == "pruned":
        journal.write("prune", reason=reason)
    outcome = recorded(run_dir, ends, cause)
    write_outcome(run_dir, outcome)
    journal.write("end", status=ends, cause=outcome.cause)
