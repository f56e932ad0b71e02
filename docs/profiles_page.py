"""The generated parts of docs/profiles.md: what conf/profile says of every profile, and what its figures rest on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.guidance import Signs
from pipeline.profiles.catalog import CONF, MODES, Profile, models, profiles
from pipeline.profiles.telling import IN_WORDS, figure_words

Table = Callable[[tuple[str, ...], Iterator[tuple[str, ...]]], str]
IN_ONE_COLUMN = (
    *(("rank", "alpha"), ("conv_rank", "conv_alpha"), ("lr", "text_encoder_lr")),
    *(("samples_per_image", "samples_floor", "samples_cap"), ("scheduler", "scheduler_cycles")),
    *(
        ("min_snr_gamma", "noise_offset"),
        ("shuffle_tags", "tag_dropout", "keep_tags"),
        ("warmup_steps", "warmup_fraction"),
    ),
    *(("optimizer", "weight_decay"), ("timestep_sampling", "timestep_shift")),
)
"""Figures that are read together."""


def profile_tables(table: Table, folders: Sequence[Path] = (CONF,)) -> str:
    """Each profile with its guidance, and its figures by mode."""
    return "\n".join(section(profile, table) for profile in profiles(folders).values())


def grade_table(table: Table, folders: Sequence[Path] = (CONF,)) -> str:
    """A row a model, a column a profile."""
    made = profiles(folders)
    by_profile = {name: each.known.evidence["lora"] for name, each in made.items()}
    names = dict.fromkeys(model for rows in by_profile.values() for model in rows)
    rows = (
        (model, *(rows[model].grade.value if model in rows else "" for rows in by_profile.values())) for model in names
    )
    return table(("model", *made), rows)


def kin_table(table: Table, folders: Sequence[Path] = (CONF,)) -> str:
    """Models that no profile has a row for, and what they have of their own."""
    rows = set().union(*(each.figures["lora"] for each in profiles(folders).values()))
    without = {name: model for name, model in models(folders).items() if name not in rows}
    lines = ((name, model["kin"], _own_words(model)) for name, model in without.items())
    return table(("model", "as its kin", "but for its own"), lines)


def _own_words(model: Mapping[str, Any]) -> str:
    own = (model["figures"] or {}).get("lora") or {}
    return ", ".join(f"`{name}` {figure_words(value)}" for name, value in own.items())


# ---------------------------------------------------------------------------------------------------------- a profile


def section(profile: Profile, table: Table) -> str:
    known = profile.known
    paragraphs = [
        f"### {profile.name}\n\n{known.use} Not for: {known.not_for}\n",
        f"**Pictures**: {known.count}.\n\n{_listed(_picture_lines(profile))}",
        f"**Variety and framing**\n\n{_listed([*known.variety, *known.framing])}",
        f"**Captions**\n\n{_listed(known.captions)}",
        _signs("Too short or too weak", known.too_little),
        _signs("Too long or too strong", known.too_much),
        f"**Sample prompts**\n\n{_prompt_table(profile, table)}",
        f"**Worth sweeping**: {_grid_words(profile)}.\n",
        *(_figures(profile, mode, table) for mode in MODES),
    ]
    return "\n".join(paragraphs)


def _picture_lines(profile: Profile) -> list[str]:
    return [f"{each.models}: {each.count} ({', '.join(each.sources)})" for each in profile.known.pictures]


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _signs(title: str, signs: Signs) -> str:
    changes = "; ".join(signs.change)
    return f"**{title}**: {' '.join(signs.seen)} What to change, in this order: {changes}.\n"


def _prompt_table(profile: Profile, table: Table) -> str:
    forms = profile.known.prompts
    rows = ((words, *(f"{getattr(four, kind)}" for four in forms.values())) for kind, words in IN_WORDS.items())
    return table(("", *(form.value for form in forms)), rows)


def _grid_words(profile: Profile) -> str:
    axes = []
    for axis in profile.known.grid:
        values = [f"x {figure_words(each)}" for each in axis.times] or [figure_words(each) for each in axis.values]
        axes.append(
            f"`{axis.key}` {', '.join(values)}" + ("" if axis.of.value == "anything" else f" ({axis.of.value})")
        )
    return "; ".join(axes)


def _figures(profile: Profile, mode: str, table: Table) -> str:
    evidence = profile.known.evidence[mode]
    rows = (
        (model, each.grade.value, " ".join(each.sources), each.captions, " ".join(each.notes))
        for model, each in evidence.items()
    )
    told = table(("model", "grade", "sources", "captions", "beside the figures"), rows)
    return f"`mode={mode}`\n\n{figure_tables(profile.figures[mode], table)}\n{told}"


# ------------------------------------------------------------------------------------------------------------ figures


def figure_tables(rows: Mapping[str, Mapping[str, Any]], table: Table) -> str:
    """Figures in which models differ: a row a model; then those that all of them have."""
    whole = {model: _with_strength({**row, **rows["all"], **row}) for model, row in rows.items() if model != "all"}
    names = dict.fromkeys(name for row in whole.values() for name in row)
    differing = [group for group in _grouped(names) if any(len(_told(whole, name)) > 1 for name in group)]
    lines = (
        (model, *(" / ".join(figure_words(row[name]) for name in group) for group in differing))
        for model, row in whole.items()
    )
    titles = ("model", *(" / ".join(_title(name) for name in group) for group in differing))
    same = (name for name in names if not any(name in group for group in differing))
    return f"{table(titles, lines)}\nAll: {', '.join(f'{_title(name)} {_told(whole, name).pop()}' for name in same)}.\n"


STRENGTH = "lr x alpha / rank"


def _with_strength(row: dict[str, Any]) -> dict[str, Any]:
    """After the rate."""
    if "rank" not in row:
        return row
    at = list(row).index("lr") + 1
    items = list(row.items())
    return dict([*items[:at], (STRENGTH, row["lr"] * row["alpha"] / row["rank"]), *items[at:]])


def _title(name: str) -> str:
    return name if name == STRENGTH else f"`{name}`"


def _grouped(names: Collection[str]) -> list[tuple[str, ...]]:
    """In columns, in the order of the first of each."""
    columns = {name: group for group in IN_ONE_COLUMN for name in group}
    groups = (tuple(part for part in columns.get(name, (name,)) if part in names) for name in names)
    return list(dict.fromkeys(groups))


def _told(rows: Mapping[str, Mapping[str, Any]], name: str) -> set[str]:
    """What the rows say of a figure."""
    return {figure_words(row[name]) for row in rows.values()}
