"""Says what a model file is: by its tensors, never by its name. Reads headers and configs, and of a few models one
small tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from pipeline.checkpoint.adapters import Adapter, adapter_of
from pipeline.checkpoint.bundle import DENOISERS, Bundle, Part, read_bundle
from pipeline.checkpoint.catalog import Entry, Narrower, catalog
from pipeline.checkpoint.groups import Group
from pipeline.checkpoint.identity import Evidence, Identity, Kind
from pipeline.checkpoint.matrices import denoiser_matrices, encoder_matrices
from pipeline.checkpoint.prediction import Said, prediction_of
from pipeline.checkpoint.signature import Clauses, Fit, Tensors, fit, fits_what_is_there, holds
from pipeline.errors import UnreadableFile
from pipeline.records import Content, Matrix

WORDS = (
    *("modelspec.title", "modelspec.merged_from", "modelspec.description", "modelspec.tags", "general.name"),
    *("ss_sd_model_name", "ss_training_comment", "sd_merge_models", "sd_merge_recipe"),
)
"""Metadata that may name a model's kin; the title first, since the rest of it is copied by merges."""
TOLD = (
    *("modelspec.title", "modelspec.architecture", "modelspec.author", "modelspec.prediction_type"),
    *("modelspec.predict_key", "modelspec.resolution", "modelspec.license", "modelspec.merged_from"),
    *("ss_base_model_version", "ss_sd_model_name", "ss_network_module", "ss_network_dim", "ss_network_alpha"),
    *("ss_training_comment", "ss_v2", "ss_output_name"),
)
"""Metadata that matters to a person who asks what a file is. Thumbnails and hashes do not."""
NEAR_ENOUGH = 0.3
"""Share of a signature's clauses that an unknown model must meet for it to be called near."""


@dataclass(frozen=True, slots=True)
class Match:
    """A group of tensors that fits a signature."""

    group: Group
    view: Tensors
    entry: Entry
    layout: str
    clauses: Clauses
    fit: Fit


def identify(path: Path) -> Identity:
    """Raises UnreadableFile for what can't be read as a model."""
    return identity_of(read_bundle(path))


def identity_of(bundle: Bundle) -> Identity:
    """What the files of a bundle are, together. Raises UnreadableFile for a folder whose denoiser can't be read."""
    if bundle.pipeline and bundle.denoiser is None:
        nothing = f"{bundle.path} has no unet and no transformer folder: download the whole model"
        raise UnreadableFile(next((bundle.lacking[name] for name in DENOISERS if name in bundle.lacking), nothing))
    single = bundle.parts.get("")
    adapter = adapter_of(single.tensors, single.metadata) if single else None
    if single and adapter:
        return _adapter_identity(bundle, single, adapter)
    groups = bundle.groups()
    matches = {id(group): found for group in groups if (found := _matches(group, bundle))}
    main = next((group for group in groups if _is_denoiser(group, matches)), None)
    if main is not None:
        identity = _denoiser_identity(bundle, main, matches[id(main)], _part_names(groups, matches))
        return replace(
            identity,
            contents=_contents(groups, matches),
            matrices=denoiser_matrices(main.tensors),
            encoder_matrices=_encoder_matrices(groups),
        )
    unmatched = [group for group in groups if group.role in ("denoiser", "any") and id(group) not in matches]
    if unmatched or not groups:
        return _unknown_identity(bundle, unmatched, _part_names(groups, matches))
    return _component_identity(bundle, groups, matches)


def _is_denoiser(group: Group, matches: Mapping[int, Sequence[Match]]) -> bool:
    return id(group) in matches and matches[id(group)][0].entry.kind == "denoiser"


# ------------------------------------------------------------------------------------------------------------ matching


def _matches(group: Group, bundle: Bundle) -> list[Match]:
    """Every entry of the catalog that the group fits: several where metadata or prediction tell them apart."""
    entries = [entry for entry in catalog() if group.role in ("any", entry.kind)]
    for _, view in group.views():
        found = [
            Match(group, view, entry, layout, clauses, fit(view, clauses))
            for entry in entries
            for layout, clauses in entry.layouts.items()
            if holds(view, clauses)
        ]
        if found:
            return found
    return _shard_matches(group, entries) if bundle.missing_shards else []


