"""From a request to an answer: what is known is read, the feed is made, and written down.

Each feed is made on a worker's thread. Where the deadline passes first, whoever waits takes what
there is by then: `Work` is closed once, by the one or the other.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from candidfeed.data.vocabulary import UNKNOWN
from candidfeed.errors import DataError, StoreError
from candidfeed.feed.eligibility import BLOCKED, DENIED, SEEN, among
from candidfeed.feed.pipeline import (
    LATEST,
    POPULAR,
    Ask,
    in_retrieval_order,
    rank,
    retrieve,
    weights_of,
)
from candidfeed.feed.policy import Policy
from candidfeed.feed.served import Person
from candidfeed.feed.slate import Retrieved, Slate, Slot
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.metrics import Metrics
from candidfeed.serving.people import KnownUser, People
from candidfeed.serving.settings import ServeSettings
from candidfeed.serving.wire import FeedRequest, encoded
from candidfeed.store.history import History
from candidfeed.store.records import SlateRecord
from candidfeed.store.store import Store

# What may be left out of a feed, by the name under which it is told and counted.
STORE_DOWN: Final = "store_down"
RETRIEVAL_LATE: Final = "retrieval_late"
RANKER_LATE: Final = "ranker_late"
USER_FEATURES: Final = "user_features"
# Of a user's fields: items that they never want to see.
BLOCKED_ITEMS: Final = "blocked_items"
# Likewise those with one of these values, by column.
MUTED_VALUES: Final = "muted"
_NOBODY: Final = KnownUser({}, is_erased=False)
# How much the latest request counts in the time that ranking takes.
_RECENT: Final = 0.05


@dataclass
class Work:
    """One feed in the making.

    Attributes:
        live: the release that it began with.
        now_s: when it came, seconds since 1970.
        began, deadline: by the clock that never goes back, in seconds.
        degraded: what was left out so far.
    """

    request: FeedRequest
    live: LiveRelease
    now_s: float
    began: float
    deadline: float
    request_id: str = field(default_factory=lambda: secrets.token_hex(12))
    degraded: list[str] = field(default_factory=list)
    person: Person | None = None
    ask: Ask | None = None
    retrieved: Retrieved | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_closed: bool = False

    def close(self) -> bool:
        """True for the first to ask, who answers; False for the other."""
        with self._lock:
            was_open, self._is_closed = not self._is_closed, True
            return was_open


class Engine:
    """Makes feeds, on any thread.

    Args:
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: Store,
        people: People,
        metrics: Metrics,
        settings: ServeSettings,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store, self._people, self._metrics = store, people, metrics
        self._settings, self._clock = settings, clock
        self._ranking_s = 0.0

    def work(self, request: FeedRequest, live: LiveRelease, *, now_s: float) -> Work:
        began = self._clock()
        return Work(request, live, now_s, began, began + self._settings.deadline_ms / 1e3)

    def make(self, work: Work) -> bytes | None:
        """The whole feed, as far as the deadline allows; None where it was answered meanwhile."""
        waited_s = self._clock() - work.began
        self._metrics.stages.labels("queue").observe(waited_s)
        if self._clock() >= work.deadline:
            return self.make_late(work)
        with self._measured("person"):
            person, ask = work.person, work.ask = self._read(work)
        served = work.live.served
        with self._measured("retrieve"):
            work.retrieved = retrieve(served, person, ask)
        if ask.everybodys == LATEST:
            return self._answer(work, in_retrieval_order(served, person, work.retrieved, ask))
        if self._clock() + self._ranking_s >= work.deadline:
            return self.make_late(work)
        began = self._clock()
        with self._measured("rank"):
            slate = rank(served, person, work.retrieved, ask)
        self._ranking_s += _RECENT * (self._clock() - began - self._ranking_s)
        return self._answer(work, slate)

    def make_late(self, work: Work) -> bytes | None:
        """What can be answered at once: the order of stage one, or what most people touched."""
        served, person, ask, retrieved = work.live.served, work.person, work.ask, work.retrieved
        left_out = RANKER_LATE
        if person is None or ask is None or retrieved is None:
            left_out, person, ask = RETRIEVAL_LATE, served.anonymous, self._asked(work, _NOBODY)
            retrieved = retrieve(served, person, ask)
        slate = in_retrieval_order(served, person, retrieved, ask)
        return self._answer(work, slate, left_out)

    # What is known

    def _read(self, work: Work) -> tuple[Person, Ask]:
        user_id = work.request.user_id
        known, later, seen = _NOBODY, None, frozenset()
        if user_id is not None and work.request.mode == "personal":
            try:
                known = self._people.get(user_id)
                later, seen = self._store.history(user_id), self._store.seen(user_id)
            except StoreError:
                work.degraded.append(STORE_DOWN)
                later = _told_by_client(work.request, work.now_s)
        return self._person(work, known, later), self._asked(work, known, seen)

    def _person(self, work: Work, known: KnownUser, later: History | None) -> Person:
        live, user_id = work.live, work.request.user_id
        if user_id is None or later is None or known.is_erased:
            return live.served.anonymous
        if STORE_DOWN in work.degraded:
            # Whether they were erased can't be told: what the release knows is not read.
            return replace(live.served.anonymous, past=live.past_of(later))
        past = live.past_of(later)
        try:
            person = live.person(user_id, past, known.fields)
        except DataError:
            # They were put under a release whose columns were others.
            work.degraded.append(USER_FEATURES)
            person = live.person(user_id, past, {})
        if person.row == len(live.served.users):
            self._metrics.unknown_ids.labels("user").inc()
        return person

    def _asked(self, work: Work, known: KnownUser, seen: frozenset[str] = frozenset()) -> Ask:
        request, live = work.request, work.live
        now_s = work.now_s if request.context.time_s is None else request.context.time_s
        rules = [*live.rules(work.now_s)]
        blocked = known.fields.get(BLOCKED_ITEMS, [])
        for reason, ids in ((SEEN, seen), (DENIED, request.deny), (BLOCKED, blocked)):
            if len(ids):
                rules.append(among(reason, self._known_rows(live, list(ids))))
        if muted := known.fields.get(MUTED_VALUES):
            rules.append(live.muted(muted))
        return Ask(
            k=request.limit,
            now_s=now_s,
            rules=tuple(rules),
            allowed=None if request.allow is None else self._known_rows(live, request.allow),
            everybodys=LATEST if request.mode == "latest" else POPULAR,
            policy=self._settings.policy,
            request_id=work.request_id,
            all_heads=request.debug,
        )

    def _known_rows(self, live: LiveRelease, item_ids: list[str]) -> Any:
        rows = live.rows_of(item_ids)
        is_known = rows != UNKNOWN
        if not is_known.all():
            self._metrics.unknown_ids.labels("item").inc(int((~is_known).sum()))
        return rows[is_known]

    # The answer

    def _answer(self, work: Work, slate: Slate, *left_out: str) -> bytes | None:
        if not work.close():
            return None
        work.degraded += left_out
        with self._measured("answer"):
            served = work.live.served
            weights = weights_of(served, slate.person)
            slots = [_slot(slot) for slot in slate.slots]
            answer = {
                "request_id": work.request_id,
                "release_id": work.live.release_id,
                "mode": _mode(work.request, slate),
                "degraded": work.degraded,
                "slots": slots,
            }
            if work.request.debug:
                answer["debug"] = _funnel(slate, weights, self._settings.policy)
            self._write_down(work, slate, weights)
            self._count(work, slate)
            return encoded(answer)

    def _write_down(self, work: Work, slate: Slate, weights: Mapping[str, float]) -> None:
        slots = [
            {**_slot(slot), "by_value": slot.by_value, "heads": _heads(slot)}
            for slot in slate.slots
        ]
        for slot in slots:
            del slot["title"]
        logged = {
            "surface": work.request.surface,
            "weights": weights,
            "policy": self._settings.policy.to_json(),
            "slots": slots,
        }
        try:
            is_kept = self._store.log_slate(
                SlateRecord(
                    work.request_id, work.request.user_id, work.now_s, work.live.release_id,
                    encoded(logged),
                )
            )  # fmt: skip
        except StoreError:
            is_kept = False
        if not is_kept:
            self._metrics.lost_slates.inc()

    def _count(self, work: Work, slate: Slate) -> None:
        metrics = self._metrics
        for name in work.degraded:
            metrics.fallbacks.labels(name).inc()
        metrics.candidates.observe(slate.n_candidates)
        if slate.n_non_finite:
            metrics.non_finite.inc(slate.n_non_finite)
        for slot in slate.slots:
            if np.isfinite(slot.value):
                metrics.scores.observe(slot.value)

    @contextmanager
    def _measured(self, stage: str) -> Iterator[None]:
        began = self._clock()
        yield
        self._metrics.stages.labels(stage).observe(self._clock() - began)


