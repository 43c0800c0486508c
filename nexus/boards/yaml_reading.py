"""YAML to plain JSON values, and nothing else: no Python objects, no dates, no alias bombs.

Two passes. The first walks the events, which cannot recurse, and refuses what must not be built: custom tags,
aliases that multiply, deep nesting. The second builds. Of the YAML 1.1 types only those that JSON knows are
read: `2025-01-01`, `yes` and `007` stay text, so that a time or an id is never changed on the way in.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import yaml

from nexus.boards.json_reading import keep_repeats

MAX_DEPTH: Final = 100
MAX_ALIASED_NODES: Final = 100_000
"""Nodes that aliases may repeat, all together; a bomb repeats them by the billion."""

_PLAIN = "tag:yaml.org,2002:"
_KNOWN_TAGS = {_PLAIN + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")} | {"!"}
_MERGE = _PLAIN + "merge"
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlFault(ValueError):
    """The text is no YAML that a board can be; the message says where."""


def _where(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "an unknown line"


class _Loader(_Base):  # type: ignore[misc]
    """Safe, JSON types only; `warn` hears of member names that stand twice in one map."""

    warn: Callable[[str], None]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        own = [self._name(key) for key, _ in node.value if key.tag != _MERGE]
        merged = len(own) < len(node.value)
        self.flatten_mapping(node)
        pairs = [(self._name(key), self.construct_object(value, deep=deep)) for key, value in node.value]
        if len(own) == len(set(own)):
            return dict(pairs)
        if merged:  # what comes by `<<` yields to the map's own members, without a word
            return {**dict(pairs[: -len(own)]), **keep_repeats(pairs[-len(own) :], type(self).warn)}
        return keep_repeats(pairs, type(self).warn)

    @staticmethod
    def _name(key: Any) -> str:
        if not isinstance(key, yaml.ScalarNode):
            raise YamlFault(f"a member name is a list or a map, in {_where(key.start_mark)}")
        return str(key.value)

    def construct_yaml_map(self, node: Any) -> Iterator[dict[str, Any]]:
        data: dict[str, Any] = {}
        yield data
        data.update(self.construct_mapping(node))

    def construct_int(self, node: Any) -> int | float:
        text = str(self.construct_scalar(node)).strip()
        base = 16 if text.lstrip("+-")[:2].lower() == "0x" else 10
        if base == 10 and len(text) > 4000:
            return float("inf")  # no JSON either: the record is rejected, not the file
        return int(text, base)

    def construct_float(self, node: Any) -> float:
        return float(str(self.construct_scalar(node)).strip().lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][-+][0-9]+)?$", "-+0123456789"),
    ("float", r"(?:\.[0-9]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    ("merge", r"<<$", "<"),
):
    _Loader.add_implicit_resolver(_PLAIN + _tag, re.compile(_pattern), list(_first))
_Loader.add_constructor(_PLAIN + "map", _Loader.construct_yaml_map)
_Loader.add_constructor(_PLAIN + "int", _Loader.construct_int)
_Loader.add_constructor(_PLAIN + "float", _Loader.construct_float)


def _check_events(text: str) -> None:
    """Refuse what must not be built."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor and nodes so far
    repeated = 0
    for event in yaml.parse(text, Loader=_Base):
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _KNOWN_TAGS:
            raise YamlFault(
                f"the tag {tag.replace(_PLAIN, '!!')[:60]!r} in {_where(event.start_mark)} is not plain data"
            )
        size = 0
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            open_nodes.append((event.anchor, 1))
            if event.anchor:
                sizes.pop(event.anchor, None)
            if len(open_nodes) > MAX_DEPTH:
                raise YamlFault(f"it is nested deeper than {MAX_DEPTH} levels, in {_where(event.start_mark)}")
            continue
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            anchor, size = open_nodes.pop()
            if anchor:
                sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise YamlFault(
                    f"the alias *{str(event.anchor)[:60]} in {_where(event.start_mark)} points to nothing, or to itself"
                )
            size = sizes[event.anchor]
            repeated += size
            if repeated > MAX_ALIASED_NODES:
                raise YamlFault(
                    f"its aliases repeat more than {MAX_ALIASED_NODES:,} nodes, in {_where(event.start_mark)}"
                )
        if size and open_nodes:
            anchor, before = open_nodes[-1]
            open_nodes[-1] = (anchor, before + size)


def parse_yaml(text: str, warn: Callable[[str], None]) -> list[Any]:
    """The documents of `text`, empty ones left out; `YamlFault` with line and column where it is broken."""

    loader = type("_Loader", (_Loader,), {"warn": staticmethod(warn)})

    try:
        _check_events(text)
        return [value for value in yaml.load_all(text, Loader=loader) if value is not None]
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "a fault"
        if "nesting depth" in problem:  # PyYAML from 6.0.4 on; it looks a thousand brackets ahead
            problem = f"it is nested deeper than {MAX_DEPTH} levels,"
        raise YamlFault(f"{problem} in {_where(error.problem_mark or error.context_mark)}") from None
    except yaml.reader.ReaderError as error:
        raise YamlFault(f"a character is not allowed: {' '.join(str(error).split())[:120]}") from None
    except RecursionError:
        raise YamlFault("it is nested too deep") from None
    except yaml.YAMLError as error:
        raise YamlFault(" ".join(str(error).split())[:200]) from None
    except YamlFault:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise YamlFault(f"a value does not fit its tag: {error}") from None
