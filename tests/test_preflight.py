"""What `until=validate` tells of buckets and of what is encoded already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given as each_of
from hypothesis import strategies

from pipeline.backends.native.encoding import Telling, encode_captions, encode_pictures
from pipeline.backends.native.job import NativeJob
from pipeline.backends.native.render import native_job, render
from pipeline.dataset.buckets import bucket_side, buckets_of, cropped_share
from pipeline.preflight import SHOWN, preflight_lines
from pipeline.records import Picture, Plan
from tests.conftest import PlanFor

SIDES = strategies.integers(1, 5000)


def sized(plan: Plan, *sizes: tuple[int, int]) -> Plan:
    pictures = tuple(Picture(Path(f"{n}.png"), "", *size, f"{n:064}") for n, size in enumerate(sizes))
    return replace(plan, dataset=replace(plan.dataset, train=pictures))


@each_of(SIDES, SIDES)
def test_what_is_cropped_is_a_share_and_nothing_of_the_sides_own_shape(width: int, height: int) -> None:
    side = bucket_side(width, height, resolution_px=512, step_px=64)
    assert 0 <= cropped_share(width, height, side) < 1
    assert cropped_share(2 * side[0], 2 * side[1], side) == pytest.approx(0, abs=1e-12)


def test_half_of_a_picture_twice_as_wide_is_cropped() -> None:
    assert cropped_share(200, 100, (64, 64)) == pytest.approx(0.5)


def test_a_bucket_tells_the_picture_that_loses_most(plan_for: PlanFor) -> None:
    pictures = sized(plan_for(), (64, 64), (64, 80), (100, 100)).dataset.train
    (bucket,) = buckets_of((picture, (64, 64)) for picture in pictures)
    assert (bucket.pictures, bucket.worst.path.name) == (3, "1.png")
    assert bucket.worst_cropped == pytest.approx(0.2)
    assert bucket.cropped == pytest.approx(0.2 / 3)


def test_each_bucket_has_a_line_with_its_batches(plan_for: PlanFor) -> None:
    plan = sized(plan_for("train.batch_size=2"), *[(64, 64)] * 5, (128, 64))
    told = "\n".join(preflight_lines(plan))
    assert "2 in all" in told
    assert "5 pictures     3 batches" in told


def test_many_buckets_are_counted(plan_for: PlanFor) -> None:
    plan = sized(plan_for("train.resolution_px=512"), *[(512, 100 + 70 * n) for n in range(20)])
    told = preflight_lines(plan)
    assert len([line for line in told if "batch  " in line]) == SHOWN
    assert told[-1].strip().startswith("and ")


SEVERAL = ("train.more_resolutions_px=[96]", "train.flip=true", "train.batch_size=2")


def test_each_resolution_tells_its_buckets_and_what_is_left_out(plan_for: PlanFor) -> None:
    told = "\n".join(preflight_lines(sized(plan_for(*SEVERAL), (64, 64), (128, 128), (128, 128), (200, 50))))
    assert "4 in all, batches are of one bucket of one resolution: the last batch" in told
    assert "at 64 px      4 pictures in 2 buckets\n" in told
    assert "at 96 px      3 pictures in 2 buckets, 1 too small for it and left out\n" in told


def test_encodings_of_all_resolutions_and_mirror_images_are_counted(plan_for: PlanFor, tmp_path: Path) -> None:
    plan = plan_for("train.more_resolutions_px=[32]", "train.flip=true", f"cache.dir={tmp_path / 'cache'}")
    count = 4 * len(plan.dataset.train) + len(plan.dataset.heldout)
    assert f"0 of {count} pictures, in all sizes and mirrored" in preflight_lines(plan)[0]
    render(plan, tmp_path)
    job = NativeJob.read(tmp_path / "job" / "train.toml")
    encode_pictures(job, job.pictures(), torch.device("cpu"), Telling(lambda _: None, lambda: None, lambda _: None))
    assert f"{count} of {count} pictures, in all sizes and mirrored" in preflight_lines(plan)[0]


def test_what_is_encoded_already_is_counted_before_anything_is_loaded(plan_for: PlanFor, tmp_path: Path) -> None:
    plan = plan_for(f"cache.dir={tmp_path / 'cache'}")
    count = len(plan.dataset.train) + len(plan.dataset.heldout)
    assert f"0 of {count} pictures" in preflight_lines(plan)[0]
    assert not (tmp_path / "cache").exists()
    render(plan, tmp_path)
    job = NativeJob.read(tmp_path / "job" / "train.toml")
    telling = Telling(lambda _: None, lambda: None, lambda _: None)
    encode_pictures(job, job.pictures(), torch.device("cpu"), telling)
    assert f"{count} of {count} pictures and 0 of" in preflight_lines(plan)[0]
    encode_captions(job, [str(row["caption"]) for row in job.pictures()], torch.device("cpu"), telling)
    assert " and 0 of" not in preflight_lines(plan)[0]


def test_what_is_encoded_is_counted_for_the_length_that_is_read(plan_for: PlanFor, tmp_path: Path) -> None:
    plan, longer = (
        plan_for(f"cache.dir={tmp_path / 'cache'}", f"train.caption_tokens={tokens}") for tokens in (75, 150)
    )
    render(plan, tmp_path)
    job = NativeJob.read(tmp_path / "job" / "train.toml")
    telling = Telling(lambda _: None, lambda: None, lambda _: None)
    encode_captions(job, [str(row["caption"]) for row in job.pictures()], torch.device("cpu"), telling)
    assert " and 0 of" not in preflight_lines(plan)[0]
    assert " and 0 of" in preflight_lines(longer)[0]


def test_captions_that_change_are_told_to_be_encoded_at_each_step(plan_for: PlanFor, tmp_path: Path) -> None:
    plan = plan_for("train.tag_dropout=0.5", "train.keep_tags=0", f"cache.dir={tmp_path / 'cache'}")
    assert native_job(plan, tmp_path, tmp_path).train.tag_dropout == 0.5
    assert "captions are encoded at each step" in preflight_lines(plan)[0]
    drawn = plan_for("data.wildcards=true", f"cache.dir={tmp_path / 'cache'}")
    (first, *rest) = drawn.dataset.train
    varied = replace(drawn.dataset, train=(replace(first, caption="a\nb"), *rest))
    assert "captions are encoded at each step" in preflight_lines(replace(drawn, dataset=varied))[0]
    assert "captions are encoded at each step" not in preflight_lines(drawn)[0]
