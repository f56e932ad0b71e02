"""The dataset as a page: how many, how large, what is cut off, what the captions say."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from statistics import median

from pipeline.dataset.buckets import Bucket, Side, buckets_of, cropped_share
from pipeline.dataset.sheet import contact_sheet
from pipeline.document import document, image
from pipeline.records import Dataset, Picture

SHOWN_PICTURES = 36
SHOWN_TAGS = 40
SHOWN_BUCKETS = 30
JPEG_QUALITY = 85


def dataset_page(dataset: Dataset, side_of: Callable[[Picture], Side], *, resolution_px: int) -> str:
    """One page of HTML. Of the pictures those are shown that lose most by cropping, then the first."""
    buckets = buckets_of(dataset.train, side_of)
    parts = (
        f"<h1>Dataset {escape(dataset.name)}</h1>",
        f'<p class="soft">{escape(str(dataset.dir))}, at {resolution_px} px</p>',
        _figures(dataset),
        _buckets(buckets),
        _sheet(dataset.train, side_of),
        _captions(dataset.train),
    )
    return document(f"Dataset {dataset.name}", "\n".join(parts))


def _figures(dataset: Dataset) -> str:
    sides = sorted((each.width_px * each.height_px, each.width_px, each.height_px) for each in dataset.train)
    tiles = [
        (str(len(dataset.train)), "pictures to train on"),
        (str(len(dataset.heldout)), "held out"),
        (f"{sides[0][1]} x {sides[0][2]}", "the smallest"),
        (f"{sides[len(sides) // 2][1]} x {sides[len(sides) // 2][2]}", "in the middle"),
        (f"{sides[-1][1]} x {sides[-1][2]}", "the largest"),
    ]
    told = "".join(f"<div><b>{escape(text)}</b><span>{escape(title)}</span></div>" for text, title in tiles)
    return f'<section><h2>Pictures</h2><div class="figures">{told}</div></section>'


def _buckets(buckets: Sequence[Bucket]) -> str:
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
    return f"<section><h2>Buckets: {len(buckets)}</h2>{_table(titles, rows)}{note}</section>"


def _sheet(pictures: Sequence[Picture], side_of: Callable[[Picture], Side]) -> str:
    sided = [(picture, side_of(picture)) for picture in pictures]
    cut = [(-cropped_share(p.width_px, p.height_px, side), place) for place, (p, side) in enumerate(sided)]
    chosen = [sided[place] for _, place in sorted(cut)[:SHOWN_PICTURES]]
    made = io.BytesIO()
    contact_sheet(chosen).save(made, "JPEG", quality=JPEG_QUALITY)
    note = (
        "All of them." if len(chosen) == len(pictures) else f"{len(chosen)} of {len(pictures)}, the most cropped first."
    )
    caption = f"<figcaption>{note} What is dark is cut off.</figcaption>"
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
