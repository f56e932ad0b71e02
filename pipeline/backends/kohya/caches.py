"""Caches that sd-scripts keeps beside the pictures, and what each was made from.

sd-scripts finds a cache by its name alone: it checks that latents are there (those of flow models at that size) and
that text-encoder outputs are. A picture or a caption that was edited, another VAE or text encoder, and of Stable
Diffusion 1, 2 and XL another resolution, are not noticed, and the training goes on with what the cache holds. So a
side-car in the folder says what every cache was made from:

    announce    before the start: what caches that come from now on will be made from
    record      after the end: what is there now was made from that
    stale_caches, clear, cache_problems     before the next start

A run that was killed leaves its announcement, so that its caches are known all the same.

The names were read from library/strategy_sd.py, strategy_sdxl.py, strategy_sd3.py, strategy_flux.py (FLUX and Chroma),
strategy_lumina.py, strategy_hunyuan_image.py, strategy_anima.py and train_util.py of sd-scripts 0.10.1 (48d368f), and
the plain `.npz` from finetune/prepare_buckets_latents.py too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline import files
from pipeline.errors import Problem, RunError, UnreadableFile
from pipeline.records import Picture

SIDECAR = ".lora-easy-caches.json"
FORMAT = 1
MAX_BYTES = 1 << 28
NAMED = 3
"""How many files a message names before it counts the rest."""
Architecture = Literal["sd", "sdxl", "sd3", "flux", "lumina", "hunyuan_image", "anima"]
"""As sd-scripts tells its caches apart: sd is Stable Diffusion 1 and 2, flux is Chroma too."""
Origin = Mapping[str, str]
"""What a cache was made from: `picture` and `vae`, or `caption` and `text_encoders`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of cache: NAME_WIDTHxHEIGHT and the suffix for latents, NAME and the suffix for text."""

    suffix: str
    holds: Literal["latents", "text"]
    architectures: tuple[Architecture, ...]
    sized: bool = True
    """The size of the picture is part of the name."""


KINDS = (
    Kind("_te_outputs.npz", "text", ("sdxl",), sized=False),
    Kind("_sd3_te.npz", "text", ("sd3",), sized=False),
    Kind("_flux_te.npz", "text", ("flux",), sized=False),
    Kind("_lumina_te.npz", "text", ("lumina",), sized=False),
    Kind("_hi_te.npz", "text", ("hunyuan_image",), sized=False),
    Kind("_anima_te.npz", "text", ("anima",), sized=False),
    Kind("_sd.npz", "latents", ("sd",)),
    Kind("_sdxl.npz", "latents", ("sdxl",)),
    Kind("_sd3.npz", "latents", ("sd3",)),
    Kind("_flux.npz", "latents", ("flux",)),
    Kind("_lumina.npz", "latents", ("lumina",)),
    Kind("_hi.npz", "latents", ("hunyuan_image",)),
    Kind("_anima.npz", "latents", ("anima",)),
    Kind(".npz", "latents", ("sd", "sdxl"), sized=False),
)
"""The plain suffix is what older versions wrote; newer ones still prefer such a file where there is one."""
SIZED = re.compile(r"(.+)_\d{4,}x\d{4,}", re.DOTALL)

REASONS = {
    "picture": "the picture has changed",
    "caption": "the caption has changed",
    "vae": "made with another VAE or resolution",
    "text_encoders": "made with other text encoders",
}
UNKNOWN = "of unknown origin"
REWRITTEN = "of unknown origin: written anew by something else"
CUT_SHORT = "cut short"
NO_CACHE = "no cache, but sd-scripts would take it for one"


@dataclass(frozen=True, slots=True)
class Cached:
    """What the side-car says of one cache file."""

    size: int
    mtime_ns: int
    origin: Origin | None
    """None: it was there before anything was known of it."""


@dataclass(frozen=True, slots=True)
class Stale:
    """A cache that this run would train on, and should not."""

    folder: Path
    name: str
    reasons: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def is_cache(self) -> bool:
        """False for a file of the user's that only has the name of a cache: nothing here deletes it."""
        return NO_CACHE not in self.reasons


@dataclass(slots=True)
class _Sidecar:
    files: dict[str, Cached] = field(default_factory=dict)
    announced: dict[str, dict[str, Origin]] = field(default_factory=dict)
    """By architecture, then by file stem of the picture: what a run under way makes its caches from."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A file in the folder with the name of a cache of one of the pictures."""

    name: str
    stem: str
    kind: Kind
    size: int
    mtime_ns: int
    is_file: bool

    def is_as(self, cached: Cached) -> bool:
        return (self.size, self.mtime_ns) == (cached.size, cached.mtime_ns)

    def part(self, origin: Origin) -> Origin:
        """What of all that a picture's caches are made from this one depends on."""
        keys = ("picture", "vae") if self.kind.holds == "latents" else ("caption", "text_encoders")
        return {key: origin[key] for key in keys}


