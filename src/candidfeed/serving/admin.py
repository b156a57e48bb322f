"""Routes that change what is known: items, users, keys."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from fastapi import FastAPI, Request, Response

from candidfeed.errors import DataError
from candidfeed.feed.item_codes import require_coded
from candidfeed.serving.basis import BLOCKED_ITEMS, MUTED_VALUES
from candidfeed.serving.http import Refusal, allowed, answered, body_of, declared, takes
from candidfeed.serving.item_changes import EXPIRES
from candidfeed.serving.keys import KeyRing
from candidfeed.serving.service import Service
from candidfeed.serving.wire import (
    Done,
    Erased,
    ItemFields,
    KeptId,
    KeyAnswer,
    KeyEntry,
    KeysAnswer,
    NewKey,
    UserFields,
    parse,
)
from candidfeed.store.records import check_number

_Done = TypeVar("_Done")
_REFUSALS = (400, 401, 403, 413, 429, 503)


def add_routes(app: FastAPI, service: Service) -> None:
    _add_items(app, service)
    _add_users(app, service)
    _add_keys(app, service)


def _add_items(app: FastAPI, service: Service) -> None:
    @app.put(
        "/v1/items/{item_id:path}", **declared(Done, *_REFUSALS, 409),
        openapi_extra=takes(ItemFields), tags=["items"],
    )  # fmt: skip
    async def put_item(request: Request, item_id: KeptId) -> Response:
        """Replace what is known of an item; `expires_s` says from when on it is not shown.

        One that the release does not know is served by its features from now on.
        """
        allowed(service, request, "admin")
        fields = parse(ItemFields, await body_of(service, request)).fields
        if (expires_s := fields.get(EXPIRES)) is not None:
            check_number(f"{EXPIRES} (seconds since 1970 UTC)", expires_s)
        if (live := service.releases.live) is not None:
            live.item_bag(fields)
        if await _off_loop(lambda: service.store.put_item(item_id, fields, time.time())) is None:
            raise Refusal(409, "deleted", "item_id: this item was deleted for good; use another id")
        await _off_loop(service.releases.follow)
        return answered(Done())

    @app.delete("/v1/items/{item_id:path}", **declared(Done, *_REFUSALS), tags=["items"])
    async def delete_item(request: Request, item_id: KeptId) -> Response:
        """Never show an item again; also one that is not known yet."""
        allowed(service, request, "admin")
        await _off_loop(lambda: service.store.delete_item(item_id, time.time()))
        await _off_loop(service.releases.follow)
        return answered(Done())


def _add_users(app: FastAPI, service: Service) -> None:
    @app.put(
        "/v1/users/{user_id:path}", **declared(Done, *_REFUSALS), openapi_extra=takes(UserFields),
        tags=["users"],
    )  # fmt: skip
    async def put_user(request: Request, user_id: KeptId) -> Response:
        """Replace what is known of a user.

        Never shown to them are `blocked_items`, and what has one of the values of `muted`, by
        column: `{"genres": ["Horror"]}`.
        """
        allowed(service, request, "admin")
        fields = parse(UserFields, await body_of(service, request)).fields
        _require_ids(fields.get(BLOCKED_ITEMS, []))
        _require_values(muted := fields.get(MUTED_VALUES, {}))
        if (live := service.releases.live) is not None:
            require_coded(live.served.items, muted, MUTED_VALUES)
            live.bag_of_user(fields)
            # What is made once a column is made now, and not while a feed waits for it.
            await _off_loop(lambda: live.muted(muted))
        if not await _off_loop(lambda: service.store.put_user(user_id, fields, time.time())):
            raise Refusal(403, "erased", "user_id: this user was erased")
        return answered(Done())

    @app.delete("/v1/users/{user_id:path}", **declared(Erased, *_REFUSALS), tags=["users"])
    async def delete_user(request: Request, user_id: KeptId) -> Response:
        """Erase a user: gone from serving at once, from a release with the next build."""
        allowed(service, request, "admin")
        erasure = await _off_loop(lambda: service.store.delete_user(user_id, time.time()))
        if service.keys is not None:
            await _off_loop(service.keys.refresh)
        service.journal.write("user erased", user=service.journal.veiled(user_id))
        return answered(
            Erased(
                n_events=erasure.n_events,
                n_slates=erasure.n_slates,
                is_scrubbed=erasure.is_scrubbed,
            )
        )


def _add_keys(app: FastAPI, service: Service) -> None:
    @app.get("/v1/keys", **declared(KeysAnswer, 401, 403, 404, 429), tags=["keys"])
    async def list_keys(request: Request) -> Response:
        """All API keys, without what opens anything."""
        keys = _keys(service, request)
        return answered(
            KeysAnswer(
                keys=[
                    KeyEntry(
                        name=one.name, scopes=list(one.scopes), created_s=one.created_s,
                        expires_s=one.expires_s, user_id=one.user_id,
                    )
                    for one in keys.entries()
                ]
            )
        )  # fmt: skip

    @app.post(
        "/v1/keys", **declared(KeyAnswer, *_REFUSALS, 404), openapi_extra=takes(NewKey),
        tags=["keys"],
    )  # fmt: skip
    async def add_key(request: Request) -> Response:
        """Make an API key, in the place of the one of its name."""
        keys = _keys(service, request)
        asked = parse(NewKey, await body_of(service, request))
        if asked.user_id is not None and "admin" in asked.scopes:
            raise DataError("scopes: a key for one user can't have 'admin', which is for all")
        key = await _off_loop(
            lambda: keys.add(
                asked.name, asked.scopes, now_s=time.time(), expires_s=asked.expires_s,
                user_id=asked.user_id,
            )
        )  # fmt: skip
        if key is None:
            raise Refusal(403, "erased", "user_id: this user was erased")
        return answered(KeyAnswer(name=asked.name, key=key))

    @app.delete("/v1/keys/{name:path}", **declared(Done, *_REFUSALS, 404), tags=["keys"])
    async def remove_key(request: Request, name: KeptId) -> Response:
        """An API key opens nothing any more."""
        keys = _keys(service, request)
        if not await _off_loop(lambda: keys.remove(name)):
            raise Refusal(404, "unknown_key", f"name: there is no key {name!r}")
        return answered(Done())


def _keys(service: Service, request: Request) -> KeyRing:
    allowed(service, request, "admin")
    if service.keys is None:
        raise Refusal(404, "no_keys", "this service asks for no keys; start it without --no-auth")
    return service.keys


async def _off_loop(run: Callable[[], _Done]) -> _Done:
    """What waits for the disk must not keep feeds waiting."""
    return await asyncio.to_thread(run)


def _require_ids(came: object) -> None:
    if not isinstance(came, list) or not all(isinstance(one, str | int) for one in came):
        raise DataError(f"{BLOCKED_ITEMS}: expected a list of ids, came {came!r}"[:200])


def _require_values(came: object) -> None:
    if isinstance(came, dict) and all(
        isinstance(values, list) and all(isinstance(one, str) for one in values)
        for values in came.values()
    ):
        return
    raise DataError(f'{MUTED_VALUES}: expected {{"COLUMN": ["VALUE"]}}, came {came!r}'[:200])
