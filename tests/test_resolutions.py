"""Several resolutions and mirror images: which pictures are trained where, and what is refused, told and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given as each_of
from hypothesis import strategies as st

from pipeline.backends.kohya.buckets import bucket_sides, nearest_side
from pipeline.backends.kohya.cache_keeping import cache_part
from pipeline.backends.kohya.support import kohya_problems
from pipeline.backends.kohya.translation import script_for
from pipeline.checks.families import family_warnings
from pipeline.checks.recipes import recipe_warnings
from pipeline.checks.resolutions import resolution_problems, resolution_warnings
from pipeline.dataset.buckets import Side, bucket_side, cropped_share
from pipeline.dataset.resolutions import is_large_enough, pictures_at, px_words
from pipeline.length import steps_of
from pipeline.memory.fit import changes
from pipeline.memory.host import Kept, cached_bytes
from pipeline.memory.plain import plain_load
from pipeline.memory.profiles import first_candidate
from pipeline.records import Dataset, Picture
from pipeline.settings import Settings
from pipeline.validate import validate
from pipeline.wording import plan_lines
from tests import given, golden_kohya

SIDES = st.integers(64, 4000)
MORE = ("train.more_resolutions_px=[96,128]",)


def dataset(*sizes: Side, captions: str = "picture {}") -> Dataset:
    pictures = (Picture(Path(f"{n}.png"), captions.format(n), *size, f"{n:064}") for n, size in enumerate(sizes))
    return replace(given.dataset(), train=tuple(pictures))


SIZES = ((64, 64), (96, 96), (128, 128), (300, 40), (30, 30))
"""At a base of 64 px all of them are trained, at 96 px two, at 128 px one: the long one is wide enough for none."""


# ------------------------------------------------------------------------------------------------------------- pictures


def test_at_the_base_all_are_trained_and_elsewhere_those_that_are_large_enough() -> None:
    at = pictures_at(dataset(*SIZES).train, given.settings(*MORE).train)
    assert {px: [each.path.stem for each in those] for px, those in at.items()} == {
        64: ["0", "1", "2", "3", "4"],
        96: ["1", "2"],
        128: ["2"],
    }


@each_of(SIDES, SIDES, st.sampled_from((512, 768, 1024)))
def test_what_is_large_enough_is_hardly_enlarged_by_either_trainer(width: int, height: int, px: int) -> None:
    """A bucket is a step off at most."""
    if is_large_enough(width, height, px):
        ours = bucket_side(width, height, resolution_px=px, step_px=64)
        for side in (ours, nearest_side(bucket_sides(px, 64), width, height)):
            assert max(side[0] / width, side[1] / height) < 1.1, side


@each_of(SIDES, SIDES)
def test_a_picture_that_is_turned_loses_as_much(width: int, height: int) -> None:
    lost, turned = (
        cropped_share(*size, bucket_side(*size, resolution_px=512, step_px=64))
        for size in ((width, height), (height, width))
    )
    assert lost == pytest.approx(turned, abs=1e-6)


def test_resolutions_are_told_as_one_would_say_them() -> None:
    assert [px_words(sides) for sides in ((512,), (512, 768), (512, 768, 1024))] == [
        "512 px",
        "512 and 768 px",
        "512, 768 and 1024 px",
    ]


# -------------------------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("asked", "reason", "fix"),
    [
        ([96, 70], "must be a multiple of model.resolution_step_px=8", "'train.more_resolutions_px=[96,72]'"),
        ([70], "must be a multiple of model.resolution_step_px=8", "'train.more_resolutions_px=[72]'"),
        ([96, 64], "is train.resolution_px=64 itself", "'train.more_resolutions_px=[96]'"),
        ([96, 128, 96], "stands there twice", "'train.more_resolutions_px=[128,96]'"),
        ([136, 96], "the demo model is known to train with at most 128 px", "'train.more_resolutions_px=[96]'"),
        ([0], "each must be 32 to 4096", "'train.more_resolutions_px=[]'"),
        ([-8], "each must be 32 to 4096", "'train.more_resolutions_px=[]'"),
        ([104], "no picture is large enough for it", "'train.more_resolutions_px=[]'"),
    ],
)
def test_what_can_not_be_trained_is_told_with_what_to_type(asked: list[int], reason: str, fix: str) -> None:
    pictures = dataset((64, 64), (100, 100) if asked == [104] else (200, 200))
    (problem,) = resolution_problems(given.settings(train__more_resolutions_px=asked), pictures)
    assert (problem.key, problem.fix) == ("train.more_resolutions_px", fix)
    assert reason in problem.reason


@pytest.mark.parametrize("step", [0, 4, 12])
def test_a_wrong_step_of_the_model_is_told_and_no_more(step: int) -> None:
    settings = given.settings(train__more_resolutions_px=[96], model__resolution_step_px=step)
    assert list(resolution_problems(settings, dataset((96, 96)))) == []


def test_pictures_that_are_left_out_are_named() -> None:
    assert list(resolution_warnings(given.settings(*MORE), dataset((128, 128), (96, 96), (64, 64)))) == [
        "1 picture too small for train.more_resolutions_px=96, and trained at the other sizes only: 2.png",
        "2 pictures too small for train.more_resolutions_px=128, and trained at the other sizes only: 1.png, 2.png",
    ]


def test_a_further_size_below_what_the_model_is_known_for_is_warned_of() -> None:
    (told,) = family_warnings(given.settings(train__more_resolutions_px=[24, 96]))
    assert told.startswith("train.more_resolutions_px=24 is smaller than 32: the demo model is known")


@pytest.mark.parametrize(("model", "refused"), [("sdxl", True), ("sd15", True), ("flux_dev", False)])
def test_sizes_that_share_a_file_of_sd_scripts_are_refused(model: str, refused: bool) -> None:
    words = ("backend.cache_latents=disk", "train.resolution_px=512", "train.more_resolutions_px=[256]")
    settings = golden_kohya.composed(model, "lora", *words, "train.shuffle_tags=false")
    facts = replace(golden_kohya.facts_of(settings), dataset=dataset((512, 512)))
    told = [each for each in kohya_problems(golden_kohya.sized(settings), facts) if "cache_latents" in each.key]
    assert [each.fix for each in told] == (["backend.cache_latents=memory"] if refused else [])


@pytest.mark.parametrize(("model", "differ"), [("sdxl", True), ("sd15", True), ("flux_dev", False)])
def test_latents_of_another_resolution_are_stale_where_sd_scripts_does_not_look(model: str, differ: bool) -> None:
    """Those of flow models are found in their file by their size. Mirror images are looked for in either."""
    settings = golden_kohya.composed(model, "lora", "train.resolution_px=768")
    base = latents_of(settings)
    assert (latents_of(settings, resolution_px=512) != base) == differ
    assert latents_of(settings, flip=True) == base


def latents_of(settings: Settings, **train: object) -> str:
    settings = replace(settings, train=replace(settings.train, **train))  # type: ignore[arg-type]
    checkpoint, script = golden_kohya.facts_of(settings).checkpoint, script_for(settings)
    assert checkpoint is not None and script is not None
    part = cache_part(settings, checkpoint, script, "bf16", latents="disk", text="off")
    assert part is not None
    return part.vae


def test_captions_that_tell_sides_are_told_where_pictures_are_mirrored() -> None:
    sides = dataset((64, 64), (64, 64), captions="a cat on the LEFT, picture {}")
    (told,) = recipe_warnings(given.settings("train.flip=true"), sides)
    assert told.startswith("train.flip=true, and 2 captions speak of left or right: usual is off")
    assert told.endswith("try train.flip=false")
    assert list(recipe_warnings(given.settings(), sides)) == []
    brightly = dataset((64, 64), captions="a bright cat leftover, picture {}")
    assert list(recipe_warnings(given.settings("train.flip=true"), brightly)) == []


# -------------------------------------------------------------------------------------------------------------- length


def test_a_pass_has_a_picture_once_at_each_of_its_resolutions() -> None:
    settings = sized(*MORE, "train.epochs=10", "train.batch_size=5", "train.accumulation_steps=1")
    steps, choice = steps_of(settings, dataset(*[(64, 64)] * 8, *[(96, 96)] * 6, *[(128, 128)] * 10))
    assert steps == 100
    assert choice is not None
    told = "(24 pictures at 64 px + 16 at 96 px + 10 at 128 px) x 1 repeat x 10 epochs / batch 5 = 100 steps"
    assert choice.reason == f"{told}; train.epochs=10"


def test_samples_of_a_picture_are_those_of_all_its_resolutions() -> None:
    given_length = ("train.batch_size=8", "train.accumulation_steps=1", "train.samples_per_image=50")
    pictures = dataset(*[(128, 128)] * 24)
    assert steps_of(sized(*given_length, *MORE), pictures)[0] == steps_of(sized(*given_length), pictures)[0]


def test_the_plan_tells_resolutions_and_flips() -> None:
    facts = given.facts(dataset=replace(dataset(*SIZES), heldout=given.pictures(2)))
    plan = validate(given.settings(*MORE, "train.flip=true"), facts)
    told = "\n".join(plan_lines(plan))
    assert "(5 pictures at 64 px + 2 at 96 px + 1 at 128 px) x 1 repeat" in told
    assert "64, 96 and 128 px" in told
    assert "mirrored in half of the draws" in told


@pytest.mark.parametrize("typed", [MORE, ("train.flip=true",)])
def test_they_change_the_weights_and_so_the_fingerprint(typed: tuple[str, ...]) -> None:
    facts = given.facts(dataset=dataset((128, 128)))
    assert validate(given.settings(*typed), facts).fingerprint != validate(given.settings(), facts).fingerprint


# -------------------------------------------------------------------------------------------------------------- memory


def sized(*typed: str) -> Settings:
    return first_candidate(given.settings(*typed), 0)


@pytest.mark.parametrize(("more", "largest"), [("[96,128]", 128), ("[32]", 64)])
def test_memory_is_that_of_the_largest_trained_and_of_the_base_drawn(more: str, largest: int) -> None:
    load = plain_load(sized(f"train.more_resolutions_px={more}"), given.facts(), given.CHECKPOINT)
    assert (load.side_px, load.drawn_px) == (largest, 64)


def test_what_needs_less_memory_gives_up_the_largest_resolution_first() -> None:
    settings = sized("model=sdxl", "model.path=x", "train.more_resolutions_px=[512,1280,1536]")
    typed = [change.typed for change in changes(settings) if "resolution" in change.typed]
    assert typed[:3] == [
        "'train.more_resolutions_px=[512,1280]'",
        "'train.more_resolutions_px=[512]'",
        "train.resolution_px=960 'train.more_resolutions_px=[512]'",
    ]


def test_caches_are_counted_for_every_resolution_and_mirror_image() -> None:
    """Four numbers of 4 bytes for 64 pixels; what is held out is kept at the base alone."""
    pictures, kept = given.dataset(10, 2), Kept("disk", "off")
    plain, more, flipped = (
        cached_bytes(sized(*typed), pictures, kept, "disk")
        for typed in ((), ("train.more_resolutions_px=[128]",), ("train.more_resolutions_px=[128]", "train.flip=true"))
    )
    base, large = 64 * 64 * 4 / 64 * 4, 128 * 128 * 4 / 64 * 4
    assert (plain, more) == (12 * base, 12 * base + 10 * large)
    assert flipped == 12 * base + 10 * large + 10 * (base + large)


def test_texts_in_memory_are_kept_by_each_resolution() -> None:
    pictures, settings = given.dataset(10, 2), sized("train.more_resolutions_px=[128]")
    in_memory, on_disk = (cached_bytes(settings, pictures, Kept("off", place), place) for place in ("memory", "disk"))
    assert in_memory / on_disk == pytest.approx(22 / 12)
