"""What a script will make of what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.network import LYCORIS


def is_on(asked: Asked, name: str) -> bool:
    """Whether the script has it and it is neither off, nor 0, nor empty; a list is on if something in it is."""
    value = asked.value(name)
    return name in asked.parser.arguments and (any(value) if isinstance(value, list) else bool(value))


def is_changed(asked: Asked, name: str) -> bool:
    """Whether it was written, and says something else than the script's default. Nothing, 0 and off are the same."""
    if name not in asked.values or name not in asked.parser.arguments:
        return False
    value, default = asked.values[name], asked.parser.arguments[name].default
    return value != default and bool(value or default)


def first_on(asked: Asked, names: Iterable[str]) -> str | None:
    return next((name for name in names if is_on(asked, name)), None)


def trains_text_encoders(asked: Asked) -> bool:
    """A LoRA script goes by one flag alone: rates of 0 are rates to it."""
    return not is_on(asked, "network_train_unet_only") if asked.is_lora else is_on(asked, "train_text_encoder")


def learning_rates(asked: Asked) -> dict[str, list[float]]:
    """Argument -> the rates of what is trained; what is not set takes the common one."""
    names = []
    if asked.is_lora:
        names += [] if is_on(asked, "network_train_text_encoder_only") else ["unet_lr"]
        names += ["text_encoder_lr"] if trains_text_encoders(asked) else []
    else:
        parts = ("learning_rate_te", "learning_rate_te1", "learning_rate_te2") if trains_text_encoders(asked) else ()
        names += ["learning_rate", *(name for name in parts if name in asked.parser.arguments)]
    common = _rates(asked.value("learning_rate"))
    by_name = {name: _rates(asked.value(name)) for name in names}
    return {name if rates else "learning_rate": rates or common for name, rates in by_name.items()}


def _rates(value: object) -> list[float]:
    each = value if isinstance(value, list) else [value]
    return [number for item in each if (number := number_of(item)) is not None]


def optimizer_of(asked: Asked) -> str:
    """As get_optimizer of train_util.py understands it."""
    if is_on(asked, "use_8bit_adam"):
        return "AdamW8bit"
    return "Lion" if is_on(asked, "use_lion_optimizer") else str(asked.value("optimizer_type") or "AdamW")


def is_schedule_free(asked: Asked) -> bool:
    """is_schedulefree_optimizer of train_util.py: by name alone."""
    return optimizer_of(asked).lower().endswith("schedulefree")


def algorithm_of(asked: Asked) -> tuple[str, str]:
    """The network module and, of LyCORIS, the algorithm."""
    module = str(asked.value("network_module") or "")
    return module, str(asked.network_args.get("algo", "lora")).lower() if module == LYCORIS else ""


def network_key(asked: Asked, name: str) -> str:
    network = asked.settings.network
    ours = network is not None and name in network.args
    return asked.keys.get(f"network_args.{name}", f"{'network.args' if ours else 'backend.network_args'}.{name}")


def texts_of(value: object) -> Sequence[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def pairs_of(value: object) -> dict[str, str]:
    """Of a list of "k=v"."""
    return {name: rest for name, _, rest in (text.partition("=") for text in texts_of(value))}


def is_true(value: object) -> bool:
    return str(value).strip().lower() in {"true", "1"}


def number_of(value: object) -> float | None:
    """True is no number here."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
