"""The border with Hydra: what is typed is completed before Hydra reads it, and what it composed is told apart."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, cast

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pipeline.errors import InvalidSettings, Problem, UnreadableFile
from pipeline.mistakes import problems_of, refusal
from pipeline.origins import Composition, File, Override, Source, file_source, typed_source
from pipeline.overrides import (
    AS_ONE,
    CONF,
    apart,
    chosen,
    groups,
    keys,
    split,
    sweep_choices,
    sweeps,
    typed_as,
    value_of,
)
from pipeline.settings import Settings, from_config
from pipeline.tracking import credentials

if TYPE_CHECKING:
    from hydra._internal.defaults_list import DefaultsList
    from hydra.conf import HydraConf

PURPOSES = ("-m", "--multirun", "-c", "--cfg", "-i", "--info")
"""Flags of which only one can stand in a command."""
PASSED_ON = ("backend.args.", "backend.network_args.")
"""Sections that hold what a backend's own program is told by its own names."""


def register() -> None:
    """The resolver that keeps two runs started in the same second apart."""
    OmegaConf.register_new_resolver("random_suffix", lambda: token_hex(2), use_cache=True, replace=True)


class NoSecrets(Callback):
    """Hydra calls it before it writes down what it composed, whoever runs the jobs then."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the program with a message where a file of the user's has a password or a token."""
        try:
            credentials.refuse_composed(OmegaConf.to_container(config, resolve=False))
        except InvalidSettings as error:
            raise SystemExit(str(error)) from error  # Hydra makes a warning of any other, and goes on

    on_multirun_start = on_run_start


def complete(typed: Sequence[str]) -> list[str]:
    """The command line with what follows from it. Raises InvalidSettings for additions that would be ignored."""
    overrides, flags = apart([_with_plus(_without_plus(argument)) for argument in typed])
    _refuse_two_purposes(flags)
    credentials.refuse_typed(overrides)
    overrides = [*_with_model(overrides, sweeping=sweeps(flags)), *_data_group(overrides)]
    argv = [*overrides, *flags, *_resolve_flag(flags)]  # Hydra can't have flags between overrides
    if any(refusal(override) for override in overrides):
        raise InvalidSettings(tuple(problems_of(argv)))
    return argv


def _refuse_two_purposes(flags: Sequence[str]) -> None:
    """Hydra would end in a traceback."""
    purposes = [flag for flag in flags if flag.partition("=")[0] in PURPOSES]
    if len(purposes) > 1:
        reason = "a command either sweeps or shows the configuration"
        raise InvalidSettings((Problem("command line", " ".join(purposes), reason, f"leave {purposes[0]} out"),))


def command_line(typed: Sequence[str], job_overrides: Sequence[str] | None) -> str:
    """What to type to repeat the run; for a job of a sweep with this job's own overrides."""
    if job_overrides is None:
        return shlex.join(["python", "run.py", *typed])
    flags, _ = split(typed)
    own = [override for override in job_overrides if not override.startswith("launch=")]  # who ran it, and only sweeps
    return shlex.join(["python", "run.py", *flags, *own, *(each for each in typed if each == AS_ONE)])


def existing_run_dir(typed: Sequence[str]) -> Path | None:
    """The run directory that the command line names, where it is there already."""
    for argument in typed:
        if argument.lstrip("+").startswith("hydra.run.dir="):
            path = Path(value_of(argument)).absolute()
            return path if path.exists() else None
    return None


def remove_if_unused(run_dir: Path) -> None:
    """Removes a run directory that holds nothing but what Hydra put there, and its day's folder if that is empty."""
    if not run_dir.is_dir() or {entry.name for entry in run_dir.iterdir()} - {".hydra", "run.lock"}:
        return
    shutil.rmtree(run_dir)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", run_dir.parent.name) and not any(run_dir.parent.iterdir()):
        run_dir.parent.rmdir()


def _without_plus(argument: str) -> str:
    """People who know Hydra type +experiment=name; every group here is in the defaults list already."""
    group = argument.lstrip("+").partition("=")[0]
    return argument.lstrip("+") if argument.startswith("+") and group in groups() else argument


def _with_plus(argument: str) -> str:
    """What is passed on by another program's names is always new to Hydra."""
    return f"++{argument}" if argument.startswith(PASSED_ON) else argument


def _data_group(argv: Sequence[str]) -> list[str]:
    return ["data=folder"] if "data.dir" in keys(argv) and "data" not in keys(argv) else []


def _with_model(overrides: Sequence[str], *, sweeping: bool) -> list[str]:
    """A model's path without its family, or with model=auto: the header decides. What can't be told is left to
    `validate`. Raises InvalidSettings for a sweep over models of several families: one choice is made for all jobs."""
    if "model.path" not in keys(overrides) or chosen("model", overrides) not in (None, "auto"):
        return list(overrides)
    path = f"model.path={chosen('model.path', overrides)}"
    paths = [value_of(choice) for choice in sweep_choices(path, sweeping=sweeping)]
    models = {each: _model_of(Path(each)) or "auto" for each in paths}
    if len(set(models.values())) > 1:
        told = ", ".join(f"{each} is model={model}" for each, model in models.items())
        reason = f"one sweep has one model for all its jobs, and {told}"
        raise InvalidSettings((Problem("model.path", ",".join(paths), reason, "a sweep for each model"),))
    others = (override for override in overrides if override.lstrip("+") != "model=auto")
    return [*others, f"model={models[paths[-1]]}"]


