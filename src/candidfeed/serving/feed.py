"""Routes that answer: a feed, items like an item, and why a slot was shown."""

import json
import time
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response

from candidfeed.data.vocabulary import UNKNOWN
from candidfeed.serving.http import (
    WORK,
    Refusal,
    allowed,
    answered,
    body_of,
    declared,
    not_ready,
    of_user,
    takes,
)
from candidfeed.serving.keys import Bearer
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.service import Service
from candidfeed.serving.wire import (
    MOST_SLOTS,
    FeedAnswer,
    FeedRequest,
    KeptId,
    Mode,
    Similar,
    SimilarAnswer,
    WhyAnswer,
    parse,
)


def add_routes(app: FastAPI, service: Service) -> None:
    refusals = (400, 401, 403, 413, 429, 503)

    @app.post(
        "/v1/feed",
        **declared(FeedAnswer, *refusals),
        openapi_extra=takes(FeedRequest),
        tags=["feed"],
    )
    async def feed(request: Request) -> Response:
        """The ordered slate for a user."""
        bearer = allowed(service, request, "feed")
        asked = parse(FeedRequest, await body_of(service, request))
        return await _feed(service, request, bearer, asked)

    @app.get("/v1/feed/{user_id:path}", **declared(FeedAnswer, *refusals), tags=["feed"])
    async def feed_of_user(
        request: Request,
        user_id: KeptId,
        limit: Annotated[int, Query(ge=1, le=MOST_SLOTS)] = 20,
        mode: Mode = "personal",
        debug: bool = False,
    ) -> Response:
        """The ordered slate for a user, with the rest of the request left out."""
        bearer = allowed(service, request, "feed")
        asked = FeedRequest(user_id=user_id, limit=limit, mode=mode, debug=debug)
        return await _feed(service, request, bearer, asked)

    @app.get(
        "/v1/items/{item_id:path}/similar",
        **declared(SimilarAnswer, 400, 401, 403, 404, 429, 503), tags=["feed"],
    )  # fmt: skip
    async def similar(
        request: Request, item_id: KeptId, limit: Annotated[int, Query(ge=1, le=MOST_SLOTS)] = 20
    ) -> Response:
        """Items whose vectors point where this item's does."""
        allowed(service, request, "feed")
        live = _live(service)
        return answered(
            SimilarAnswer(release_id=live.release_id, items=_similar(live, item_id, limit))
        )

    @app.get(
        "/v1/why/{request_id:path}/{position}",
        **declared(WhyAnswer, 400, 401, 403, 404, 429, 503), tags=["feed"],
    )  # fmt: skip
    async def why(request: Request, request_id: KeptId, position: int) -> Response:
        """Why a slot was shown, as it was answered then."""
        bearer = allowed(service, request, "feed")
        return answered(_why(service, bearer, request_id, position))


async def _feed(service: Service, request: Request, bearer: Bearer, asked: FeedRequest) -> Response:
    of_user(bearer, asked.user_id)
    work = request.scope[WORK] = service.engine.work(asked, _live(service), now_s=time.time())
    # One of the two answers: where the late one comes too late, the other has just done it.
    made = await service.workers.first(
        work,
        lambda: service.engine.make_late(work),
        after_s=service.settings.deadline_ms / 1e3,
    )
    assert made is not None, "made by nobody"
    return answered(made)


def _live(service: Service) -> LiveRelease:
    if (live := service.releases.live) is None:
        raise not_ready()
    return live


def _similar(live: LiveRelease, item_id: str, limit: int) -> list[Similar]:
    row = int(live.rows_of([item_id])[0])
    if row == UNKNOWN or live.changes.is_gone[row]:
        raise Refusal(404, "unknown_item", f"item_id: {item_id!r} is not in this release")
    vector = live.served.vectors_of(np.array([row], np.int32))[0]
    # By inner product long vectors come first: more of them, then by the angle.
    rows = live.served.index.search(vector, 8 * limit + 1, deny=np.array([row], np.int32)).rows
    for rule in live.rules(time.time()):
        rows = rows[~rule.bars(rows)]
    vectors = live.served.vectors_of(rows)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    cosines = vectors @ vector / np.maximum(norms, np.finfo(np.float32).tiny)
    best = np.argsort(-cosines, kind="stable")[:limit]
    ids, titles = live.served.ids_of(rows[best]), live.served.titles_of(rows[best])
    return [
        Similar(item_id=one, title=title, score=float(score))
        for one, title, score in zip(ids, titles, cosines[best], strict=True)
    ]


def _why(service: Service, bearer: Bearer, request_id: str, position: int) -> WhyAnswer:
    record = service.store.slate(request_id)
    # Whose it was is not told either.
    if record is None or not bearer.may_ask_about(record.user_id):
        raise Refusal(404, "unknown_request", f"request_id: {request_id!r} is not known")
    logged: dict[str, Any] = json.loads(record.slots)
    slots = logged["slots"]
    if not 1 <= position <= len(slots):
        told = f"position: expected 1 to {len(slots)}, came {position}"
        raise Refusal(404, "unknown_position", told)
    slot = slots[position - 1]
    return WhyAnswer(
        request_id=request_id,
        release_id=record.release_id,
        weights=logged["weights"],
        **{
            name: slot[name]
            for name in ("position", "item_id", "score", "source", "reason", "heads")
        },
    )
