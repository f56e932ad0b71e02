"""The dataset as a page: how many, how large, what is cut off, what the captions say."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from statistics import median

from pipeline.dataset.buckets import Side, buckets_of, cropped_share
from pipeline.dataset.epoch import shown
from pipeline.dataset.flaws import count, listed
from pipeline.dataset.resolutions import px_words
from pipeline.dataset.sheet import contact_sheet
from pipeline.document import document, image
from pipeline.records import Dataset, Picture

SHOWN_PICTURES = 36
SHOWN_TAGS = 40
SHOWN_BUCKETS = 30
JPEG_QUALITY = 85

Sided = Mapping[int, Sequence[tuple[Picture, Side]]]
"""Resolution -> the pictures that are trained at it, and how each is cut; the base first."""


def dataset_page(dataset: Dataset, sided: Sided, *, flip: bool) -> str:
    """One page of HTML. Of the pictures those are shown, as they are cut for the base, that lose most by cropping, then
    the first."""
    mirrored = ", each picture mirrored in half of the draws" if flip else ""
    base_px = next(iter(sided))
    parts = (
        f"<h1>Dataset {escape(dataset.name)}</h1>",
        f'<p class="soft">{escape(str(dataset.dir))}, at {px_words(sided)}{mirrored}</p>',
        _figures(dataset),
        *(_buckets(px, those, dataset.train) for px, those in sided.items()),
        _sheet(base_px, sided[base_px]),
        _captions(dataset.train),
    )
    return document(f"Dataset {dataset.name}", "\n".join(parts))


def _figures(dataset: Dataset) -> str:
    sides = sorted((each.width_px * each.height_px, each.width_px, each.height_px) for each in dataset.train)
    tiles = [
        (str(len(dataset.train)), "pictures to train on"),
        *([(str(shown(dataset.train)), "shown in an epoch")] if shown(dataset.train) != len(dataset.train) else []),
        (str(len(dataset.heldout)), "held out"),
        *([(str(len(dataset.regularisation)), "for regularisation")] if dataset.regularisation else []),
        *([(str(masked), "with a mask")] if (masked := sum(bool(each.mask_path) for each in dataset.train)) else []),
        (f"{sides[0][1]} x {sides[0][2]}", "the smallest"),
        (f"{sides[len(sides) // 2][1]} x {sides[len(sides) // 2][2]}", "in the middle"),
        (f"{sides[-1][1]} x {sides[-1][2]}", "the largest"),
    ]
    told = "".join(f"<div><b>{escape(text)}</b><span>{escape(title)}</span></div>" for text, title in tiles)
    return f'<section><h2>Pictures</h2><div class="figures">{told}</div></section>'


def _buckets(px: int, sided: Sequence[tuple[Picture, Side]], pictures: Sequence[Picture]) -> str:
    buckets = buckets_of(sided)
    rows = [
        (
            f"{b.side[0]} x {b.side[1]}",
            str(b.pictures),
            _percent(b.cropped),
            _percent(b.worst_cropped),
            b.worst.path.name,
        )
        for b in buckets[:SHOWN_BUCKETS]
    ]
    note = f"<p>{len(buckets) - SHOWN_BUCKETS} more are not shown.</p>" if len(buckets) > SHOWN_BUCKETS else ""
    titles = ("size", "pictures", "cropped at the mean", "at most", "of")
    title = f"<h2>Buckets at {px} px: {len(buckets)}</h2>"
    return f"<section>{title}{_left_out(sided, pictures)}{_table(titles, rows)}{note}</section>"


def _left_out(sided: Sequence[tuple[Picture, Side]], pictures: Sequence[Picture]) -> str:
    trained = {picture.path for picture, _ in sided}
    names = [picture.path.name for picture in pictures if picture.path not in trained]
    told = f"{count(names)} too small for it, and trained at the other sizes only: {listed(names)}"
    return f"<p>{escape(told)}</p>" if names else ""


def _sheet(base_px: int, sided: Sequence[tuple[Picture, Side]]) -> str:
    cut = [(-cropped_share(p.width_px, p.height_px, side), place) for place, (p, side) in enumerate(sided)]
    chosen = [sided[place] for _, place in sorted(cut)[:SHOWN_PICTURES]]
    made = io.BytesIO()
    contact_sheet(chosen).save(made, "JPEG", quality=JPEG_QUALITY)
    note = "All of them." if len(chosen) == len(sided) else f"{len(chosen)} of {len(sided)}, the most cropped first."
    caption = f"<figcaption>{note} What is dark is cut off at {base_px} px.</figcaption>"
    return f"<figure><h2>Contact sheet</h2>{image(made.getvalue(), 'contact sheet', kind='jpeg')}{caption}</figure>"


def _captions(pictures: Sequence[Picture]) -> str:
    words = [len(picture.caption.split()) for picture in pictures]
    told = f"{min(words)} to {max(words)} words, {median(words):g} in the middle; "
    told += f"{len({picture.caption for picture in pictures})} different ones"
    tags = Counter(tag for picture in pictures for tag in set(_tags(picture.caption)))
    rows = [(tag, str(count), _percent(count / len(pictures))) for tag, count in tags.most_common(SHOWN_TAGS)]
    return (
        f"<section><h2>Captions</h2><p>{told}</p><h2>Most frequent parts</h2>"
        f"{_table(('between commas', 'pictures', 'share'), rows)}</section>"
    )


def _tags(caption: str) -> Iterator[str]:
    return (tag.strip() for tag in re.split(r"[,\n]", caption) if tag.strip())


def _table(titles: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "0 %"