def stale_caches(
    pictures: Sequence[Picture],
    *,
    folder: Path,
    vae: str,
    text_encoders: str,
    architecture: Architecture | None = None,
) -> tuple[Stale, ...]:
    """Caches that don't fit picture, caption, VAE or text encoders, or of which nothing is known.

    `folder` is where the pictures, or links to them, lie under the names of their paths, and `caption` is the text
    that sd-scripts reads there. `vae` and `text_encoders` tell apart whatever else decides what a cache holds. The
    caches of other architectures than the one given are not looked at: sd-scripts doesn't either.
    """
    sidecar, origins = _read(folder), _origins(pictures, vae, text_encoders)
    found = _found(folder, origins, architecture)
    judged = ((each, _reasons(folder, each, sidecar, origins[each.stem])) for each in found)
    return tuple(Stale(folder, each.name, reasons) for each, reasons in judged if reasons)


def announce(
    pictures: Sequence[Picture],
    *,
    folder: Path,
    vae: str,
    text_encoders: str,
    architecture: Architecture | None = None,
) -> None:
    """Before the start, after the stale caches are gone: says what caches that come from now on are made from."""
    sidecar, origins = _read(folder), _origins(pictures, vae, text_encoders)
    for each in _found(folder, origins, architecture):
        sidecar.files[each.name] = Cached(each.size, each.mtime_ns, _known_origin(each, sidecar))
    sidecar.announced[architecture or ""] = dict(origins)
    _write(folder, sidecar)


def record(
    pictures: Sequence[Picture],
    *,
    folder: Path,
    vae: str,
    text_encoders: str,
    architecture: Architecture | None = None,
) -> None:
    """After a run that came to its end: what is there and was not before was made from these. One that did not leaves
    its announcement, and the file that it was about to write may be cut short."""
    sidecar, origins = _read(folder), _origins(pictures, vae, text_encoders)
    for each in _found(folder, origins, architecture):
        cached = sidecar.files.get(each.name)
        if cached is None or not each.is_as(cached):
            sidecar.files[each.name] = Cached(each.size, each.mtime_ns, each.part(origins[each.stem]))
    sidecar.announced.pop(architecture or "", None)
    _write(folder, sidecar)


def clear(stale: Iterable[Stale]) -> tuple[Problem, ...]:
    """Deletes these caches and what the side-car says of them, and nothing else: a link goes, what it leads to stays,
    and so do files that only have the name of a cache. What can't be deleted comes back as a problem."""
    by_folder: defaultdict[Path, list[Stale]] = defaultdict(list)
    for each in stale:
        if not _is_cache_name(each.name):
            raise ValueError(f"{each.path} is no name of a cache")
        if each.is_cache:
            by_folder[each.folder].append(each)
    return tuple(problem for folder, caches in by_folder.items() for problem in _clear(folder, caches))


def cache_problems(stale: Sequence[Stale], *, clearing: bool = False) -> Iterator[Problem]:
    """One problem for all stale caches, unless they are going to be cleared; and one for files that are none."""
    caches = [each for each in stale if each.is_cache]
    others = [each for each in stale if not each.is_cache]
    value = "clear" if clearing else "error"
    if caches and not clearing:
        counts = Counter(reason for each in caches for reason in each.reasons)
        total = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        many = f"{len(caches)} caches do" if len(caches) > 1 else "1 cache does"
        reason = f"{many} not fit this run, and sd-scripts would train on what is in there: {_listed(caches)}"
        reason += f" (in all: {total})" if len(caches) > NAMED else ""
        yield Problem("backend.stale_cache", value, reason, "backend.stale_cache=clear")
    if others:
        reason = f"these are no caches, and sd-scripts would take them for some: {_listed(others)}"
        yield Problem("backend.stale_cache", value, reason, f"move them out of {others[0].folder}")


def _listed(stale: Sequence[Stale]) -> str:
    named = [f"{each.path} ({', '.join(each.reasons)})" if each.is_cache else str(each.path) for each in stale[:NAMED]]
    return ", ".join(named) + (f" ... and {len(stale) - NAMED} more" if len(stale) > NAMED else "")


# ---------------------------------------------------------------------------------------------------------- finding


