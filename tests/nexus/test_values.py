"""What a text, a JSON value, a time may be."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.schemas import clean
from nexus.values import (
    LATEST,
    MAX_JSON_DEPTH,
    as_utc,
    canonical_json,
    check_id,
    check_json,
    check_text,
    dump_json,
    json_size,
    new_id,
    parse_priority,
)

text_that_can_be_kept = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**1000), 2**1000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text_that_can_be_kept,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text_that_can_be_kept, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_what_is_accepted_survives_the_way_there_and_back(value: Any) -> None:
    assert check_json(value) is value
    assert json.loads(dump_json(value)) == value
    assert json_size(value) == len(dump_json(value).encode())


@given(st.dictionaries(text_that_can_be_kept, json_values, min_size=2, max_size=5))
def test_the_canonical_text_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {"a": {"b": -math.inf}},
        "a\x00",
        {"\x00": 1},
        ["\udfff"],
        {"\ud83d": 1},
        2**1025,
        {1: 2},
        {None: 2},
        {1, 2},
        b"bytes",
        object(),
        1 + 2j,
        datetime.now(UTC),
    ],
)
def test_what_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^(holds|has)"):
        check_json(value)


def test_depth_is_counted_in_lists_and_objects() -> None:
    value: Any = 1
    for level in range(MAX_JSON_DEPTH):
        value = [value] if level % 2 else {"a": value}
    assert check_json(value) is value
    with pytest.raises(ValueError, match="nested deeper"):
        check_json([value])


@pytest.mark.parametrize("text", ["", " ", "\t", "\n", "a\tb", "a\rb", "\x7f", "a\x00b", "\ud800"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(holds|is)"):
        check_id(text)


@pytest.mark.parametrize(("text", "kept"), [(" T1 ", "T1"), ("a b", "a b"), ("\N{SNOWMAN}", "\N{SNOWMAN}"), ("7", "7")])
def test_what_is_an_id(text: str, kept: str) -> None:
    assert check_id(text) == kept


def test_text_may_have_lines() -> None:
    assert check_text("a\nb\tc") == "a\nb\tc"


@given(st.text() | st.text(st.characters(categories=["Cs", "Cc", "Lu"])), st.integers(10, 100))
def test_foreign_text_is_made_fit_to_keep(text: str, limit: int) -> None:
    kept = clean(text, limit)
    assert check_text(kept) == kept
    assert len(kept) <= limit + 60
    if len(text) <= limit and kept != text:
        assert "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text)


def test_new_ids_are_unlike_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({new_id() for _ in range(10_000)}) == 10_000
    moments = iter([1_700_000_000_000_000_000, 1_700_000_000_001_000_000, 4_000_000_000_000_000_000])
    monkeypatch.setattr("time.time_ns", lambda: next(moments))
    ids = [new_id() for _ in range(3)]
    assert ids == sorted(ids)
    assert {len(one) for one in ids} == {26}


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2030, 1, 1),  # noqa: DTZ001 - that is the fault
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        LATEST,
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
    ],
)
def test_times_without_a_zone_or_out_of_reach(moment: datetime) -> None:
    with pytest.raises(ValueError, match=r"^(has no time zone|lies outside)"):
        as_utc(moment)


EARLY, LATE = datetime(1970, 1, 2), datetime(2199, 12, 30)  # noqa: DTZ001 - Hypothesis adds the zones


@given(st.datetimes(EARLY, LATE, timezones=st.timezones()))
def test_times_keep_their_moment(moment: datetime) -> None:
    assert as_utc(moment).timestamp() == moment.timestamp()
    assert as_utc(moment).tzinfo is UTC


def test_priority_words() -> None:
    assert [parse_priority(word) for word in ("critical", "High", " MEDIUM ", "low")] == [0, 10, 20, 30]
    for word in ("urgent", "", "1.5"):
        with pytest.raises(ValueError, match="no priority"):
            parse_priority(word)
    with pytest.raises(ValueError, match="truth value"):
        parse_priority(True)
