"""What the store is given is checked when it is made."""

from collections.abc import Callable

import pytest

from candidfeed.errors import DataError
from candidfeed.store.records import ApiKey, Event, Receipt, SlateRecord
from candidfeed.store.store import StoreSettings

GOOD = {
    "event_id": "e",
    "user_id": "u",
    "item_id": "i",
    "kind": "click",
    "value": 1.0,
    "time_s": 1.7e9,
    "request_id": "r",
    "position": 3,
}


@pytest.mark.parametrize(
    ("field", "came", "told"),
    [
        ("event_id", 7, "event_id: expected text, came int 7"),
        ("event_id", "", "event_id: expected text without zero characters, came ''"),
        ("user_id", "a\0b", r"user_id: expected text without zero characters, came 'a\\x00b'"),
        ("user_id", None, "user_id: expected text, came NoneType None"),
        ("item_id", b"i", "item_id: expected text, came bytes b'i'"),
        ("item_id", "\ud800", r"item_id: expected Unicode text, came '\\ud800'"),
        ("item_id", "ä" * 513, "item_id: expected at most 1024 bytes, came 1026"),
        ("kind", "k" * 65, "kind: expected at most 64 bytes, came 65"),
        ("value", float("nan"), "value: expected a finite number, came nan"),
        ("value", float("inf"), "value: expected a finite number, came inf"),
        ("value", True, "value: expected a number, came bool True"),
        ("value", 10**400, "value: expected a number below 2.*63, came a larger one"),
        ("value", "5", "value: expected a number, came '5'"),
        ("time_s", None, "time_s: expected a number, came NoneType None"),
        ("time_s", float("-inf"), "time_s: expected a finite number, came -inf"),
        ("request_id", 5, "request_id: expected text, came int 5"),
        ("position", 0, "position: expected a number from 1 to 1000000"),
        ("position", 10**400, "position: expected a number from 1 to 1000000"),
        ("position", 1.0, "position: expected a whole number, came float 1.0"),
        ("position", True, "position: expected a whole number, came bool True"),
    ],
)
def test_an_event_with_a_wrong_field_is_refused_by_name(
    field: str, came: object, told: str
) -> None:
    with pytest.raises(DataError, match=f"^{told}$"):
        Event(**{**GOOD, field: came})


def test_what_came_is_told_in_short() -> None:
    with pytest.raises(DataError) as raised:
        Event(**{**GOOD, "value": ["x" * 1000]})
    assert len(str(raised.value)) < 130


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SlateRecord("r", "u", 1.0, "", b""), "release_id"),
        (lambda: SlateRecord("r", 5, 1.0, "x", b""), "user_id"),
        (lambda: SlateRecord("r", "u", 1.0, "x", "text"), "slots"),
        (lambda: SlateRecord("r", "u", 1.0, "x", b"", b"x" * (1 << 20) + b"x"), "features: expec"),
        (lambda: SlateRecord("r", "u", float("nan"), "x", b""), "time_s"),
        (lambda: ApiKey("", b"h", (), 1.0), "name"),
        (lambda: ApiKey("k", "h", (), 1.0), "hashed"),
        (lambda: ApiKey("k", b"h", (1,), 1.0), "scope"),
        (lambda: ApiKey("k", b"h", (), 1.0, expires_s=float("inf")), "expires_s"),
        (lambda: ApiKey("k", b"h", (), 1.0, user_id=""), "user_id"),
        (lambda: StoreSettings(n_history=0), "n_history: expected at least 1, came 0"),
    ],
)
def test_other_records_with_a_wrong_field_are_refused(
    make: Callable[[], object], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        make()


def test_a_receipt_counts_each_outcome() -> None:
    receipt = Receipt(("accepted", "erased", "accepted", "duplicate"))
    assert (receipt.n_accepted, receipt.n_duplicates, receipt.n_erased) == (2, 1, 1)
