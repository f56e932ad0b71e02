"""The password of a tracking store: it comes by the environment, and a run's settings never hold it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from pipeline.errors import InvalidSettings, Problem
from pipeline.settings import Settings
from pipeline.tracking.masking import (
    MASK,
    STORE_VARIABLE,
    has_credentials,
    has_token,
    looks_secret,
    without_credentials,
)

KEY = "tracking.uri"
_REASON = "a password among the settings would stand in the files of every run, in MLflow and in a sweep's jobs"


def without_password(settings: Settings) -> Settings:
    """The settings with the store's address as it may be written down: the store finds the password in the environment.
    Raises InvalidSettings for one that came another way."""
    uri = settings.tracking.uri
    if uri is None or not has_credentials(uri):
        return settings
    if uri != os.environ.get(STORE_VARIABLE):
        raise InvalidSettings((_problem(KEY, uri),))
    return replace(settings, tracking=replace(settings.tracking, uri=without_credentials(uri)))


def refuse_typed(overrides: Sequence[str]) -> None:
    """Raises InvalidSettings for addresses with a password and for tokens, before Hydra writes down what was typed."""
    typed = (override.lstrip("+").partition("=") for override in overrides)
    _refuse((key, value.strip("\"'")) for key, _, value in typed)


def refuse_composed(config: object) -> None:
    """The same of a whole configuration, whose files may have some; what is taken from the environment is no text of
    theirs: `config` has to be as it stands in them."""
    _refuse(_texts("", config))


def _texts(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Every text, under its dotted name."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _texts(f"{key}.{name}" if key else str(name), each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(key, each)
    elif isinstance(value, str):
        yield key, value


def _refuse(texts: Iterable[tuple[str, str]]) -> None:
    found = dict.fromkeys(filter(None, (_problem_of(key, text) for key, text in texts)))
    if found:
        raise InvalidSettings(tuple(found))


def _problem_of(key: str, text: str) -> Problem | None:
    if has_credentials(text):
        return _problem(key, text)
    name = key.rpartition(".")[2]
    is_named = looks_secret(name) and name != "key" and text not in ("", "null", "???") and "${" not in text
    if not is_named and not has_token(text):
        return None
    fix = f"leave {key} out: programs find their tokens in the environment, as HF_TOKEN"
    return Problem(key, MASK, _REASON.replace("password", "token"), fix)


def hide() -> None:
    """For what is shown and not used: people paste it elsewhere."""
    if STORE_VARIABLE in os.environ:
        os.environ[STORE_VARIABLE] = without_credentials(os.environ[STORE_VARIABLE])


def _problem(key: str, uri: str) -> Problem:
    uri = uri.strip("\"'")
    public = without_credentials(uri)
    if key != KEY:
        return Problem(key, public, _REASON, f"{key}={public}")
    scheme = urlsplit(uri).scheme
    address = f"{scheme}://USER:PASSWORD@{public.partition('://')[2]}"
    return Problem(key, public, _REASON, f"{STORE_VARIABLE}='{address}' python run.py tracking=server")
