"""The generated part of docs/optimizers.md: what conf/optimizer knows of every optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.optimizer.catalog import OPTIMIZERS, Option, options
from pipeline.settings import KnownOptimizer, RateMeaning

Table = Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]


def optimizer_table(table: Table) -> str:
    """A row an optimizer."""
    titles = ("what to type", "for", "learning rate", "`train.scheduler`", "state, bytes a parameter", "package")
    return table((*titles, "falls back to"), map(row, options().values()))


def row(option: Option) -> tuple[str, ...]:
    known = option.known
    assert known is not None, "every file has it"
    return (
        f"`optimizer={option.name}`",
        purpose(option.name),
        rate_words(known),
        ", ".join(f"`{scheduler.value}`" for scheduler in known.schedulers) or "any",
        f"{known.state_bytes_per_parameter:g}",
        f"`{known.package}`" if known.package else "",
        f"`{option.falls_back_to}`" if option.falls_back_to else "",
    )


def purpose(name: str) -> str:
    """The file's first line without its command."""
    first = (OPTIMIZERS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("# ").partition("   ")[0]


def rate_words(known: KnownOptimizer) -> str:
    """What `optimizer.lr` means."""
    if known.rate is RateMeaning.multiplier:
        return "a multiplier, 1" + ("; one for all" if known.one_rate else "")
    if known.times_adamws is None:
        return "of its own: has to be typed"
    return "AdamW's" if known.times_adamws == 1 else f"AdamW's x {known.times_adamws:g}"
