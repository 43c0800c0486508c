"""A stream of unknown length in a memory of known size."""

from hypothesis import given
from hypothesis import strategies as st

from flows.handlers.kept import Kept
from flows.handlers.payload import fit
from nexus.values import json_size


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 50))
def test_whatever_the_pieces_the_beginning_and_the_end_are_kept_within_the_limit(pieces, limit):
    kept, whole = Kept(limit), b"".join(pieces)
    for piece in pieces:
        kept.feed(piece)

    assert kept.left_out == max(0, len(whole) - limit)
    head, tail = limit - limit // 2, limit // 2
    assert bytes(kept._head) == whole[:head]
    assert bytes(kept._tail) == (whole[head:][-tail:] if tail else b"")


def test_a_character_of_several_bytes_is_not_parted_where_nothing_is_left_out():
    kept = Kept(10)
    kept.feed("aaaa€€".encode())

    assert kept.text() == "aaaa€€"


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_two_texts_are_cut_to_fit_and_the_shorter_one_last(first, second):
    result = {"code": 0, "first": first, "second": second}

    cut = fit(result, 1024, "first", "second")

    assert json_size(result) <= 1024
    assert cut == (result != {"code": 0, "first": first, "second": second})
    shorter, longer = sorted([(first, "first"), (second, "second")], key=lambda pair: len(pair[0]))
    if result[shorter[1]] != shorter[0] and len(shorter[0]) < len(longer[0]):
        assert result[longer[1]] != longer[0]
