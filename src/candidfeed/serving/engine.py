"""From requests to answers: what is known is read, the feeds are made, and written down.

Feeds are made on a worker's thread, those that wait there side by side, or handed from there to
another process. Where the deadline passes first, whoever waits takes what there is by then: `Work`
is closed once, by the one or the other.
"""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from candidfeed.errors import StoreError
from candidfeed.feed.steps import Helper
from candidfeed.serving.basis import STORE_DOWN, Basis, KnownUser
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.makers import Makers
from candidfeed.serving.making import Draft, FeedMaker, Made
from candidfeed.serving.metrics import Metrics
from candidfeed.serving.settings import ServeSettings
from candidfeed.serving.wire import FeedRequest
from candidfeed.store.history import History
from candidfeed.store.records import SlateRecord
from candidfeed.store.store import Store


@dataclass
class Work:
    """One feed in the making.

    Attributes:
        live: the release that it began with.
        now_s: when it came, seconds since 1970.
        began, deadline: by the clock that never goes back, in seconds.
        draft: how far it has come; None before anything is read.
        made: what was answered; None until then.
    """

    request: FeedRequest
    live: LiveRelease
    now_s: float
    began: float
    deadline: float
    request_id: str = field(default_factory=lambda: secrets.token_hex(12))
    draft: Draft | None = None
    made: Made | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_closed: bool = False

    def close(self) -> bool:
        """True for the first to ask, who answers; False for the other."""
        with self._lock:
            was_open, self._is_closed = not self._is_closed, True
            return was_open

    def reopen(self) -> None:
        """It could not be answered after all."""
        with self._lock:
            self._is_closed = False


class Engine:
    """Makes feeds, on any thread.

    Args:
        makers: other processes that make feeds too.
        helper: of the threads that make them here.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: Store,
        makers: Makers,
        metrics: Metrics,
        settings: ServeSettings,
        *,
        helper: Helper | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store, self._makers, self._metrics = store, makers, metrics
        self._settings, self._clock = settings, clock
        self._maker = FeedMaker(
            settings.policy, sample_share=settings.sample_features, helper=helper, clock=clock
        )

    def work(self, request: FeedRequest, live: LiveRelease, *, now_s: float) -> Work:
        began = self._clock()
        return Work(request, live, now_s, began, began + self._settings.deadline_ms / 1e3)

    def make(self, works: Sequence[Work]) -> list[bytes | None]:
        """The whole feeds, side by side, as far as their deadlines allow.

        None for each whose deadline has passed, or that is being answered by somebody else.
        """
        began = self._clock()
        self._metrics.stages.observe_by(("queue", began - work.began) for work in works)
        in_time = [work for work in works if began < work.deadline]
        drafts = [self._begun(work) for work in in_time]
        for work, draft in zip(in_time, drafts, strict=True):
            # Not before: reading takes its part of it.
            draft.left_s = work.deadline - self._clock()
        made = self._makers.make(drafts, self._maker.make)
        answers = {
            work.request_id: self._answer(work, one)
            for work, one in zip(in_time, made, strict=True)
        }
        return [answers.get(work.request_id) for work in works]

    def make_late(self, work: Work) -> bytes | None:
        """What can be answered at once; None where somebody else is answering it."""
        return self._answer(work, self._maker.make_late(work.draft or _blank(work)))

    def _begun(self, work: Work) -> Draft:
        began = self._clock()
        draft = Draft(self._read(work), work.live, left_s=0.0)
        if draft.basis.is_told:
            draft.degraded.append(STORE_DOWN)
        draft.stages["read"] = self._clock() - began
        # Whoever waits may go on from here, where it is late.
        work.draft = draft
        return draft

    def _read(self, work: Work) -> Basis:
        """What is known of whom the feed is for; what they did is for `personal` alone."""
        request, is_personal = work.request, work.request.mode == "personal"
        if request.user_id is None:
            return _blank(work).basis
        try:
            about = self._store.about(request.user_id)
        except StoreError:
            later = _told_by_client(request, work.now_s) if is_personal else None
            seen = frozenset(later.item_ids if later else ())
            return Basis(request, work.request_id, work.now_s, later=later, seen=seen, is_told=True)
        known = KnownUser(about.fields, about.is_erased)
        if not is_personal:
            return Basis(request, work.request_id, work.now_s, known=known)
        return Basis(
            request,
            work.request_id,
            work.now_s,
            known=known,
            later=about.history,
            seen=about.seen,
            counts=about.counts,
        )

    def _answer(self, work: Work, made: Made) -> bytes | None:
        if not work.close():
            # Made before as well, beside one that could not be: that answer stands.
            return None if work.made is None else work.made.answer
        try:
            self._write_down(work, made)
        except BaseException:
            # Whoever tries again is told why.
            work.reopen()
            raise
        work.made = made
        self._count(made)
        return made.answer

    def _write_down(self, work: Work, made: Made) -> None:
        record = SlateRecord(
            work.request_id, work.request.user_id, work.now_s, work.live.release_id,
            made.line, made.sample,
        )  # fmt: skip
        try:
            is_kept = self._store.log_slate(record)
        except StoreError:
            is_kept = False
        if not is_kept:
            self._metrics.lost_slates.inc()

    def _count(self, made: Made) -> None:
        metrics = self._metrics
        metrics.stages.observe_by(made.stages.items())
        for name in made.degraded:
            metrics.fallbacks.labels(name).inc()
        for kind, n in made.n_unknown.items():
            if n:
                metrics.unknown_ids.labels(kind).inc(n)
        if made.sampled:
            metrics.samples.labels(made.sampled).inc()
        metrics.candidates.observe(made.n_candidates)
        if made.n_non_finite:
            metrics.non_finite.inc(made.n_non_finite)
        metrics.scores.observe(made.scores)


def _blank(work: Work) -> Draft:
    return Draft(Basis(work.request, work.request_id, work.now_s), work.live, left_s=0.0)


def _told_by_client(request: FeedRequest, now_s: float) -> History:
    told = request.history
    return History(
        tuple(one.item_id for one in told),
        tuple(one.kind for one in told),
        tuple(one.value for one in told),
        tuple(now_s if one.time_s is None else one.time_s for one in told),
    )
