"""What our own trainer makes of repeats, regularisation pictures and masks, on a tiny model."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline.backends.native.batches import BatchOrder, shown_rows
from pipeline.backends.native.encoding import read_mask
from pipeline.backends.native.job import NativeJob
from pipeline.backends.native.loop import Training, batch_losses, prepare
from pipeline.backends.native.processes import join_processes
from pipeline.backends.native.stopping import StopSignal
from pipeline.dataset.scan import scan
from pipeline.records import Job
from pipeline.render import render
from tests import given
from tests.conftest import PlanFor
from tests.native_jobs import events, finish, start, wait_for_step


def rendered(plan_for: PlanFor, folder: Path, run: str, *overrides: str, steps: int = 4, **data: Any) -> Job:
    plan = plan_for(f"cache.dir={folder / 'cache'}", "train.batch_size=2", *overrides, steps=steps)
    dataset, problems = scan(given.data(folder / "in", **data), threads=1)
    assert dataset is not None
    assert not problems
    (folder / run).mkdir()
    return render(replace(plan, dataset=dataset), folder / run)


def prepared(plan_for: PlanFor, folder: Path, run: str, *overrides: str, **data: Any) -> Training:
    job = NativeJob.read(rendered(plan_for, folder, run, *overrides, **data).run_dir / "job" / "train.toml")
    return prepare(job, join_processes(job), StopSignal(), None)


def losses(training: Training) -> dict[str, float]:
    """Of the first micro-batches, by picture."""
    found: dict[str, float] = {}
    for position in range(training.order.batches_per_epoch):
        each, batch = batch_losses(training, position)
        found |= {picture.path.name: float(loss.detach()) for picture, loss in zip(batch, each, strict=True)}
    return found


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        given.picture(folder / f"{name}.png", f"caption {name}", size=(64, 64))


def mask(path: Path, left: int, right: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", (64, 64), right)
    image.paste(left, (0, 0, 32, 64))
    image.save(path)


def test_what_a_mask_leaves_out_adds_nothing_to_the_loss(plan_for: PlanFor, tmp_path: Path) -> None:
    pictures(tmp_path / "in", "a", "b")
    for name, (left, right) in {"none/a": (0, 0), "none/b": (0, 0), "all/a": (255, 255), "all/b": (255, 255)}.items():
        mask(tmp_path / "masks" / f"{name}.png", left, right)
    for name in "ab":
        mask(tmp_path / "masks" / "half" / f"{name}.png", 255, 0)
    plain = losses(prepared(plan_for, tmp_path, "plain"))
    found = {
        kind: losses(prepared(plan_for, tmp_path, kind, masks_dir=str(tmp_path / "masks" / kind)))
        for kind in ("none", "half", "all")
    }
    assert found["none"] == {"a.png": 0.0, "b.png": 0.0}
    assert found["all"] == plain
    assert all(0 < found["half"][name] < plain[name] for name in plain)


def test_a_mask_is_cropped_as_its_picture_and_averaged_over_each_latent(tmp_path: Path) -> None:
    mask(tmp_path / "m.png", 255, 0)
    from hashlib import sha256

    digest = sha256((tmp_path / "m.png").read_bytes()).hexdigest()
    row = {"path": "other", "mask_path": str(tmp_path / "m.png"), "mask_digest": digest}
    whole, cut = read_mask(row, (64, 64)), read_mask(row, (48, 64))
    assert whole.shape == (1, 8, 8)
    assert whole[0].mean(dim=0).tolist() == [1.0] * 4 + [0.0] * 4
    assert cut.shape == (1, 8, 6)
    assert cut[0].mean(dim=0).tolist() == [1.0] * 3 + [0.0] * 3


def test_transparency_masks_the_loss(plan_for: PlanFor, tmp_path: Path) -> None:
    pictures(tmp_path / "in", "a", "b")
    with Image.open(tmp_path / "in" / "b.png") as image:
        clear = image.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "in" / "b.png")
    found = losses(prepared(plan_for, tmp_path, "run", alpha_masks=True))
    assert found["b.png"] == 0
    assert found["a.png"] > 0


def test_regularisation_pictures_are_weighed(plan_for: PlanFor, tmp_path: Path) -> None:
    pictures(tmp_path / "in", "a", "b")
    pictures(tmp_path / "reg", "x", "y")
    weights = ("1.0", "0.5", "0.0")
    found = [
        losses(prepared(plan_for, tmp_path, each, f"train.prior_loss_weight={each}", reg_dir=str(tmp_path / "reg")))
        for each in weights
    ]
    for name in ("a.png", "b.png"):
        assert found[0][name] == found[1][name] == found[2][name] > 0
    for name in ("x.png", "y.png"):
        assert found[1][name] == pytest.approx(found[0][name] / 2)
        assert (found[0][name] > 0, found[2][name]) == (True, 0)


def test_the_held_out_loss_is_masked_too(plan_for: PlanFor, tmp_path: Path) -> None:
    pictures(tmp_path / "in", *"abcdef")
    for name in "abcdef":
        mask(tmp_path / "masks" / f"{name}.png", 0, 0)
    training = prepared(plan_for, tmp_path, "run", masks_dir=str(tmp_path / "masks"), heldout_fraction=0.2)
    assert len(training.heldout) == 1
    assert torch.equal(training.heldout[0].mask, torch.zeros(1, 8, 8))


def row(split: str, repeats: int = 1) -> dict[str, Any]:
    return {"split": split} | ({"repeats": repeats} if repeats != 1 else {})


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([row("train"), row("heldout"), row("train", 3)], [0, 2, 2, 2]),
        ([row("train", 3), row("reg"), row("reg")], [0, 0, 0, 1, 2, 1]),
        ([row("train"), row("reg"), row("reg")], [0, 1]),
        ([row("train", 3), row("reg", 2), row("reg")], [0, 0, 0, 1, 1, 2]),
        ([row("heldout"), row("train")], [1]),
    ],
)
def test_an_epoch_shows_each_as_often_as_it_says(rows: list[dict[str, Any]], shown: list[int]) -> None:
    assert shown_rows(rows) == shown


def test_no_place_of_an_epoch_is_left_out() -> None:
    rows = [row("train", 5), row("train"), row("train", 2), row("reg")]
    places = shown_rows(rows)
    order = BatchOrder([(64, 64) if place % 2 else (96, 32) for place in places], 3, seed=0)
    seen = Counter(place for number in range(order.batches_per_epoch) for place in order.batch(number))
    assert set(seen) == set(range(len(places)))


@pytest.mark.slow
def test_a_killed_run_with_all_that_is_drawn_ends_with_the_same_bytes(plan_for: PlanFor, tmp_path: Path) -> None:
    """Repeats, regularisation, masks, several sizes, mirror images, lines and alternatives of captions."""
    for name in "ab":
        given.picture(tmp_path / "in" / "3_cat" / f"{name}.png", "{one|two} red {cats|dogs}\na star", size=(64, 64))
        mask(tmp_path / "masks" / f"{name}.png", 255, 60)
    pictures(tmp_path / "reg", "x")
    given_data = {"reg_dir": str(tmp_path / "reg"), "masks_dir": str(tmp_path / "masks")}
    asked = (
        *("train.checkpoint_every_steps=3", "train.prior_loss_weight=0.7", "data.wildcards=true", "train.flip=true"),
        *("train.resolution_px=32", "train.more_resolutions_px=[64]", "train.caption_tokens=150"),
    )
    whole = finish(rendered(plan_for, tmp_path, "whole", *asked, steps=12, **given_data))
    job = rendered(plan_for, tmp_path, "killed", *asked, steps=12, **given_data)
    process = start(job)
    wait_for_step(job.run_dir, 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert finish(job).read_bytes() == whole.read_bytes()
    assert {"text": "going on from step 3"} in events(job.run_dir, "phase")
