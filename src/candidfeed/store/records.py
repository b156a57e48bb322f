"""What the store keeps, as frozen structs that are checked when they are made.

Ids are the customer's own, as text. Times are seconds since 1970, UTC.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from candidfeed.errors import DataError

Outcome: TypeAlias = Literal["accepted", "duplicate", "erased"]

# The longest id that a log may have, and the longest word for a kind of event, in bytes.
ID_BYTES = 1_024
KIND_BYTES = 64
# What a slate, or what is known of one item or user, may take; more is a mistake.
RECORD_BYTES = 1 << 20
LARGEST_POSITION = 1_000_000
# The store's columns hold signed integers of 64 bits.
_LARGEST_INT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a user did about an item.

    Args:
        event_id: made by whoever reports it; the same id is counted once, the first to come.
        value: what came with it (a rating, seconds watched), finite, or None.
        request_id: of the slate that it answers, with the position there, counted from 1.
    """

    event_id: str
    user_id: str
    item_id: str
    kind: str
    value: float | None
    time_s: float
    request_id: str | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        for name in ("event_id", "user_id", "item_id"):
            check_text(name, getattr(self, name))
        check_text("kind", self.kind, at_most=KIND_BYTES)
        check_number("time_s", self.time_s)
        if self.value is not None:
            check_number("value", self.value)
        if self.request_id is not None:
            check_text("request_id", self.request_id)
        if self.position is not None:
            check_position(self.position)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of each event of a batch, in its order, once all of it is on disk.

    `accepted` is kept; `duplicate` had an id that was kept before, here or earlier in the batch;
    `erased` names a user who was erased, and is not kept.
    """

    outcomes: tuple[Outcome, ...]

    @property
    def n_accepted(self) -> int:
        return self.outcomes.count("accepted")

    @property
    def n_duplicates(self) -> int:
        return self.outcomes.count("duplicate")

    @property
    def n_erased(self) -> int:
        return self.outcomes.count("erased")


@dataclass(frozen=True, slots=True)
class SlateRecord:
    """What was answered to one request, as the service wrote it down.

    Args:
        user_id: None where the request named nobody.
        slots: the answer, encoded by the service.
        features: what the ranker saw, encoded by the service; None outside the sample.
    """

    request_id: str
    user_id: str | None
    time_s: float
    release_id: str
    slots: bytes
    features: bytes | None = None

    def __post_init__(self) -> None:
        check_text("request_id", self.request_id)
        check_text("release_id", self.release_id)
        if self.user_id is not None:
            check_text("user_id", self.user_id)
        check_number("time_s", self.time_s)
        check_bytes("slots", self.slots)
        if self.features is not None:
            check_bytes("features", self.features)


@dataclass(frozen=True, slots=True)
class Change:
    """The latest that is known of one item or user; `fields` is None once it was deleted.

    `id` is None where a user was erased: the store no longer knows whom.
    """

    cursor: int
    id: str | None
    fields: dict[str, Any] | None
    time_s: float


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure found of a user.

    `is_scrubbed` says whether the bytes have left the files too. It is False where another process
    is reading the file: the store then tries again by itself (`Health.is_scrub_due`).
    """

    n_events: int
    n_slates: int
    is_scrubbed: bool


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that opens the service, as a hash.

    Args:
        name: what it is called; a key of the same name replaces it.
        scopes: what it may be used for, in any order.
        expires_s: from when on it is refused; None: never.
        user_id: the only user that it may ask about; None: any.
    """

    name: str
    hashed: bytes
    scopes: tuple[str, ...]
    created_s: float
    expires_s: float | None = None
    user_id: str | None = None

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_bytes("hashed", self.hashed)
        for scope in self.scopes:
            check_text("scope", scope, at_most=KIND_BYTES)
        check_number("created_s", self.created_s)
        if self.expires_s is not None:
            check_number("expires_s", self.expires_s)
        if self.user_id is not None:
            check_text("user_id", self.user_id)


def check_text(name: str, came: object, *, at_most: int = ID_BYTES) -> None:
    """Refuse what is no text, or is empty, too long, or can't be stored by every database.

    Raises:
        DataError: with the name of the field and what came.
    """
    if not isinstance(came, str):
        raise DataError(f"{name}: expected text, came {_short(came)}")
    if not came or "\0" in came:
        raise DataError(f"{name}: expected text without zero characters, came {_short(came)}")
    try:
        n_bytes = len(came) if came.isascii() else len(came.encode())
    except UnicodeEncodeError:
        raise DataError(f"{name}: expected Unicode text, came {_short(came)}") from None
    if n_bytes > at_most:
        raise DataError(f"{name}: expected at most {at_most} bytes, came {n_bytes}")


def check_number(name: str, came: object) -> None:
    """Refuse what is no finite number.

    Raises:
        DataError: with the name of the field and what came.
    """
    if isinstance(came, bool) or not isinstance(came, int | float):
        raise DataError(f"{name}: expected a number, came {_short(came)}")
    if isinstance(came, int):
        if abs(came) > _LARGEST_INT:
            raise DataError(f"{name}: expected a number below 2**63, came a larger one")
    elif not math.isfinite(came):
        raise DataError(f"{name}: expected a finite number, came {came}")


def check_position(came: object) -> None:
    """Refuse what can't be a place in a slate.

    Raises:
        DataError: with what came.
    """
    if isinstance(came, bool) or not isinstance(came, int):
        raise DataError(f"position: expected a whole number, came {_short(came)}")
    if not 1 <= came <= LARGEST_POSITION:
        raise DataError(f"position: expected a number from 1 to {LARGEST_POSITION}")


def check_bytes(name: str, came: object) -> None:
    """Refuse what is not bytes, or more than a record may take.

    Raises:
        DataError: with the name of the field and what came.
    """
    if not isinstance(came, bytes):
        raise DataError(f"{name}: expected bytes, came {_short(came)}")
    if len(came) > RECORD_BYTES:
        raise DataError(f"{name}: expected at most {RECORD_BYTES} bytes, came {len(came)}")


def encode_fields(fields: Mapping[str, Any]) -> str:
    """What is known of an item or a user, as JSON.

    Raises:
        DataError: it has no place in JSON, or is too long.
    """
    try:
        encoded = json.dumps(dict(fields), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise DataError(f"fields: expected what JSON can hold ({error})") from error
    if len(encoded) > RECORD_BYTES:
        raise DataError(f"fields: expected at most {RECORD_BYTES} bytes, came {len(encoded)}")
    return encoded


def _short(came: object) -> str:
    told = repr(came) if isinstance(came, str) else f"{type(came).__name__} {came!r}"
    return told if len(told) <= 80 else f"{told[:77]}..."
