"""The password of a tracking store: it comes by the environment, and a run's settings never hold it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from pipeline.errors import InvalidSettings, Problem
from pipeline.settings import Settings
from pipeline.tracking.masking import STORE_VARIABLE, has_credentials, without_credentials

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
    """Raises InvalidSettings for addresses with a password, before Hydra writes down what was typed."""
    typed = (override.lstrip("+").partition("=") for override in overrides)
    problems = tuple(_problem(key, value) for key, _, value in typed if has_credentials(value.strip("\"'")))
    if problems:
        raise InvalidSettings(problems)


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
