"""Mistakes on the command line, told in words that help.

Hydra stops at the first mistake, and its advice ("append with +") would make a misspelt setting pass unseen. So after
a failure the overrides are tried one by one, and everything that is wrong is reported at once.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType

from hydra.errors import CompactHydraException, HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import InvalidSettings, Problem, RunError, did_you_mean
from pipeline.overrides import CONF, groups, split, sweep_choices, sweeps, value_of
from pipeline.settings import FinetuneMode, KohyaBackend, LoraMode, NativeBackend, Settings

HYDRA_ERRORS: tuple[type[Exception], ...] = (HydraException, OmegaConfBaseException)
ERRORS: tuple[type[Exception], ...] = (RunError, *HYDRA_ERRORS, ValueError, AssertionError, RuntimeError)
"""What a mistake of the user's may raise: a few slip through Hydra's own checks, and launchers have errors of their
own."""
EXTRAS = {"launch": {"slurm": "hydra-submitit-launcher"}}
"""Options that need a package of an extra of the same name."""
VARIANTS: dict[str, dict[str, type]] = {
    "mode": {"lora": LoraMode, "finetune": FinetuneMode},
    "backend": {"native": NativeBackend, "kohya": KohyaBackend},
}
"""Groups whose options have settings of their own."""
SIMPLE_VALUES: dict[object, tuple[str, str]] = {
    int: ("a whole number", "1"),
    float: ("a number", "0.1"),
    bool: ("true or false", "true"),
    list: ("a list, as in [a,b]", "'[a,b]'"),
    list[int]: ("a list of whole numbers, as in [1,2]", "'[1,2]'"),
    dict: ("a set of names and values, as in {a:1}", "'{a:1}'"),
}
OTHER_NAMES = {
    "learning_rate": "optimizer.lr",
    "unet_lr": "optimizer.lr",
    "text_encoder_learning_rate": "mode.text_encoder_lr",
    "steps": "train.max_steps",
    "max_train_steps": "train.max_steps",
    "epochs": "train.epochs",
    "max_train_epochs": "train.epochs",
    "train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulation_steps",
    "lr_scheduler": "train.scheduler",
    "resolution": "train.resolution_px",
    "flip_aug": "train.flip",
    "dim": "network.rank",
    "network_dim": "network.rank",
    "network_alpha": "network.alpha",
    "mixed_precision": "hardware.precision",
    "train_data_dir": "data.dir",
    "pretrained_model_name_or_path": "model.path",
    "output_dir": "hydra.run.dir",
    "output_name": "backend.weights_name",
}
"""What other trainers call our settings."""
FACTS = {
    "profile.known",
    "profile.figures",
    "model.figures",
    "model.known",
    "model.signature",
    "backend.measures_heldout",
    "backend.encodes_once",
    "optimizer.known",
    "memory.known",
}
"""What stands among the settings and is none."""
NO_NETWORK = "mode=finetune trains the whole model and has no network: leave network=... out, or mode=lora"


@dataclass(frozen=True)
class _Mistake:
    """An override that Hydra would not take, and why."""

    override: str
    error: Exception
    others: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.override.lstrip("+~").partition("=")[0]

    @property
    def value(self) -> str:
        return self.override.partition("=")[2]

    @property
    def text(self) -> str:
        return f"{self.error}\n{self.error.__cause__ or ''}"


def explain(error: Exception, argv: Sequence[str]) -> str | None:
    """What is wrong with the command line, all of it, in words that say what to type instead. None if nothing is: then
    the error is a fault of the program."""
    if isinstance(error, RunError) or type(error) is CompactHydraException:  # a job's own message, told as it is
        return str(error)
    if type(error).__module__.startswith("submitit."):  # what sbatch would not take, in its words
        return "\n".join(dict.fromkeys(line for line in str(error).splitlines() if line.strip()))
    try:
        problems = tuple(problems_of(argv))
    except HYDRA_ERRORS:  # not the command line's fault: a YAML file is wrong, and Hydra names it
        problems = ()
    if problems:
        return str(InvalidSettings(problems))
    return _as_hydra_says(error) if isinstance(error, HYDRA_ERRORS) else None


def _as_hydra_says(error: Exception) -> str:
    lines = f"{error}\n{error.__cause__ or ''}".splitlines()
    return "\n".join(line for line in lines if line.strip() and "config use +" not in line and "list use +" not in line)


def problems_of(argv: Sequence[str]) -> Iterator[Problem]:
    """Tries the overrides one by one, groups first; those that are taken stay for the next."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    flags, overrides = split(argv)
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    taken = [f"hydra.searchpath=['file://{Path(given['-cd']).absolute()}']"] if "-cd" in given else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(Path(given.get("-cp", CONF)).absolute()), version_base="1.3"):
        compose(given.get("-cn", "config"), taken)
        for override in sorted(overrides, key=_is_value):
            problem = refusal(override)
            for choice in [] if problem else sweep_choices(override, sweeping=sweeps(argv)):
                try:
                    compose(given.get("-cn", "config"), [*taken, choice])
                except ERRORS as error:
                    problem = problem or _problem(_Mistake(choice, error, tuple(overrides)))
            if problem:
                yield problem
            else:
                taken.append(choice)