def _shard_matches(group: Group, entries: Sequence[Entry]) -> list[Match]:
    """What one shard may be a piece of: all that is there fits, and as much of it as fits nothing else."""
    found = [
        Match(group, view, entry, layout, clauses, fitted)
        for _, view in group.views()
        for entry in entries
        for layout, clauses in entry.layouts.items()
        if (fitted := fit(view, clauses)).met and not fitted.different
    ]
    most = max((len(match.fit.met) for match in found), default=0)
    best = [match for match in found if len(match.fit.met) == most]
    return best if len({(match.entry.kind, match.entry.family) for match in best}) == 1 else []


def _part_names(groups: Sequence[Group], matches: Mapping[int, Sequence[Match]]) -> tuple[str, ...]:
    """What is inside, each by its own name where that is known."""
    names = (_part_name(group, matches.get(id(group), ())) for group in groups if group.parameters)
    return tuple(dict.fromkeys(name for name in names if name != "any"))


def _contents(groups: Sequence[Group], matches: Mapping[int, Sequence[Match]]) -> tuple[Content, ...]:
    named = ((_part_name(group, matches.get(id(group), ())), group) for group in groups if group.parameters)
    return tuple(Content(name, group.parameters, group.dtype) for name, group in named if name not in ("any", "ema"))


def _encoder_matrices(groups: Sequence[Group]) -> tuple[Matrix, ...]:
    encoders = (encoder_matrices(group.tensors) for group in groups if group.role == "text_encoder")
    return tuple(chain.from_iterable(encoders))


def _part_name(group: Group, found: Sequence[Match]) -> str:
    if found and found[0].entry.kind == "text_encoder":
        return found[0].entry.family
    return found[0].entry.kind if found and found[0].entry.kind != "unknown" else group.role


# ----------------------------------------------------------------------------------------------------------- denoisers


def _denoiser_identity(bundle: Bundle, main: Group, found: Sequence[Match], parts: tuple[str, ...]) -> Identity:
    part = bundle.denoiser
    assert part is not None
    said = _prediction(bundle, part, found)
    chosen, words = _choose(found, said, part.metadata)
    whole = bundle.missing_shards is None
    variant, refused = _variant(chosen, said)
    trainable = chosen.entry.trainable and whole and not (refused or said.refused)
    others = [name for name in parts if name not in ("denoiser", "ema")]
    return Identity(
        path=bundle.path,
        kind="checkpoint" if others else "denoiser",
        family=chosen.entry.family,
        title=chosen.entry.title,
        variant=variant if whole else None,
        prediction=said.prediction,
        dtype=main.dtype,
        parameters=main.parameters,
        layout=_layout(chosen.layout),
        storage=bundle.storage,
        parts=tuple(sorted(parts, key=lambda name: name != "denoiser")),
        bytes=bundle.bytes,
        evidence=(*_denoiser_evidence(bundle, chosen, words), *_prediction_evidence(said), *_metadata_evidence(part)),
        model=chosen.entry.name if trainable else None,
        models=tuple(dict.fromkeys((chosen.entry.name, *_allowed(found, said)))) if trainable else (),
        prediction_sure=said.sure,
        zero_terminal_snr=said.zero_terminal_snr,
        refused=(refused or said.refused) if whole else None,
        incomplete=bundle.missing_shards,
    )


def _prediction(bundle: Bundle, part: Part, found: Sequence[Match]) -> Said:
    """The widest of the entries says what the family does when nothing else is said."""
    widest = next((match.entry for match in found if match.entry.narrower is None), found[0].entry)
    variant = next((v for v in widest.variants if fits_what_is_there(found[0].view, v.clauses)), None)
    scheduler = bundle.scheduler.get("prediction_type") if bundle.scheduler else None
    return prediction_of(
        part.tensors,
        part.metadata,
        scheduler=None if scheduler is None else str(scheduler),
        predicts=(variant and variant.predicts) or widest.predicts,
        read=part.numbers,
    )


