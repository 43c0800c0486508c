"""Takes secrets out of what is told: results, errors, notes, logs, reports, events. Pure; it changes no payload.

Three signs make a text a secret: the name of its member or variable (`secrets.names`), its own shape
(`secrets.patterns`), and that it is, word for word, the value of a variable or of a member of the task's payload that
has such a name. Numbers, truth values and null stay: `{"max_tokens": 4096}` tells nothing.

It is a net below people who are careful, not a promise: a secret that was encoded, cut in two or never named passes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from functools import cache, lru_cache
from typing import Any, Final, Self

from nexus.settings import NexusSettings

MASK: Final = "***"

_SHORTEST: Final = 6
"""A known value that is shorter is not looked for: it stands in too many words that are no secret."""

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER: Final = re.compile(r"(://[^\s/@:]{0,200}:)[^\s/@]{1,500}(?=@)")
_VALUE: Final = r"""(?:"[^"\n]{1,2000}"|'[^'\n]{1,2000}'|(?:(?:bearer|basic|token)\s+)?[^\s"',;&(){}\[\]]{6,})"""


class Mask:
    """What is secret here, by name, by shape and by value."""

    def __init__(self, names: Iterable[str], patterns: Iterable[str], known: Iterable[str] = ()) -> None:
        self._names = tuple(_folded(name) for name in names)
        self._finds = [_compiled(pattern) for pattern in patterns]
        self._literal = {text for text in known if len(text) >= _SHORTEST}
        self._known = _any_of(self._literal)
        self._assigned = _assigned(self._names) if self._names else None

    def text(self, text: str) -> str:
        """`text` without what is secret in it."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        if self._names:
            text = _USER.sub(rf"\1{MASK}", text)
        for find in self._finds:
            text = find.sub(MASK, text)
        return self._assigned.sub(rf"\1{MASK}", text) if self._assigned is not None else text

    def value(self, value: Any, *, secret: bool = False) -> Any:
        """A JSON value with every text in it masked, and those below a secret name left out whole."""
        if isinstance(value, str):
            return MASK if secret and value else self.text(value)
        if isinstance(value, dict):
            return {name: self.value(inner, secret=secret or self.is_secret(name)) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner, secret=secret) for inner in value]
        return value

    def knowing(self, payload: Any) -> Self:
        """The same mask, which also knows the secrets of a task's payload."""
        more = {text for text in self.secrets_in(payload) if len(text) >= _SHORTEST} - self._literal
        if not more:
            return self
        wider = copy(self)
        wider._literal = self._literal | more
        wider._known = _any_of(wider._literal)
        return wider

    def is_secret(self, name: Any) -> bool:
        """Does a member or variable of this name hold a secret?"""
        if not isinstance(name, str) or len(name) > 200:
            return False
        return _is_secret(name, self._names)

    def secrets_in(self, value: Any, *, secret: bool = False) -> Iterator[str]:
        """The texts of a JSON value that stand below a secret name."""
        if isinstance(value, str) and secret:
            yield value
            yield from value.split()[1:] if value.lower().startswith(("bearer ", "basic ", "token ")) else ()
        elif isinstance(value, dict):
            for name, inner in value.items():
                yield from self.secrets_in(inner, secret=secret or self.is_secret(name))
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from self.secrets_in(inner, secret=secret)


def mask_of(settings: NexusSettings, environment: Mapping[str, str], payload: Any = None) -> Mask:
    """What the settings call secret, with the values that this environment and a task's payload have for it."""
    secrets = settings.secrets
    if not secrets.enabled:
        return Mask((), ())
    by_name = Mask(secrets.names, ())
    known = [value for name, value in environment.items() if by_name.is_secret(name)]
    known += [found[1] for found in re.finditer(r"://[^\s/@:]*:([^\s/@]+)@", settings.database_url)]
    return Mask(secrets.names, secrets.patterns, known).knowing(payload)


def _any_of(literal: Iterable[str]) -> re.Pattern[str] | None:
    """The longest first: one may begin with another."""
    found = sorted(literal, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, found))) if found else None


@lru_cache(maxsize=4096)
def _is_secret(name: str, names: tuple[str, ...]) -> bool:
    words = f"_{_folded(name)}_"
    return any(f"_{one}_" in words or (len(one) > 4 and f"{one}_" in words) for one in names)


@lru_cache(maxsize=4096)
def _folded(name: str) -> str:
    """`X-Api-Key`, `apiKey`, `API_KEY`: all `api_key` at their end."""
    return "_".join(word.lower() for word in _WORDS.findall(name))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@cache
def _assigned(names: tuple[str, ...]) -> re.Pattern[str]:
    """`password=…`, `"api_key": "…"`, `Authorization: Bearer …`. Without a beginning that could be tried twice."""
    either = "|".join(re.escape(name).replace("_", "[_ -]?") for name in names)
    return re.compile(rf"""((?:{either})["']?\s{{0,3}}[:=]\s{{0,3}}){_VALUE}""", re.IGNORECASE)
