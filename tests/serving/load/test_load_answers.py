"""An answer is held against what the service promises."""

import json
from typing import Any

import pytest

from candidfeed.serving.load.answers import Slate, WrongAnswerError, read_receipt, read_slate

GOOD: dict[str, Any] = {
    "request_id": "r",
    "release_id": "0001-a",
    "degraded": ["ranker_late"],
    "slots": [{"position": 1, "item_id": "a"}, {"position": 2, "item_id": 7}],
}
TAKEN: dict[str, Any] = {
    "accepted": 1,
    "duplicate": 1,
    "rejected": 1,
    "rejections": [{"index": 2, "event_id": "e", "reason": "no kind"}],
}


def test_a_good_slate_is_read() -> None:
    expected = Slate("r", "0001-a", ("ranker_late",), ("a", 7))
    assert read_slate(json.dumps(GOOD).encode(), limit=2) == expected


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"slots": [{"position": n, "item_id": n} for n in (1, 2, 3)]}, "too many slots"),
        ({"slots": [{"position": n, "item_id": 5} for n in (1, 2)]}, "item twice"),
        ({"slots": [{"position": n, "item_id": n} for n in (2, 1)]}, "positions"),
        ({"slots": [{"position": 0, "item_id": 1}]}, "positions"),
        ({"slots": [{"position": 1}]}, "field missing"),
        ({"slots": [{"position": 1, "item_id": [1]}]}, "field missing"),
        ({"slots": None}, "field missing"),
        ({"degraded": None}, "field missing"),
    ],
)
def test_a_slate_that_breaks_the_promise_is_named(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(WrongAnswerError, match=fault):
        read_slate(json.dumps({**GOOD, **change}).encode(), limit=2)


@pytest.mark.parametrize("name", GOOD)
def test_each_field_of_a_slate_must_be_there(name: str) -> None:
    without = {one: value for one, value in GOOD.items() if one != name}
    with pytest.raises(WrongAnswerError, match="field missing"):
        read_slate(json.dumps(without).encode(), limit=2)


@pytest.mark.parametrize(
    ("body", "fault"),
    [(b"", "not JSON"), (b"{", "not JSON"), (b"\xff", "not JSON"), (b"[]", "field missing")],
)
def test_what_is_no_object_of_json_is_named(body: bytes, fault: str) -> None:
    with pytest.raises(WrongAnswerError, match=fault):
        read_slate(body, limit=2)
    with pytest.raises(WrongAnswerError, match=fault):
        read_receipt(body, n_events=1)


def test_a_good_receipt_is_read() -> None:
    receipt = read_receipt(json.dumps(TAKEN).encode(), n_events=3)
    assert (receipt.n_accepted, receipt.n_duplicates, receipt.rejected) == (1, 1, {2})


@pytest.mark.parametrize(
    ("change", "n_events"),
    [({}, 4), ({"accepted": 2}, 3), ({"rejections": []}, 3), ({"rejected": 2, "accepted": 0}, 3)],
)
def test_a_receipt_must_count_each_event_once(change: dict[str, Any], n_events: int) -> None:
    with pytest.raises(WrongAnswerError, match="counts"):
        read_receipt(json.dumps({**TAKEN, **change}).encode(), n_events=n_events)
