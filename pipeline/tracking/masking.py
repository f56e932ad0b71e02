"""Keeps secrets out of everything that is kept: params, tags, artifacts, warnings and tracking.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

MASK = "***"
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
        found = {value for name, value in env.items() if looks_secret(name) and len(value) >= _SHORTEST_SECRET}
        self._values = sorted(found, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, MASK)
        text = _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
        text = _ASSIGNMENT.sub(rf"\g<name>{MASK}", text)
        return _HUGGING_FACE_TOKEN.sub(MASK, text)


def looks_secret(name: str) -> bool:
    """Whether a variable or a setting of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def without_credentials(uri: str) -> str:
    """The address without `user:password@`, as it may be written to disk; it still leads to the same store."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