def _choose(found: Sequence[Match], said: Said, metadata: Mapping[str, str]) -> tuple[Match, str | None]:
    """The narrowest entry that prediction and metadata speak for, and the words that did."""
    scored = [(_score(match.entry.narrower, said, metadata), match) for match in found]
    best = max(score for score, _ in scored)
    first = [match for score, match in scored if score == best]
    if best < 0 or len(first) > 1:
        narrower = [match for match in first if match.entry.narrower is not None]
        widest = next((match for match in found if match.entry.narrower is None), found[0])
        return (widest if narrower else first[0]), None
    narrower_of = first[0].entry.narrower
    return first[0], _said_word(narrower_of.words, metadata) if narrower_of else None


def _score(narrower: Narrower | None, said: Said, metadata: Mapping[str, str]) -> int:
    if narrower is None:
        return 0
    if narrower.prediction and narrower.prediction != said.prediction:
        return -1
    if narrower.words and _said_word(narrower.words, metadata) is None:
        return -1
    return 2 * bool(narrower.prediction) + bool(narrower.words)


def _said_word(words: Sequence[str], metadata: Mapping[str, str]) -> str | None:
    """'modelspec.title is ...' where one of the words stands, alone, in what the metadata tell."""
    pattern = re.compile(rf"(?<![a-z])(?:{'|'.join(map(re.escape, words))})(?![a-z])", re.IGNORECASE)
    for key in WORDS:
        if words and pattern.search(metadata.get(key, "")):
            return f"{key} is {_short(metadata[key])}"
    return None


def _allowed(found: Sequence[Match], said: Said) -> tuple[str, ...]:
    """Every name that the file may be called by: metadata never speak against one, shapes and a sure prediction do."""
    sure = said.prediction is not None and said.sure != "assumed"
    told_by_prediction = any(m.entry.narrower and m.entry.narrower.prediction == said.prediction for m in found)
    names = []
    for entry in (match.entry for match in found if match.entry.trainable):
        wanted = entry.narrower.prediction if entry.narrower else None
        fits = not sure or (wanted == said.prediction if wanted or told_by_prediction else True)
        names += [entry.name] if fits else []
    return tuple(dict.fromkeys(names))


def _variant(chosen: Match, said: Said) -> tuple[str | None, str | None]:
    """The member of the family, and why it can't be trained."""
    entry = chosen.entry
    found = next((v for v in entry.variants if fits_what_is_there(chosen.view, v.clauses)), None)
    refused = found.refused if found and found.refused else entry.refused
    name = found.name if found else entry.variant
    if isinstance(name, Mapping):
        name = name.get(said.prediction or "", name.get("epsilon"))
    other = _other_depth(chosen)
    return said.variant or (f"{name or 'base'}, {other}" if other else name), refused


def _other_depth(chosen: Match) -> str | None:
    wanted = chosen.clauses.depth or {}
    counted = {module: chosen.view.depth(module) for module in wanted}
    return ", ".join(f"{counted[module]} {module}" for module in wanted if counted[module] != wanted[module]) or None


def _layout(name: str) -> Literal["original", "diffusers"]:
    return "diffusers" if name == "diffusers" else "original"


def _denoiser_evidence(bundle: Bundle, chosen: Match, words: str | None) -> Iterator[Evidence]:
    if bundle.pipeline:
        yield Evidence("layout", f"model_index.json names a {bundle.pipeline}")
    if bundle.missing_shards:
        yield Evidence("kind", f"it {bundle.missing_shards}")
    yield Evidence("family", "; ".join(chosen.fit.met), "likely" if bundle.missing_shards else "certain")
    if words:
        yield Evidence("model", words, "likely")
    other = _other_depth(chosen)
    if other:
        wanted = ", ".join(f"{count} {module}" for module, count in (chosen.clauses.depth or {}).items())
        yield Evidence("variant", f"it has {other}, and {chosen.entry.title} has {wanted}")
    for name, reason in bundle.lacking.items():
        yield Evidence("parts", f"{name}: {reason}")
    yield from (Evidence("parts", f"{name}: {part.note}") for name, part in bundle.parts.items() if part.note)


def _prediction_evidence(said: Said) -> Iterator[Evidence]:
    yield Evidence("prediction", said.reason, said.sure)
    if said.zero_terminal_snr:
        yield Evidence("prediction", "zero terminal SNR, by the tensor ztsnr")


