"""Keeps secrets out of everything that is kept: params, tags, artifacts, warnings and tracking.json."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

MASK = "***"
STORE_VARIABLE = "MLFLOW_TRACKING_URI"
"""The one place for the address of a store with its password: nothing of ours writes the environment down."""
_SECRET_NAME = re.compile(
    r"(?i)(^|[_.\-])(token|secret|password|passwd|credentials?|(api|access|private|secret)_?key|key)$"
    r"|(?i:secret|password|credential|api_?key)"
)
_USER_INFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.\-]*://)[^/\s\"'@]+@")
_ASSIGNMENT = re.compile(
    r"(?P<name>\b[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_KEY)\b[\"']?\s*[=:]\s*[\"']?)"
    r"[^\s\"',]+"
)
_HUGGING_FACE_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
_SHORTEST_SECRET = 6
"""A value shorter than this may be any word of a text, so it is not looked for."""


class Masker:
    """Replaces in a text what must not be kept: `user:password@` of addresses, and the values of secret variables."""

    def __init__(self, env: Mapping[str, str]) -> None:
        named = {value for name, value in env.items() if looks_secret(name)}
        found = named | _passwords_of(env.get(STORE_VARIABLE, ""))
        self._values = sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, MASK)
        text = _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
        text = _ASSIGNMENT.sub(rf"\g<name>{MASK}", text)
        return _HUGGING_FACE_TOKEN.sub(MASK, text)


def masked_value(key: str, value: object, mask: Masker) -> object:
    """Of a setting, as it may be told."""
    if value is not None and looks_secret(key):
        return MASK
    if isinstance(value, list | tuple):
        return [masked_value(key, each, mask) for each in value]
    return mask(value) if isinstance(value, str) else value


def masked_override(override: str, mask: Masker) -> str:
    """What was typed, as it may be told."""
    key, is_set, _ = override.partition("=")
    return f"{key}={MASK}" if is_set and looks_secret(key) else mask(override)


def masked_command(command: str, mask: Masker) -> str:
    """The same of a whole command; quoted anew only where something had to be masked."""
    try:
        words = shlex.split(command)
    except ValueError:
        return mask(command)
    told = [masked_override(word, mask) for word in words]
    return command if told == words else shlex.join(told)


def looks_secret(name: str) -> bool:
    """Whether a variable or a setting of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def without_credentials(uri: str) -> str:
    """The address without `user:password@` and without options such as `password=`, as it may be written to disk; it
    still leads to the same store."""
    parts = urlsplit(uri)
    options = parse_qsl(parts.query, keep_blank_values=True)
    harmless = [(name, value) for name, value in options if not looks_secret(name)]
    if "@" not in parts.netloc and harmless == options:
        return uri
    query = parts.query if harmless == options else urlencode(harmless)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


def has_credentials(text: str) -> bool:
    """Whether it is, or holds, an address that names a user or a password."""
    try:
        return _USER_INFO.search(text) is not None or ("://" in text and without_credentials(text) != text)
    except ValueError:  # no address
        return False


def has_token(text: str) -> bool:
    """Whether it holds a token that is known by its form."""
    return _HUGGING_FACE_TOKEN.search(text) is not None


def _passwords_of(uri: str) -> set[str]:
    """As they stand in the address, and as they are meant."""
    parts = urlsplit(uri)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    options = {value for name, value in parse_qsl(parts.query) if looks_secret(name)}
    return {password or user, unquote(password or user), *options}
