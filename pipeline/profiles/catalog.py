"""The profiles and models as their files have them: what `conf/profile` says, and which figure a model gets of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InvalidSettings, Problem, did_you_mean
from pipeline.families import PromptForm
from pipeline.figures import ALL, Figure, found, option, rows_of
from pipeline.guidance import Axis, Evidence, Grade, Guidance, Pictures, Predicting, SamplePrompts, Signs
from pipeline.records import Choice
from pipeline.settings import PROJECT, Settings

CONF = PROJECT / "conf"
MODES = ("lora", "finetune")
MANY = 5
"""Figures that are counted, and not named."""
NOT_FAMILIES = {"auto", "demo"}
"""Options of the group `model` that stand for another, and the toy."""
SETTINGS = {
    **{name: f"network.{name}" for name in ("algo", "rank", "alpha", "conv_rank", "conv_alpha")},
    **{"optimizer": "optimizer", "lr": "optimizer.lr", "text_encoder_lr": "mode.text_encoder_lr"},
    **{"weight_decay": "optimizer.args.weight_decay", "betas": "optimizer.args.betas", "clip_skip": "model.clip_skip"},
}
"""Figure -> the setting that takes it; the others are of `train`."""


def setting_of(figure: str) -> str:
    """Its dotted name."""
    return SETTINGS.get(figure, f"train.{figure}")


@dataclass(frozen=True, slots=True)
class Profile:
    """A file of conf/profile."""

    name: str
    purpose: str
    known: Guidance
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """mode -> model -> figure -> value."""

    def get(self, name: str) -> Any:
        return getattr(self, name)

    def evidence(self, model: Mapping[str, Any], mode: str) -> Evidence | None:
        """Of the row that the model's figures are taken from; None where no row is its own or its kin's."""
        by_model = self.known.evidence.get(mode, {})
        return by_model.get(model["name"]) or by_model.get(model["kin"])

    def taken_from(self, model: Mapping[str, Any], mode: str) -> str | None:
        """The model whose row stands in for one of its own; None where it has one."""
        return _stands_in(self.figures.get(mode, {}), model["name"], model["kin"])


def profiles(folders: Sequence[Path] = (CONF,)) -> dict[str, Profile]:
    """Every profile by name; of two files of one name that of the first folder counts. Raises InvalidSettings for a
    file that lacks something."""
    names = sorted({file.stem for folder in folders for file in (folder / "profile").glob("*.yaml")})
    return {name: _profile(name, option(tuple(folders), "profile", name)) for name in names}


def models(folders: Sequence[Path] = (CONF,)) -> dict[str, Mapping[str, Any]]:
    """Every model family by name, as its file has it."""
    names = {file.stem for folder in folders for file in (folder / "model").glob("*.yaml")} - NOT_FAMILIES
    return {name: option(tuple(folders), "model", name) for name in sorted(names)}


def named(kind: str, name: str, there: Mapping[str, Any]) -> Any:
    """Raises InvalidSettings for what is not there, with what was probably meant."""
    if name not in there:
        reason = f"there is no {kind} {name!r}.{did_you_mean(name, list(there))} There are: {', '.join(there)}"
        raise InvalidSettings((Problem(kind, name, reason, "python -m pipeline profiles"),))
    return there[name]


def whole_row(profile: Profile, model: Mapping[str, Any], mode: str) -> dict[str, Figure]:
    """All figures that the model gets of the profile, with the row that each is taken from."""
    names = dict.fromkeys(name for row in rows_of(model, profile, mode) for name in row.figures)
    figures = {name: found(name, rows_of(model, profile, mode)) for name in names}
    return {name: figure for name, figure in figures.items() if figure is not None}


def taken_from_words(profile: Profile, model: Mapping[str, Any], mode: str) -> str:
    """`figures taken from sdxl, lr its own`; empty where the model has a row of its own and nothing else."""
    kin, own = profile.taken_from(model, mode), (model["figures"] or {}).get(mode) or {}
    return "" if kin is None else _stand_in_words(kin, list(own))


def kin_choice(settings: Settings) -> Choice | None:
    """Told where the model has no row of its own in the profile."""
    model, mode = settings.model, settings.mode.name
    kin = _stands_in(settings.profile.figures.get(mode, {}), model.name, model.kin)
    if kin is None:
        return None
    words = _stand_in_words(kin, list(model.figures.get(mode) or {}))
    return Choice("profile", settings.profile.name, f"{words}: it has no row for model={model.name}")


def _stands_in(rows: Mapping[str, Any], name: str, kin: str) -> str | None:
    return None if name in rows else kin if kin in rows else ALL


def _stand_in_words(kin: str, own: Sequence[str]) -> str:
    few = ", ".join(own) if len(own) < MANY else f"{len(own)} figures"
    return f"figures taken from {kin}" + (f", but for its own {few}" if own else "")


def strength(row: Mapping[str, Figure]) -> float | None:
    """lr x alpha / rank, what the first steps of an adapter are in proportion to; None for a finetune."""
    return row["lr"].value * row["alpha"].value / row["rank"].value if "rank" in row else None


def suits(axis: Axis, model: Mapping[str, Any]) -> bool:
    """Whether the sweep is for such a model: noise stands for all that is no flow."""
    predicts = Predicting.flow if model["signature"].get("predicts") == "flow" else Predicting.noise
    return axis.of in (Predicting.anything, predicts)


def prompts_for(profile: Profile, model: Mapping[str, Any]) -> dict[str, str]:
    """Kind -> prompt, in the form that suits the model and among the words that it always wants."""
    spoken = model["known"]["prompts"]
    four = profile.known.prompts[PromptForm(spoken["kind"])]
    kinds = ("trained_like", "new_context", "class_only", "unrelated")
    return {kind: spoken["template"].replace("{}", getattr(four, kind)) for kind in kinds}


# ------------------------------------------------------------------------------------------------------------ reading


def _profile(name: str, written: Mapping[str, Any]) -> Profile:
    try:
        return Profile(written["name"], written["purpose"], _guidance(written["known"]), written["figures"])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"conf/profile/{name}.yaml is no profile: {type(error).__name__} {error}"
        raise InvalidSettings((Problem("profile", name, reason, "see docs/profiles.md"),)) from error


def _guidance(written: Mapping[str, Any]) -> Guidance:
    typed = {
        "pictures": [Pictures(**each) for each in written["pictures"]],
        "too_little": Signs(**written["too_little"]),
        "too_much": Signs(**written["too_much"]),
        "prompts": {PromptForm(form): SamplePrompts(**four) for form, four in written["prompts"].items()},
        "grid": [Axis(**{**axis, "of": Predicting(axis["of"])}) for axis in written["grid"]],
        "evidence": {mode: _evidence(rows) for mode, rows in written["evidence"].items()},
    }
    return Guidance(**{**written, **typed})


def _evidence(rows: Mapping[str, Any]) -> dict[str, Evidence]:
    return {model: Evidence(**{**row, "grade": Grade(row["grade"])}) for model, row in rows.items()}
