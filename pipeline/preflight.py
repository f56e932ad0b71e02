"""What is seen before the training: buckets, what is encoded already, and the dataset as a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset.buckets import Bucket, Side, buckets_of
from pipeline.dataset.epoch import datasets_at, regularising
from pipeline.dataset.page import dataset_page
from pipeline.dataset.resolutions import pictures_at, resolutions_px
from pipeline.features.room import PAGES
from pipeline.features.space import key_of
from pipeline.files import write_text
from pipeline.records import Picture, Plan
from pipeline.settings import KohyaBackend, Settings, decided
from pipeline.wording import counted

PAGE_NAME = "dataset.html"
PAGE_FORMAT = 3
SHOWN = 8
"""Buckets that have a line each."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a backend does with pictures and captions."""

    side: Callable[[Plan, Picture, int], Side]
    """Of a picture at a resolution."""
    remainder: str
    """What becomes of a bucket's last batch."""
    cached: Callable[[Plan], str] | None = None
    """None where choices tell it."""
    left_to_encode: Callable[[Plan], int] = lambda _plan: 0
    """Pictures that are not encoded yet, as far as they stay encoded."""


def _native() -> Foreseen:
    from pipeline.backends.native.preflight import native_cached, native_left, native_side

    return Foreseen(native_side, "the last batch of each is filled from its own beginning", native_cached, native_left)


def _kohya() -> Foreseen:
    from pipeline.backends.kohya.preflight import kohya_side

    return Foreseen(kohya_side, "the last batch of each may be a smaller one")


BACKENDS: dict[str, Callable[[], Foreseen]] = {"native": _native, "kohya": _kohya}
"""Loaded when asked for: a run has one."""


def preflight_lines(plan: Plan) -> list[str]:
    """Raises UnreadableFile for a model whose weights can't be read."""
    backend = BACKENDS[plan.settings.backend.name]()
    cached = [] if backend.cached is None else [("encoded", backend.cached(plan))]
    return [f"  {name:<14}{line}" for name, line in (*cached, *_bucket_rows(plan, backend))]


def left_to_encode(plan: Plan) -> int:
    """Raises UnreadableFile."""
    return BACKENDS[plan.settings.backend.name]().left_to_encode(plan)


def dataset_page_file(plan: Plan) -> Path:
    """The dataset as a page, in the cache: made once for all runs on the same pictures at the same size. Raises OSError
    where the cache can't be written."""
    backend = BACKENDS[plan.settings.backend.name]()
    name = key_of(PAGE_FORMAT, plan.dataset.digest, str(plan.dataset.dir), *_page_settings(plan.settings))
    file = Path(plan.settings.cache.dir).expanduser().absolute() / PAGES / f"{name}.html"
    if file.exists():
        os.utime(file)  # what was used last is removed last
    else:
        sides = {
            px: [(picture, backend.side(plan, picture, px)) for picture in pictures]
            for px, pictures in pictures_at(plan.dataset.train, plan.settings.train).items()
        }
        write_text(file, dataset_page(plan.dataset, sides, flip=plan.settings.train.flip))
    return file


def _page_settings(settings: Settings) -> list[object]:
    """What of them the page depends on."""
    train, backend = settings.train, settings.backend
    enlarges = not (isinstance(backend, KohyaBackend) and backend.args.get("bucket_no_upscale"))
    return [backend.name, *resolutions_px(train), settings.model.resolution_step_px, train.flip, enlarges]


def write_page(plan: Plan, run_dir: Path) -> str:
    """Into the run directory; what is to be told where the cache can't be written, empty else."""
    try:
        page = dataset_page_file(plan).read_text(encoding="utf-8")
    except OSError as error:
        return f"cache.dir={plan.settings.cache.dir}: {error.strerror}; the run has no {PAGE_NAME}"
    write_text(run_dir / PAGE_NAME, page)
    return ""


def _bucket_rows(plan: Plan, backend: Foreseen) -> Iterator[tuple[str, str]]:
    train = plan.settings.train
    buckets = {
        px: buckets_of((picture, backend.side(plan, picture, px)) for picture in (*each.train, *regularising(each)))
        for px, each in datasets_at(plan.dataset, train).items()
    }
    several = " of one resolution" if train.more_resolutions_px else ""
    total = sum(len(those) for those in buckets.values())
    yield "buckets", f"{total} in all, batches are of one bucket{several}: {backend.remainder}"
    for px, those in buckets.items():
        if several:
            yield f"at {px} px", _pictures_line(those, len(plan.dataset.train) + len(regularising(plan.dataset)))
        yield from (("", line) for line in _bucket_lines(those, decided(train.batch_size)))


def _pictures_line(buckets: list[Bucket], all_pictures: int) -> str:
    trained = sum(bucket.pictures for bucket in buckets)
    left = f", {all_pictures - trained} too small for it and left out" if trained < all_pictures else ""
    return f"{counted(trained, 'picture')} in {counted(len(buckets), 'bucket')}{left}"


def _bucket_lines(buckets: list[Bucket], batch_size: int) -> list[str]:
    told = [_bucket_line(bucket, batch_size) for bucket in buckets[:SHOWN]]
    if len(buckets) > SHOWN:
        told.append(f"and {len(buckets) - SHOWN} more with {sum(b.pictures for b in buckets[SHOWN:])} pictures")
    return told


def _bucket_line(bucket: Bucket, batch_size: int) -> str:
    batches = -(-bucket.shown // batch_size)
    size = f"{bucket.side[0]} x {bucket.side[1]}"
    line = f"{size:<12}{bucket.pictures:>7} picture{' ' if bucket.pictures == 1 else 's'}"
    line += f", shown {bucket.shown} times" if bucket.shown != bucket.pictures else ""
    line += f"{batches:>6} batch"
    line += "  " if batches == 1 else "es"
    if bucket.worst_cropped < 0.005:
        return f"{line}   nothing is cropped"
    return (
        f"{line}   {100 * bucket.cropped:.0f} % cropped at the mean, "
        f"{100 * bucket.worst_cropped:.0f} % of {bucket.worst.path.name}"
    )