def _origins(pictures: Sequence[Picture], vae: str, text_encoders: str) -> dict[str, Origin]:
    """By file stem. Pictures that differ in the ending of their names only share their caches, so that these are made
    from any of them."""
    same: defaultdict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        same[picture.path.stem].append(picture)
    return {
        stem: {
            "picture": "+".join(sorted({picture.digest for picture in group})),
            "caption": "+".join(sorted({_digest(picture.caption) for picture in group})),
            "vae": vae,
            "text_encoders": text_encoders,
        }
        for stem, group in same.items()
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _found(folder: Path, stems: Mapping[str, object], architecture: Architecture | None) -> list[_Found]:
    """In one pass over the folder, in order of their names; a folder that isn't there has none."""
    kinds = [kind for kind in KINDS if architecture is None or architecture in kind.architectures]
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                named = _named(entry.name, kinds, stems)
                if named:
                    found.append(_look(entry, *named))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnreadableFile(f"{folder}: can't be searched for caches: {error.strerror}") from error
    return sorted(found, key=lambda each: each.name)


def _named(name: str, kinds: Sequence[Kind], stems: Mapping[str, object]) -> tuple[str, Kind] | None:
    """The stem of the picture whose cache this would be. Caches of pictures that are not trained on do no harm."""
    for kind in kinds:
        if not name.endswith(kind.suffix):
            continue
        stem = name.removesuffix(kind.suffix)
        sized = SIZED.fullmatch(stem) if kind.sized else None
        stem = sized[1] if sized else "" if kind.sized else stem
        if stem in stems:
            return stem, kind
    return None


def _look(entry: os.DirEntry[str], stem: str, kind: Kind) -> _Found:
    """Of a link, the file that it leads to: that is what would be read. One that leads nowhere would be written to."""
    try:
        status = entry.stat()
    except OSError:
        return _Found(entry.name, stem, kind, -1, -1, is_file=entry.is_symlink())
    return _Found(entry.name, stem, kind, status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))


def _reasons(folder: Path, found: _Found, sidecar: _Sidecar, now: Origin) -> tuple[str, ...]:
    if not found.is_file:
        return (NO_CACHE,)
    origin = _known_origin(found, sidecar)
    recorded = sidecar.files.get(found.name)
    is_recorded = recorded is not None and found.is_as(recorded)
    if origin is not None:
        if not is_recorded and not _is_whole(folder / found.name):
            return (CUT_SHORT,)
        wanted = found.part(now)
        return tuple(REASONS[key] for key in wanted if origin.get(key) != wanted[key])
    if found.kind.suffix == ".npz" and not _holds_latents(folder / found.name):
        return (NO_CACHE,)
    return (UNKNOWN if recorded is None or is_recorded else REWRITTEN,)


def _known_origin(found: _Found, sidecar: _Sidecar) -> Origin | None:
    """As recorded; for what is newer than that, as announced by a run that did not come to its end."""
    cached = sidecar.files.get(found.name)
    if cached is not None and found.is_as(cached):
        return cached.origin
    for architecture in (*found.kind.architectures, ""):
        announced = sidecar.announced.get(architecture, {}).get(found.stem)
        if announced is not None:
            return found.part(announced)
    return None


def _is_whole(path: Path) -> bool:
    """The directory of an archive is at its end: a run that was killed while writing leaves none."""
    try:
        return zipfile.is_zipfile(path)
    except OSError:
        return False


def _holds_latents(path: Path) -> bool:
    """`cat.npz` beside `cat.png` can be anything; what can't be read is not taken for a cache, and so not deleted."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("latents") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


# --------------------------------------------------------------------------------------------------------- clearing


def _is_cache_name(name: str) -> bool:
    """A plain name, so that no path leads out of the folder."""
    return Path(name).name == name and "\0" not in name and name.endswith(tuple(kind.suffix for kind in KINDS))


def _clear(folder: Path, caches: Sequence[Stale]) -> Iterator[Problem]:
    sidecar = _read(folder)
    for each in caches:
        try:
            each.path.unlink(missing_ok=True)
        except OSError as error:
            reason = f"{each.path} can't be deleted: {error.strerror}"
            yield Problem("backend.stale_cache", "clear", reason, f"delete it by hand, or chmod u+w {folder}")
        else:
            sidecar.files.pop(each.name, None)
    if (folder / SIDECAR).exists():
        _write(folder, sidecar)


# ---------------------------------------------------------------------------------------------------- the side-car


def _read(folder: Path) -> _Sidecar:
    """Empty where there is none, or none that can be read: every cache is of unknown origin then."""
    path = folder / SIDECAR
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return _Sidecar()
        return _parse(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return _Sidecar()


def _parse(said: Any) -> _Sidecar:
    if said["format"] != FORMAT:
        raise ValueError(said["format"])
    return _Sidecar(
        files={
            str(name): Cached(int(each["size"]), int(each["mtime_ns"]), _parse_origin(each["origin"]))
            for name, each in said["files"].items()
        },
        announced={
            str(architecture): {str(stem): _whole(origin) for stem, origin in origins.items()}
            for architecture, origins in said["announced"].items()
        },
    )


def _parse_origin(said: Any) -> Origin | None:
    return None if said is None else {str(key): str(value) for key, value in said.items()}


def _whole(said: Any) -> Origin:
    """Raises KeyError where a part is missing."""
    return {key: str(said[key]) for key in REASONS}


def _write(folder: Path, sidecar: _Sidecar) -> None:
    """Entries of files that are gone go too."""
    try:
        there = {entry.name for entry in os.scandir(folder)}
        kept = {name: asdict(cached) for name, cached in sorted(sidecar.files.items()) if name in there}
        text = json.dumps({"format": FORMAT, "files": kept, "announced": sidecar.announced}, indent=1)
        files.write_text(folder / SIDECAR, text + "\n")
    except OSError as error:
        raise RunError(f"{folder / SIDECAR}: can't be written: {error.strerror}") from error