def _metadata_evidence(part: Part) -> Iterator[Evidence]:
    """Only a hint each: merges copy what the file that they began with said."""
    for key in TOLD:
        if part.metadata.get(key):
            yield Evidence("metadata", f"{key} is {_short(part.metadata[key])}", "likely")


def _short(text: str) -> str:
    """One line of what a stranger wrote, printable."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[:400]).split())
    return line if len(line) <= 100 else f"{line[:99]}…"


# ----------------------------------------------------------------------------------------------------- everything else


def _bare(bundle: Bundle, kind: Kind, title: str) -> Identity:
    """With the figures that do not depend on what it is."""
    groups = bundle.groups()
    largest = max(groups, key=lambda group: group.parameters, default=None)
    return Identity(
        path=bundle.path,
        kind=kind,
        family=None,
        title=title,
        variant=None,
        prediction=None,
        dtype=largest.dtype if largest and largest.parameters else None,
        parameters=sum(group.parameters for group in groups),
        layout=None,
        storage=bundle.storage,
        parts=(),
        bytes=bundle.bytes,
        evidence=(),
        refused="",
        incomplete=bundle.missing_shards,
    )


KINDS = {"lora": "a LoRA", "controlnet": "a ControlNet", "embedding": "a textual-inversion embedding"}


def _adapter_identity(bundle: Bundle, part: Part, adapter: Adapter) -> Identity:
    word = KINDS[adapter.kind]
    title = f"{word} for {adapter.family}" if adapter.family else f"{word} for a base model that its tensors don't tell"
    evidence = (*(Evidence("kind", sign) for sign in adapter.signs[:1]),)
    evidence += tuple(Evidence("family", sign) for sign in adapter.signs[1:])
    return replace(
        _bare(bundle, adapter.kind, title),
        family=adapter.family,
        variant=adapter.variant,
        evidence=(*evidence, *_metadata_evidence(part)),
        refused=f"is {title}, not a base model",
    )


def _component_identity(bundle: Bundle, groups: Sequence[Group], matches: Mapping[int, Sequence[Match]]) -> Identity:
    """A file without a denoiser: a VAE, a text encoder, several of them, or something that is named only."""
    group = next((group for group in groups if id(group) in matches), groups[0])
    match = next(iter(matches.get(id(group), ())), None)
    if match is None:
        return _unknown_identity(bundle, groups, _part_names(groups, matches))
    entry = match.entry
    word = {"vae": "a lone VAE", "text_encoder": "a lone text encoder"}.get(entry.kind, entry.title)
    return replace(
        _bare(bundle, entry.kind, entry.title),
        family=entry.family,
        variant=entry.variant if isinstance(entry.variant, str) else None,
        layout=_layout(match.layout),
        parts=_part_names(groups, matches),
        evidence=(Evidence("family", "; ".join(match.fit.met)), *_all_metadata(bundle)),
        refused=f"is {word}, not a base model" + (f": {entry.refused}" if entry.refused else ""),
    )


def _unknown_identity(bundle: Bundle, groups: Sequence[Group], parts: tuple[str, ...]) -> Identity:
    """With the nearest model that is known and what differs from it: never a guess."""
    nearest = max(
        (
            (fit(view, clauses), entry)
            for group in groups
            for _, view in group.views()
            for entry in catalog()
            if entry.kind == "denoiser" and entry.narrower is None
            for clauses in entry.layouts.values()
        ),
        key=lambda pair: pair[0].share,
        default=None,
    )
    told: tuple[Evidence, ...] = ()
    if nearest and nearest[0].share >= NEAR_ENOUGH:
        differs = "; ".join((*nearest[0].different, *nearest[0].missing)[:4])
        told = (Evidence("family", f"nearest is {nearest[1].title}, from which it differs: {differs}", "likely"),)
    return replace(
        _bare(bundle, "unknown", "of no kind that is known here"),
        parts=parts,
        evidence=(*told, *_all_metadata(bundle)),
        refused="is of no kind that is known here",
    )


def _all_metadata(bundle: Bundle) -> Iterator[Evidence]:
    for part in bundle.parts.values():
        yield from _metadata_evidence(part)