def _told_by_client(request: FeedRequest, now_s: float) -> History:
    told = request.history
    return History(
        tuple(one.item_id for one in told),
        tuple(one.kind for one in told),
        tuple(one.value for one in told),
        tuple(now_s if one.time_s is None else one.time_s for one in told),
    )


def _mode(request: FeedRequest, slate: Slate) -> str:
    """What the slate is: nothing is known of a stranger, so theirs is what is popular."""
    if request.mode == "personal" and not len(slate.person.past):
        return POPULAR
    return request.mode


def _slot(slot: Slot) -> dict[str, Any]:
    return {
        "position": slot.position,
        "item_id": slot.item_id,
        "kind": "organic",
        "title": slot.title,
        "score": slot.value,
        "source": slot.source,
        "reason": slot.reason,
        "propensity": slot.propensity,
    }


def _heads(slot: Slot) -> dict[str, float | None]:
    """What was predicted; nothing where the ranker was not asked."""
    if slot.p_engaged is None:
        return {}
    heads = {"engaged": slot.p_engaged, "liked": slot.p_like, "rating": slot.rating, **slot.actions}
    return {name: one for name, one in heads.items() if one is not None}


def _funnel(slate: Slate, weights: Mapping[str, float], policy: Policy) -> dict[str, Any]:
    """How many came and went, and what each slot's score was made of."""
    retrieved, selected = slate.retrieved, slate.selected
    return {
        "proposed": dict(retrieved.n_proposed),
        "removed": {one.reason: len(one.rows) for one in retrieved.removed},
        "ranked": slate.n_candidates,
        "non_finite": slate.n_non_finite,
        "unknown_features": dict(slate.n_unknown),
        "diversity": policy.diversity,
        "passed_over": dict(selected.passed_over),
        "filled": selected.n_filled,
        "drawn_from": selected.n_pool,
        "by_value": [slot.by_value for slot in slate.slots],
        "weights": dict(weights),
        "heads": [_heads(slot) for slot in slate.slots],
    }
