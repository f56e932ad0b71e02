"""The profiles as lines of text: to choose between them, and one of them with all that it says."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from typing import Any

from pipeline.figures import Figure
from pipeline.guidance import Axis, Signs
from pipeline.optimizer.catalog import options
from pipeline.profiles.catalog import (
    MODES,
    Profile,
    prompts_for,
    setting_of,
    strength,
    suits,
    taken_from_words,
    whole_row,
)
from pipeline.settings import RateMeaning

NARROWEST, WIDEST = 60, 100
MARGIN = 12
"""Columns of a line's name."""
IN_WORDS = {
    "trained_like": "as trained",
    "new_context": "new context",
    "class_only": "class only",
    "unrelated": "unrelated",
}
TOGETHER = (
    *(("rank", "alpha"), ("conv_rank", "conv_alpha"), ("samples_per_image", "samples_floor", "samples_cap")),
    *(("scheduler", "scheduler_cycles"), ("warmup_steps", "warmup_fraction"), ("weight_decay", "betas")),
    *(
        ("timestep_sampling", "timestep_shift"),
        ("min_snr_gamma", "noise_offset"),
        ("shuffle_tags", "tag_dropout", "keep_tags"),
    ),
)
"""Figures on one line."""
IN_ORDER = (
    *("algo", "rank", "conv_rank", "lr", "text_encoder_lr", "optimizer", "weight_decay", "scheduler", "warmup_steps"),
    *("samples_per_image", "min_steps", "effective_batch_size", "resolution_px", "min_snr_gamma", "timestep_sampling"),
    *("caption_dropout", "shuffle_tags", "max_grad_norm", "clip_skip"),
)
"""Figures that are told first; others follow as they stand in the file."""
Models = Mapping[str, Mapping[str, Any]]


# ------------------------------------------------------------------------------------------------------ to choose one


def print_profiles(profiles: Mapping[str, Profile], models: Models) -> None:
    """A row a profile."""
    titles = ("profile", "for", "pictures", "trains", "length")
    rows = [(each.name, each.purpose, each.known.count, *_trains(each, models)) for each in profiles.values()]
    _print_table(titles, rows)
    _print_lines(["", "python -m pipeline profiles NAME --model MODEL tells one for a model."])


def _trains(profile: Profile, models: Models) -> tuple[str, str]:
    """The adapter and the length, over all models."""
    rows = [whole_row(profile, model, "lora") for model in models.values()]
    algorithms = dict.fromkeys(str(row["algo"].value) for row in rows)
    ranks, looks = _span(rows, "rank"), _span(rows, "samples_per_image")
    return f"{' or '.join(algorithms)}, rank {ranks}", f"{looks} looks at a picture"


def _span(rows: Sequence[Mapping[str, Figure]], name: str) -> str:
    values = sorted(row[name].value for row in rows)
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


# ------------------------------------------------------------------------------------------------------- one profile


def print_profile(profile: Profile, models: Models, model: str | None) -> None:
    """Its guidance, and its figures for the model; or for all models, a row each."""
    _print_lines(list(_guidance_lines(profile)))
    if model is None:
        _print_lines(["", "Figures, mode=lora"])
        _print_table(*_all_figures(profile, models))
        _print_lines(
            [
                "",
                "lr a/r: lr x alpha / rank; batch: pictures an update; looks: at each picture,",
                "within so many samples in all",
                "* for want of a row of its own, as its kin has it",
                f"python -m pipeline profiles {profile.name} --model MODEL has the rest.",
            ]
        )
        return
    chosen = models[model]
    _print_lines(["", f"Figures for {chosen['known']['title']}, model={model}"])
    _print_table(*_figures_table(profile, chosen))
    _print_lines([*_evidence_lines(profile, chosen), *_prompt_lines(profile, chosen), *_grid_lines(profile, chosen)])


def _guidance_lines(profile: Profile) -> Iterator[str]:
    known = profile.known
    yield f"{profile.name}: {profile.purpose}"
    yield ""
    yield from _named("for", [known.use])
    yield from _named("not for", [known.not_for])
    yield from _named("pictures", [_with_sources(f"{e.models}: {e.count}", e.sources) for e in known.pictures])
    yield from _named("variety", known.variety)
    yield from _named("framing", known.framing)
    yield from _named("captions", known.captions)
    yield from _sign_lines("Too short or too weak", known.too_little)
    yield from _sign_lines("Too long or too strong", known.too_much)


