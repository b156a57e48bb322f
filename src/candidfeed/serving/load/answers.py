"""What a service answers, held against what it promises."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class WrongAnswerError(Exception):
    """An answer that says it is good and is not what was promised; its text names the fault."""


@dataclass(frozen=True, slots=True)
class Slate:
    """What was shown; the item at position r is `items[r - 1]`."""

    request_id: str
    release_id: str
    degraded: tuple[str, ...]
    items: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch of events."""

    n_accepted: int
    n_duplicates: int
    rejected: frozenset[int]


def read_slate(body: bytes, *, limit: int) -> Slate:
    """A slate of up to `limit` slots.

    Raises:
        WrongAnswerError: it is no JSON, lacks a field, or holds too many slots, an item twice, or
            positions that are not 1, 2, 3 ...
    """
    answer = _read(body)
    try:
        slots = answer["slots"]
        items = tuple(slot["item_id"] for slot in slots)
        positions = [slot["position"] for slot in slots]
        slate = Slate(answer["request_id"], answer["release_id"], tuple(answer["degraded"]), items)
        n_distinct = len(set(items))
    except (KeyError, TypeError) as error:
        raise WrongAnswerError("field missing") from error
    if len(items) > limit:
        raise WrongAnswerError("too many slots")
    if n_distinct < len(items):
        raise WrongAnswerError("item twice")
    if positions != list(range(1, len(items) + 1)):
        raise WrongAnswerError("positions")
    return slate


def read_receipt(body: bytes, *, n_events: int) -> Receipt:
    """The receipt of `n_events` events.

    Raises:
        WrongAnswerError: it is no JSON, lacks a field, or its counts are not those of the events.
    """
    answer = _read(body)
    try:
        rejected = frozenset(int(one["index"]) for one in answer["rejections"])
        receipt = Receipt(int(answer["accepted"]), int(answer["duplicate"]), rejected)
        n_rejected = int(answer["rejected"])
    except (KeyError, TypeError, ValueError) as error:
        raise WrongAnswerError("field missing") from error
    n_told = receipt.n_accepted + receipt.n_duplicates + n_rejected
    if n_told != n_events or n_rejected != len(rejected):
        raise WrongAnswerError("counts")
    return receipt


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise WrongAnswerError("not JSON") from error
    if not isinstance(answer, dict):
        raise WrongAnswerError("field missing")
    return answer