def _model_of(path: Path) -> str | None:
    """The option of the group `model` that the header shows."""
    from pipeline.checkpoint.identify import identify

    try:
        return identify(path).model
    except UnreadableFile:
        return None


def _resolve_flag(argv: Sequence[str]) -> list[str]:
    """`--cfg job` shows values, not where they are taken from."""
    pairs = set(pairwise(argv))
    shows_job = any((flag, "job") in pairs for flag in ("--cfg", "-c")) or "--cfg=job" in argv
    if shows_job:
        credentials.hide()
    return ["--resolve"] if shows_job and "--resolve" not in argv else []


# ------------------------------------------------------------------------------------------------- composed once more


@dataclass(frozen=True, slots=True)
class Searched:
    """Where Hydra takes files from."""

    folder: Path = CONF
    """Of the whole configuration."""
    name: str = "config"
    """Its file."""
    others: tuple[Path, ...] = ()
    """Folders of the user's, as of --config-dir."""

    def flags(self) -> list[str]:
        """What to type for it; several folders of the user's can be named by an override only."""
        own = ["-cp", str(self.folder)] if self.folder != CONF else []
        named = ["-cn", self.name] if self.name != "config" else []
        return [*own, *named, *(["-cd", str(self.others[0])] if len(self.others) == 1 else self._path(2))]

    def _path(self, at_least: int) -> list[str]:
        folders = [f"file://{folder}" for folder in self.others]
        return [f"hydra.searchpath={typed_as(folders)}"] if len(folders) >= at_least else []

    def compose(self, overrides: Sequence[str]) -> Settings:
        """As run.py would have them of these, outside of it. Raises one of `mistakes.ERRORS`."""
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        values = [each for each in overrides if not each.lstrip("+~").startswith("hydra.")]
        with initialize_config_dir(str(self.folder), version_base="1.3"):
            return from_config(compose(self.name, [*self._path(1), *values]))


# --------------------------------------------------------------------------------------------------- what is composed

COMPLETED = {
    "model": Source("decided", "model.path", "the family that the header of model.path shows"),
    "data": Source("decided", "data.dir", "pictures of a folder of yours"),
}
"""Groups whose option `complete` adds."""


def made_of(config: DictConfig, hydra: HydraConf, typed: Sequence[str]) -> Composition:
    """The files and overrides that Hydra made `config` of, by its own list. `hydra` is its own configuration; what is
    not in `typed` was added by `complete`. To be called while Hydra is initialised, in a job or after `compose`."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    texts = [*hydra.overrides.hydra, *hydra.overrides.task]
    loader = GlobalHydra.instance().config_loader()
    composed = loader.compute_defaults_list(hydra.job.config_name, texts, RunMode.RUN)
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    files = list(_files(folders, composed))
    return Composition(
        files=files,
        overrides=_overrides(composed),
        options=dict(_options(composed, files, hydra, typed)),
        raw=cast(dict[str, Any], OmegaConf.to_container(config, resolve=False)),
    )


def _files(folders: Sequence[Path], composed: DefaultsList) -> Iterator[File]:
    """Hydra takes a file from the first folder that has it; what is in none is a schema."""
    for default in composed.defaults:
        name = default.config_path
        path = next((each for folder in folders if (each := folder / f"{name}.yaml").is_file()), None)
        if path is not None and name is not None and not name.startswith("hydra/"):
            yield File(path, name, "" if default.package in (None, "_global_") else str(default.package))


def _overrides(composed: DefaultsList) -> list[Override]:
    """Of values, in the order in which the later beats the earlier."""
    from omegaconf._utils import split_key

    return [
        Override(".".join(split_key(each.key_or_group)), each.value(), each.input_line or "")
        for each in composed.config_overrides
        if not each.is_delete() and not each.key_or_group.startswith("hydra.")
    ]


def _options(
    composed: DefaultsList, files: Sequence[File], hydra: HydraConf, typed: Sequence[str]
) -> Iterator[tuple[str, Source]]:
    """Groups, and who chose their option: what was typed, an experiment, or the file of the whole configuration."""
    sources = {file.name: file_source(file) for file in files}
    whole = sources[str(hydra.job.config_name)]
    for group in hydra.runtime.choices:
        override = composed.overrides.override_metadata.get(group)
        if override is None:
            yield group, whole
        elif override.external_override:
            yield group, _option_source(group, hydra.overrides.task, typed)
        else:
            yield group, sources.get(override.containing_config_path or "", whole)


def _option_source(group: str, overrides: Sequence[str], typed: Sequence[str]) -> Source:
    text = next(each for each in reversed(overrides) if each.lstrip("+").partition("=")[0] == group)
    by_user = chosen(group, typed) not in ((None, "auto") if group == "model" else (None,))
    return typed_source(text) if by_user or group not in COMPLETED else COMPLETED[group]