def _sign_lines(title: str, signs: Signs) -> Iterator[str]:
    yield ""
    yield title
    yield from _named("signs", signs.seen)
    yield from _named("change", [f"{number}. {what}" for number, what in enumerate(signs.change, 1)])


def _with_sources(text: str, sources: Sequence[str]) -> str:
    return f"{text} ({', '.join(sources)})" if sources else text


def _evidence_lines(profile: Profile, model: Mapping[str, Any]) -> Iterator[str]:
    """What the figures rest on."""
    for mode in MODES:
        evidence, words = profile.evidence(model, mode), taken_from_words(profile, model, mode)
        yield ""
        yield f"mode={mode}" + (f", {words}" if words else "")
        if evidence is None:
            continue
        yield from _named("evidence", [_with_sources(evidence.grade.value, evidence.sources)])
        yield from _named("captions", [f"{evidence.captions}."])
        yield from _named("notes", evidence.notes)


def _prompt_lines(profile: Profile, model: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "Sample prompts (TRIGGER and CLASS are your words)"
    for kind, prompt in prompts_for(profile, model).items():
        yield from _named(IN_WORDS[kind], [prompt])


def _grid_lines(profile: Profile, model: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"Worth sweeping (alpha follows the rank): {runs_of(profile, model)} runs"
    yield sweep_command(profile, model)


# ------------------------------------------------------------------------------------------------------------ figures


def _all_figures(profile: Profile, models: Models) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    titles = ("model", "network", "lr", "lr a/r", "batch", "looks", "samples", "grade")
    return titles, [_short_row(profile, model) for model in models.values()]


def _short_row(profile: Profile, model: Mapping[str, Any]) -> tuple[str, ...]:
    row, evidence = whole_row(profile, model, "lora"), profile.evidence(model, "lora")
    grade = "" if evidence is None else evidence.grade.value
    return (
        model["name"],
        f"{row['algo'].value} {row['rank'].value}/{row['alpha'].value:g}",
        figure_words(typed_rate(row, "lr")),
        _strength_words(row),
        str(row["effective_batch_size"].value),
        str(row["samples_per_image"].value),
        f"{row['samples_floor'].value}-{row['samples_cap'].value}",
        f"{grade}*" if profile.taken_from(model, "lora") else grade,
    )


def _figures_table(profile: Profile, model: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A line for figures that are read together, a column a mode; nothing of what is null in both."""
    by_mode = [whole_row(profile, model, mode) for mode in MODES]
    lines: list[tuple[str, ...]] = []
    for group in _groups(by_mode):
        if any(row[name].value is not None for row in by_mode for name in group if name in row):
            lines.append((_setting_words(group), *(_values(row, group) for row in by_mode)))
        if "lr" in group:
            lines.append(("  x alpha / rank", *map(_strength_words, by_mode)))
    return ("setting", *MODES), lines


def _groups(rows: Sequence[Mapping[str, Figure]]) -> list[tuple[str, ...]]:
    """Of figures on one line, in the order in which they are told."""
    there = dict.fromkeys(name for row in rows for name in row)
    names = dict.fromkeys((*(name for name in IN_ORDER if name in there), *there))
    columns = {name: group for group in TOGETHER for name in group}
    return list(dict.fromkeys(columns.get(name, (name,)) for name in names))


def _strength_words(row: Mapping[str, Figure]) -> str:
    """Nothing where the optimizer finds its own rate, or there is no adapter."""
    value = strength(row)
    return "" if value is None or finds_its_rate(row) else figure_words(value)


def _setting_words(group: Sequence[str]) -> str:
    first, *others = (setting_of(name) for name in group)
    return " / ".join([first, *(other.rpartition(".")[2] for other in others)])


def _values(row: Mapping[str, Figure], group: Sequence[str]) -> str:
    return " / ".join(figure_words(typed_rate(row, name)) for name in group if name in row)


def figure_words(value: object) -> str:
    """As one would type it: 1e-4, 0.05, null, true."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(figure_words, value))}]"
    if not isinstance(value, int | float):
        return str(value)
    return re.sub(r"0*e-0*", "e-", f"{value:.4e}").replace(".e", "e") if 0 < value < 0.01 else f"{value:g}"


# -------------------------------------------------------------------------------------------------------------- sweep


def sweep_command(profile: Profile, model: Mapping[str, Any]) -> str:
    """A line to paste, with the user's own paths to fill in."""
    axes = [f"{axis.key}={','.join(_axis_values(axis, profile, model))}" for axis in _axes(profile, model)]
    command = f"python run.py -m profile={profile.name} model={model['name']} model.path=PATH data.dir=PICTURES"
    return " ".join([command, *axes])


def runs_of(profile: Profile, model: Mapping[str, Any]) -> int:
    runs = 1
    for axis in _axes(profile, model):
        runs *= len(_axis_values(axis, profile, model))
    return runs


def _axes(profile: Profile, model: Mapping[str, Any]) -> list[Axis]:
    return [axis for axis in profile.known.grid if suits(axis, model)]


def _axis_values(axis: Axis, profile: Profile, model: Mapping[str, Any]) -> list[str]:
    """A multiple of a rate that the optimizer finds itself is that multiple."""
    if not axis.times:
        return [figure_words(value) for value in axis.values]
    row = whole_row(profile, model, "lora")
    figure = next(name for name in row if setting_of(name) == axis.key)
    return [figure_words(typed_rate(row, figure) * each) for each in axis.times]


def typed_rate(row: Mapping[str, Figure], figure: str) -> Any:
    """The figure as the row's optimizer means it (conf/optimizer): rates are AdamW's."""
    return 1.0 if figure == "lr" and finds_its_rate(row) else row[figure].value


def finds_its_rate(row: Mapping[str, Figure]) -> bool:
    known = options()[row["optimizer"].value].known
    return known is not None and known.rate is RateMeaning.multiplier


# --------------------------------------------------------------------------------------------------------------- JSON


def as_json(profiles: Sequence[Profile], models: Models, *, whole: bool) -> str:
    """One object: the profiles, with the figures of the models where they are asked for."""
    return json.dumps({"profiles": [_object(each, models, whole=whole) for each in profiles]}, default=_plain, indent=2)


def _object(profile: Profile, models: Models, *, whole: bool) -> dict[str, Any]:
    known = asdict(profile.known)
    del known["evidence"]  # of the models that are asked for, beside their figures
    known["prompts"] = {form.value: four for form, four in known["prompts"].items()}
    told = {"name": profile.name, "purpose": profile.purpose, **known}
    if not whole:
        return told
    return {**told, "models": {name: _of_model(profile, model) for name, model in models.items()}}


def _of_model(profile: Profile, model: Mapping[str, Any]) -> dict[str, Any]:
    modes = {}
    for mode in MODES:
        row, basis = whole_row(profile, model, mode), profile.evidence(model, mode)
        modes[mode] = {
            "taken_from": profile.taken_from(model, mode),
            "lr_x_alpha_over_rank": None if finds_its_rate(row) else strength(row),
            "figures": {setting_of(name): {"value": typed_rate(row, name), "from": row[name].place} for name in row},
            "evidence": None if basis is None else asdict(basis),
        }
    return {**modes, "prompts": prompts_for(profile, model), "sweep": sweep_command(profile, model)}


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else str(value)


# ------------------------------------------------------------------------------------------------------------- layout


def _named(name: str, texts: Sequence[str]) -> Iterator[str]:
    """The name once, its texts beside it."""
    width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size().columns))
    for text in texts:
        yield from textwrap.wrap(
            text,
            width,
            initial_indent=f"  {name:<{MARGIN}}",
            subsequent_indent=" " * (MARGIN + 4),
            break_long_words=False,
            break_on_hyphens=False,
        )
        name = ""


def _print_lines(lines: Sequence[str]) -> None:
    from rich.console import Console

    console = Console()
    for line in lines:
        heading = bool(line) and not line.startswith(" ")
        console.print(line, style="bold" if heading and not line.startswith("python ") else None, **PLAIN)


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=len(rows) > 5 and title == titles[0])
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table, width=min(console.width, WIDEST))


PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