def _is_value(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0] not in groups()


def _problem(mistake: _Mistake) -> Problem:
    for explained in EXPLANATIONS:
        problem = explained(mistake)
        if problem is not None:
            return problem
    return Problem(mistake.key, mistake.value, _as_hydra_says(mistake.error), "python run.py --help")


def _missing_extra(mistake: _Mistake) -> Problem | None:
    package = EXTRAS.get(mistake.key, {}).get(mistake.value)
    if package is None or "Could not find 'hydra/" not in mistake.text:
        return None
    reason = f"needs the package {package}, which is not installed"
    return Problem(mistake.key, mistake.value, reason, f"pip install -e '.[{mistake.value}]'")


def _unknown_option(mistake: _Mistake) -> Problem | None:
    if mistake.key not in groups() or "Could not find" not in mistake.text:
        return None
    options = sorted(set(getattr(mistake.error, "options", None) or ()) | _options(mistake.key))
    near = get_close_matches(mistake.value, options, n=1, cutoff=0.5) or options[:1] or ["..."]
    reason = f"there is no {mistake.key} {mistake.value!r}.{did_you_mean(mistake.value, options)}"
    return Problem(mistake.key, mistake.value, f"{reason} There are: {', '.join(options)}", f"{mistake.key}={near[0]}")


def _options(group: str) -> set[str]:
    return {file.stem for file in (CONF / group).glob("*.yaml")}


def _network_in_finetune(mistake: _Mistake) -> Problem | None:
    signs = ("Could not override 'network'. No match", "Unexpected type for root: NoneType")
    named = [other for other in mistake.others if other.startswith("network")]
    if not named or not any(sign in mistake.text for sign in signs):
        return None
    key, _, value = named[0].partition("=")
    return Problem(key, value, NO_NETWORK, "mode=lora")


def _existing_addition(mistake: _Mistake) -> Problem | None:
    if "An item is already at" not in mistake.text:
        return None
    bare = mistake.override.lstrip("+")
    return Problem(mistake.key, mistake.value, "this setting is there already: leave the + out", bare)


def _element(mistake: _Mistake) -> Problem | None:
    """Of a list whose elements have settings of their own. Hydra says of a misspelt one that the list is unknown."""
    kind = _schema().get(mistake.key)
    element = next((part for part in typing.get_args(kind) if is_dataclass(part)), None)
    if typing.get_origin(kind) is not list or element is None:
        return None
    names = [field.name for field in fields(element)]
    told = str(mistake.error.__cause__).splitlines()[0]
    unknown = re.match(r"Key '(\w+)' not in", told)
    reason = f"its elements have no {unknown[1]!r}, only {', '.join(names)}" if unknown else told
    example = ",".join(f"{name}:..." for name in names)
    return Problem(mistake.key, mistake.value, reason, f"'{mistake.key}=[{{{example}}}]'")


def _unknown_setting(mistake: _Mistake) -> Problem | None:
    if "Could not override" not in mistake.text and "Could not delete" not in mistake.text:
        return None
    return _other_options_setting(mistake) or _new_argument(mistake) or _unknown(mistake.key, mistake.value)


def _other_options_setting(mistake: _Mistake) -> Problem | None:
    """Also of what lies below such a setting: backend.args.flip_aug is none of backend=native."""
    group, _, rest = mistake.key.partition(".")
    name = rest.partition(".")[0]
    options = [
        option for option, schema in VARIANTS.get(group, {}).items() if name in {field.name for field in fields(schema)}
    ]
    if not options or len(options) == len(VARIANTS[group]):
        return None
    reason = f"is a setting of {group}={' and '.join(options)} only"
    return Problem(mistake.key, mistake.value, reason, f"{group}={options[0]}")


def _new_argument(mistake: _Mistake) -> Problem | None:
    """Under args anything may be added, and there the + is right."""
    section = mistake.key.rpartition(".")[0]
    if typing.get_origin(_schema().get(section)) is not dict:
        return None
    return Problem(
        mistake.key,
        mistake.value,
        f"{section} holds no such argument yet; + adds one",
        f"+{mistake.key}={mistake.value}",
    )


def _unknown(key: str, value: str) -> Problem:
    near = nearest_setting(key)
    reason = f"unknown setting {key!r}." + (f" Did you mean {near}?" if near else " --cfg job shows all settings.")
    return Problem(key, value, reason, f"{near}={value}" if near else "python run.py --cfg job")


