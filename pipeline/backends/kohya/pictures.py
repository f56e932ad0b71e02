"""What sd-scripts can't do with the pictures of a dataset, or would do with what lies beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.backends.kohya.cache_keeping import cache_part, stale_of
from pipeline.backends.kohya.caches import cache_problems
from pipeline.backends.kohya.dataset_file import as_written, takes_links
from pipeline.backends.kohya.scripts import FINE_TUNE, WEIGHS_REG
from pipeline.backends.kohya.train_file import chosen_caches
from pipeline.errors import Problem
from pipeline.records import Picture
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.backends.kohya.support import Script

NAMED = 3
"""How many files a message names before it counts the rest."""


def turned_pictures(script: Script) -> Iterator[Problem]:
    """Which it would train on as they are stored."""
    dataset = script.facts.dataset
    pictures = (*dataset.train, *dataset.heldout, *dataset.regularisation) if dataset else ()
    turned = [each for each in pictures if each.orientation != 1]
    if turned:
        many = "1 picture is" if len(turned) == 1 else f"{len(turned)} pictures are"
        reason = f"{many} stored turned (EXIF), and sd-scripts would train on them as stored: {_listed(turned)}"
        fix = "save them upright (exiftran -ai FILE, mogrify -auto-orient FILE), or backend=native"
        yield Problem("data.dir", script.settings.data.dir, reason, fix)


def folders_only(script: Script) -> Iterator[Problem]:
    """What sd-scripts takes from folders of pictures, each script in its own way."""
    data = script.settings.data
    asked = [(name, value) for name in ("reg_dir", "masks_dir") if (value := getattr(data, name)) is not None]
    if script.name in FINE_TUNE:
        for name, value in asked:
            yield Problem(
                f"data.{name}", value, f"{script.name} has no use for it", f"backend=native, or no data.{name}"
            )
    elif len(asked) > 1:
        reason = "sd-scripts takes masks of a folder only where there are no regularisation pictures"
        fix = "data.alpha_masks=true, with the masks as transparency; or backend=native"
        yield Problem("data.masks_dir", data.masks_dir, reason, fix)
    weight = script.settings.train.prior_loss_weight
    if data.reg_dir is not None and weight != 1 and script.name not in WEIGHS_REG:
        reason = f"{script.name} weighs regularisation pictures like all others"
        yield Problem("train.prior_loss_weight", weight, reason, "train.prior_loss_weight=1, or backend=native")


def stale_of_pictures(script: Script) -> Iterator[Problem]:
    """Caches beside the pictures that don't fit them any more."""
    settings, facts = script.settings, script.facts
    if facts.dataset is None or facts.checkpoint is None or takes_links(facts.dataset):
        return
    latents, text = chosen_caches(settings, script.parser)
    if "disk" in (latents, text):
        yield from _shared_names(script, facts.dataset.train)
    part = cache_part(settings, facts.checkpoint, script.name, script.context().precision, latents=latents, text=text)
    if part is not None:
        yield from cache_problems(
            stale_of(part, [_as_read(each, settings) for each in facts.dataset.train]), clearing=part.clears
        )


def _shared_names(script: Script, pictures: Sequence[Picture]) -> Iterator[Problem]:
    """A cache has its picture's name without the ending: the second of two would be trained as the first."""
    stems = Counter(picture.path.with_suffix("") for picture in pictures)
    twice = [picture for picture in pictures if stems[picture.path.with_suffix("")] > 1]
    if twice:
        reason = f"pictures whose names differ in the ending only share one cache on the disk: {_listed(twice)}"
        yield Problem("data.dir", script.settings.data.dir, reason, "other names, or caches in memory")


def _as_read(picture: Picture, settings: Settings) -> Picture:
    """With the caption that the script will find."""
    caption = as_written(picture.caption, wildcards=settings.data.wildcards)
    return Picture(picture.path, caption, picture.width_px, picture.height_px, picture.digest)


def _listed(pictures: list[Picture]) -> str:
    more = f" ... and {len(pictures) - NAMED} more" if len(pictures) > NAMED else ""
    return ", ".join(str(each.path) for each in pictures[:NAMED]) + more
