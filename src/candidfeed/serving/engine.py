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

from candidfeed.errors import StoreError
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
from candidfeed.feed.slate import Retrieved, Slate
from candidfeed.serving.basis import (
    RANKER_LATE,
    RETRIEVAL_LATE,
    STORE_DOWN,
    USER_FEATURES,
    Basis,
    ask_of,
    person_of,
)
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.metrics import Metrics
from candidfeed.serving.people import People
from candidfeed.serving.sample import encode_sample, is_sampled, sample_of
from candidfeed.serving.settings import ServeSettings
from candidfeed.serving.slate_line import heads_of, slate_line, slot_line
from candidfeed.serving.wire import FeedRequest, encoded
from candidfeed.store.history import History
from candidfeed.store.records import SlateRecord
from candidfeed.store.store import Store

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
        version: of the release's items when it began.
    """

    request: FeedRequest
    live: LiveRelease
    now_s: float
    began: float
    deadline: float
    request_id: str = field(default_factory=lambda: secrets.token_hex(12))
    degraded: list[str] = field(default_factory=list)
    version: int = 0
    basis: Basis | None = None
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
        deadline = began + self._settings.deadline_ms / 1e3
        return Work(request, live, now_s, began, deadline, version=live.version)

    def make(self, work: Work) -> bytes | None:
        """The whole feed, as far as the deadline allows; None where it was answered meanwhile."""
        waited_s = self._clock() - work.began
        self._metrics.stages.labels("queue").observe(waited_s)
        if self._clock() >= work.deadline:
            return self.make_late(work)
        with self._measured("person"):
            basis = work.basis = self._read(work)
            person, ask = work.person, work.ask = self._made_of(work, basis)
        served = work.live.served
        with self._measured("retrieve"):
            work.retrieved = retrieve(served, person, ask)
        if ask.everybodys == LATEST:
            slate = in_retrieval_order(served, person, work.retrieved, ask)
            return self._answer(work, basis, slate)
        if self._clock() + self._ranking_s >= work.deadline:
            return self.make_late(work)
        began = self._clock()
        with self._measured("rank"):
            slate = rank(served, person, work.retrieved, ask)
        self._ranking_s += _RECENT * (self._clock() - began - self._ranking_s)
        return self._answer(work, basis, slate)

    def make_late(self, work: Work) -> bytes | None:
        """What can be answered at once: the order of stage one, or what most people touched."""
        served, basis, person, ask = work.live.served, work.basis, work.person, work.ask
        retrieved, left_out = work.retrieved, RANKER_LATE
        if basis is None or person is None or ask is None or retrieved is None:
            left_out, basis = RETRIEVAL_LATE, Basis(work.request, work.request_id, work.now_s)
            person, ask = self._made_of(work, basis)
            retrieved = retrieve(served, person, ask)
        slate = in_retrieval_order(served, person, retrieved, ask)
        return self._answer(work, basis, slate, left_out)

    # What is known

    def _read(self, work: Work) -> Basis:
        request, basis = work.request, Basis(work.request, work.request_id, work.now_s)
        if request.user_id is None or request.mode != "personal":
            return basis
        try:
            basis = replace(basis, known=self._people.get(request.user_id))
            later, seen = self._store.history(request.user_id), self._store.seen(request.user_id)
            return replace(basis, later=later, seen=seen)
        except StoreError:
            work.degraded.append(STORE_DOWN)
            return replace(basis, later=_told_by_client(request, work.now_s), is_told=True)

    def _made_of(self, work: Work, basis: Basis) -> tuple[Person, Ask]:
        person, is_whole = person_of(basis, work.live)
        if not is_whole:
            work.degraded.append(USER_FEATURES)
        if basis.is_by_release and person.row == len(work.live.served.users):
            self._metrics.unknown_ids.labels("user").inc()
        ask, n_unknown = ask_of(basis, work.live, self._settings.policy)
        if n_unknown:
            self._metrics.unknown_ids.labels("item").inc(n_unknown)
        return person, ask

    # The answer

    def _answer(self, work: Work, basis: Basis, slate: Slate, *left_out: str) -> bytes | None:
        if not work.close():
            return None
        work.degraded += left_out
        with self._measured("answer"):
            served = work.live.served
            weights = weights_of(served, slate.person)
            answer = {
                "request_id": work.request_id,
                "release_id": work.live.release_id,
                "mode": _mode(work.request, slate),
                "degraded": work.degraded,
                "slots": [slot_line(slot) for slot in slate.slots],
            }
            if work.request.debug:
                answer["debug"] = _funnel(slate, weights, self._settings.policy)
            self._write_down(work, basis, slate)
            self._count(work, slate)
            return encoded(answer)

    def _write_down(self, work: Work, basis: Basis, slate: Slate) -> None:
        line = slate_line(
            work.live.served, slate, self._settings.policy,
            surface=work.request.surface, degraded=work.degraded,
        )  # fmt: skip
        record = SlateRecord(
            work.request_id, work.request.user_id, work.now_s, work.live.release_id, encoded(line),
            self._sampled(work, basis, slate),
        )  # fmt: skip
        try:
            is_kept = self._store.log_slate(record)
        except StoreError:
            is_kept = False
        if not is_kept:
            self._metrics.lost_slates.inc()

    def _sampled(self, work: Work, basis: Basis, slate: Slate) -> bytes | None:
        """What the slate was made from, of a share of the requests."""
        if not is_sampled(work.request_id, self._settings.sample_features):
            return None
        sample = sample_of(basis, work.live, slate)
        if work.version % 2 or work.version != work.live.version:
            # Items came or went meanwhile: rules, index and sample may not say the same.
            outcome, packed = "items_changed", None
        else:
            packed = encode_sample(sample)
            outcome = "too_large" if packed is None else "kept"
        self._metrics.samples.labels(outcome).inc()
        return packed

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
        "heads": [heads_of(slot) for slot in slate.slots],
    }