def nearest_setting(key: str) -> str | None:
    """The setting that was probably meant: nearly the same name in its section, or the same name in another."""
    section, _, name = key.rpartition(".")
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    names = [known for known in _schema() if known]
    siblings = {known.rpartition(".")[2]: known for known in names if known.rpartition(".")[0] == section}
    elsewhere = {known.rpartition(".")[2]: known for known in reversed(names) if "." in known}
    for known, cutoff in ((siblings, 0.7), ({n: k for n, k in elsewhere.items() if n == name}, 1.0), (elsewhere, 0.7)):
        near = get_close_matches(name, list(known), n=1, cutoff=cutoff)
        if near:
            return known[near[0]]
    return None


def _wrong_value(mistake: _Mistake) -> Problem | None:
    if "Error merging override" not in mistake.text:
        return None
    kind = _schema().get(mistake.key)
    if is_dataclass(kind):
        example = f"{mistake.key}.{fields(kind)[0].name}=..."
        return Problem(mistake.key, mistake.value, "is a group of settings; set the one that you mean", example)
    allowed, example = _allowed(kind)
    if not allowed:
        return Problem(mistake.key, mistake.value, str(mistake.error.__cause__).splitlines()[0], f"{mistake.key}=...")
    return Problem(mistake.key, mistake.value, f"{mistake.value!r} is not {allowed}", f"{mistake.key}={example}")


def _allowed(kind: object) -> tuple[str, str]:
    """What a setting takes, in words, and an example."""
    inner = [part for part in typing.get_args(kind) if part is not NoneType]
    if typing.get_origin(kind) is typing.Union:
        allowed, example = _allowed(inner[0])
        return f"{allowed}, or null", example
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [str(choice.value) for choice in kind]
        return f"one of {', '.join(choices)}", choices[0]
    return SIMPLE_VALUES.get(kind) or SIMPLE_VALUES.get(typing.get_origin(kind), ("", ""))


def _sweep_without_flag(mistake: _Mistake) -> Problem | None:
    if "Ambiguous value" not in mistake.text and "requires --multirun" not in mistake.text:
        return None
    fix = f"-m {mistake.override}  (one run each), or '{mistake.key}=[{mistake.value}]'  (a list)"
    return Problem(mistake.key, mistake.value, "several values, but this is no sweep", fix)


def _syntax(mistake: _Mistake) -> Problem | None:
    if not isinstance(mistake.error, OverrideParseException | ValueError):
        return None
    if "=" not in mistake.override or not mistake.key:
        return Problem(mistake.override, "", "a setting is typed as key=value", "python run.py --help")
    quoted = '{}="{}"'.format(mistake.key, value_of(mistake.override).replace('"', '\\"'))
    reason = "a value with spaces, brackets, = or other signs needs quotes inside quotes"
    return Problem(mistake.key, mistake.value, reason, f"'{quoted}'")


EXPLANATIONS: tuple[Callable[[_Mistake], Problem | None], ...] = (
    _syntax,
    _network_in_finetune,
    _missing_extra,
    _unknown_option,
    _existing_addition,
    _element,
    _unknown_setting,
    _wrong_value,
    _sweep_without_flag,
)


def refusal(override: str) -> Problem | None:
    """What Hydra would take and the run could not: `+x=1` for an x that nobody reads, `~x` for an x that is needed."""
    key, _, value = override.lstrip("+~").partition("=")
    if override.startswith("~") and key in _schema():
        return Problem(override, value, f"a run needs its {key}: it can be changed, not taken away", f"{key}=...")
    fact = _fact(key)
    if fact is not None:
        reason = f"{fact} holds what is known; it is no setting"
        return Problem(key, value, reason, f"leave it out, or change the file in conf/{fact.partition('.')[0]}")
    if not override.startswith("+") or key.startswith("hydra") or "/" in key or "@" in key or _may_be_added(key):
        return None
    return _unknown(key, value)


def _fact(key: str) -> str | None:
    """The facts that it is among."""
    return next((fact for fact in sorted(FACTS) if f"{key}.".startswith(f"{fact}.")), None)


def _may_be_added(key: str) -> bool:
    section = key
    while section:
        kind = _schema().get(section)
        if kind is not None:
            return section == key or typing.get_origin(kind) is dict
        section = section.rpartition(".")[0]
    return False


@cache
def _schema() -> dict[str, object]:
    """Every setting's dotted name with its type, groups included, in the order of the schema."""
    own = [
        pair
        for group, options in VARIANTS.items()
        for schema in options.values()
        for pair in _named_types(f"{group}.", schema)
    ]
    return dict([*_named_types("", Settings), *own])


def _named_types(prefix: str, schema: type) -> Iterator[tuple[str, object]]:
    for name, kind in typing.get_type_hints(schema).items():
        if f"{prefix}{name}" in FACTS:
            continue
        choices = [part for part in typing.get_args(kind) if is_dataclass(part)] or [kind]
        if typing.get_origin(kind) is list:
            choices = [kind]
        yield f"{prefix}{name}", choices[0]
        if is_dataclass(choices[0]):
            yield from _named_types(f"{prefix}{name}.", typing.cast(type, choices[0]))
