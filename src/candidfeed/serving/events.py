"""The route that takes events: each is looked at by itself, all that are good are kept at once."""

import asyncio
import difflib
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request, Response

from candidfeed.errors import DataError
from candidfeed.serving.http import (
    Refusal,
    allowed,
    answered,
    body_of,
    declared,
    takes,
    too_often,
)
from candidfeed.serving.keys import Bearer
from candidfeed.serving.service import Service
from candidfeed.serving.wire import EventsAnswer
from candidfeed.store.records import Event

MOST: Final = 1_000
_REQUIRED: Final = ("event_id", "user_id", "item_id", "kind")
_FIELDS: Final = (*_REQUIRED, "value", "time_s", "request_id", "position")
# Each event is looked at by itself: one that makes no sense does not make the batch wrong.
_EVENT: Final[dict[str, Any]] = {
    "description": (
        "`event_id` (made by the client; the same one counts once), `user_id`, `item_id`, `kind`; "
        "if there are any `value`, `time_s` (since 1970 UTC; now if left out), `request_id` and "
        "`position` (from 1) of the feed that it answers. One that is not so is rejected by itself."
    ),
    "examples": [
        {
            "event_id": "a-1", "user_id": 42, "item_id": 50, "kind": "click",
            "time_s": 1.7e9, "request_id": "56a6f22fdaebfca2e6fb5e44", "position": 1,
        }
    ],
}  # fmt: skip
SCHEMA: Final[dict[str, Any]] = {
    "description": "A batch, or one event.",
    "anyOf": [
        {
            "type": "object",
            "required": ["events"],
            "additionalProperties": False,
            "properties": {
                "events": {"type": "array", "minItems": 1, "maxItems": MOST, "items": _EVENT}
            },
        },
        {**_EVENT, "type": "object", "not": {"required": ["events"]}},
    ],
}


def add_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/events",
        **declared(EventsAnswer, 400, 401, 403, 413, 429, 503),
        openapi_extra=takes(SCHEMA), tags=["events"],
    )  # fmt: skip
    async def events(request: Request) -> Response:
        """Keep what people did; answered once it is on disk."""
        bearer = allowed(service, request, "events")
        batch = _batch(await body_of(service, request))
        wait_s = service.event_buckets.take(bearer.name, len(batch), now_s=time.monotonic())
        if wait_s:
            raise too_often(service, wait_s)
        return answered(await _keep(service, bearer, batch))


def _batch(body: bytes) -> list[Any]:
    """
    Raises:
        Refusal: it is no batch, or too long a one.
    """
    try:
        came = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "no_json", f"body: expected JSON ({error})") from None
    if isinstance(came, dict) and "events" not in came:
        return [came]
    batch = came.get("events") if isinstance(came, dict) else came
    if not isinstance(came, dict) or not isinstance(batch, list) or len(came) > 1:
        raise Refusal(400, "no_batch", 'body: expected {"events": [...]}, or one event')
    if not 1 <= len(batch) <= MOST:
        raise Refusal(400, "batch_size", f"events: expected 1 to {MOST}, came {len(batch)}")
    return batch


async def _keep(service: Service, bearer: Bearer, batch: list[Any]) -> dict[str, Any]:
    now_s = time.time()
    latest_s = now_s + service.settings.max_future_s
    good: list[tuple[int, Event]] = []
    bad: dict[int, str] = {}
    for index, came in enumerate(batch):
        try:
            good.append((index, event_of(came, bearer, now_s=now_s, latest_s=latest_s)))
        except DataError as error:
            bad[index] = str(error)
    outcomes = ()
    if good:
        queued = service.store.queue_events([event for _, event in good])
        outcomes = (await asyncio.wrap_future(queued)).outcomes
    for (index, _), outcome in zip(good, outcomes, strict=True):
        if outcome == "erased":
            bad[index] = "user_id: this user was erased"
    n_duplicate = outcomes.count("duplicate")
    counted = {
        "accepted": outcomes.count("accepted"),
        "duplicate": n_duplicate,
        "rejected": len(bad),
    }
    for name, n in counted.items():
        service.metrics.events.labels(name).inc(n)
    rejections = [
        {"index": index, "event_id": _event_id(batch[index]), "reason": bad[index]}
        for index in sorted(bad)
    ]
    return {**counted, "rejections": rejections}


def event_of(came: Any, bearer: Bearer, *, now_s: float, latest_s: float) -> Event:
    """One event as the store keeps it.

    Raises:
        DataError: what is wrong, what came, what to do.
    """
    if not isinstance(came, Mapping):
        raise DataError(f"expected an object, came {type(came).__name__}")
    for name in came:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            raise DataError(
                f"{name[:80]!r} is no field" + (f"; meant {near[0]!r}?" if near else "")
            )
    for name in _REQUIRED:
        if came.get(name) is None:
            raise DataError(f"{name}: is missing")
    time_s = came.get("time_s")
    event = Event(
        event_id=_text(came["event_id"]),
        user_id=_text(came["user_id"]),
        item_id=_text(came["item_id"]),
        kind=came["kind"],
        value=came.get("value"),
        time_s=now_s if time_s is None else time_s,
        request_id=came.get("request_id"),
        position=came.get("position"),
    )
    if event.time_s > latest_s:
        raise DataError(f"time_s: {event.time_s} is in the future; send seconds since 1970, UTC")
    if not bearer.may_ask_about(event.user_id):
        raise DataError("user_id: the key is for another user")
    return event


def _text(came: Any) -> Any:
    return str(came) if isinstance(came, int) and not isinstance(came, bool) else came


def _event_id(came: Any) -> str | None:
    told = came.get("event_id") if isinstance(came, Mapping) else None
    told = _text(told)
    if not isinstance(told, str):
        return None
    # JSON can name half of a surrogate pair, which no answer can hold.
    return told[:1_024].encode(errors="replace").decode()
