"""A feed from what it is made of to the bytes of its answer: pure but for a clock.

It needs no store and no socket, so that any process with the release can do it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Final
from weakref import WeakKeyDictionary

from candidfeed.feed.pipeline import (
    LATEST,
    POPULAR,
    SEARCH,
    Ask,
    in_retrieval_order,
    rank_in_steps,
    retrieve_in_steps,
    weights_of,
)
from candidfeed.feed.policy import Policy
from candidfeed.feed.served import Person
from candidfeed.feed.slate import Retrieved, Slate
from candidfeed.feed.steps import Helper, Steps, alone, clocked, side_by_side
from candidfeed.serving.basis import (
    RANKER_LATE,
    RETRIEVAL_LATE,
    USER_FEATURES,
    Basis,
    ask_of,
    person_of,
)
from candidfeed.serving.live import LiveRelease
from candidfeed.serving.sample import Packing, changed_of, is_sampled, read_of
from candidfeed.serving.slate_line import heads_of, slate_line, slot_line
from candidfeed.serving.wire import FeedRequest, encoded

# Stages, by the names under which their time is told.
PERSON: Final = "person"
ANSWER: Final = "answer"
# Those that are spent outside of Python for the most part.
HELPED: Final = frozenset({SEARCH})
# How much the latest request counts in the time that ranking takes.
_RECENT: Final = 0.05


@dataclass(frozen=True)
class Made:
    """A feed that only needs to be answered and written down; plain values alone.

    Attributes:
        answer: the body of the answer, JSON.
        line: what is kept of the slate (`SlateRecord.slots`).
        sample: all that it was made from, where it was drawn to be kept and could be.
        sampled: what became of that; empty where it was not drawn.
        n_slots: of the slate.
        degraded: what was left out.
        stages: seconds of each stage.
        n_unknown: ids that the release does not know, by kind.
        scores: what stage two orders the slate by, those that are finite.
    """

    answer: bytes
    line: bytes
    sample: bytes | None
    sampled: str
    n_slots: int
    degraded: tuple[str, ...]
    stages: Mapping[str, float]
    n_unknown: Mapping[str, int]
    n_candidates: int
    n_non_finite: int
    scores: tuple[float, ...]


@dataclass
class Draft:
    """How far a feed has come.

    Attributes:
        left_s: seconds until the whole of it comes too late.
        degraded: what was left out so far.
        version: of the release's items when they were first read.
    """

    basis: Basis
    live: LiveRelease
    left_s: float
    degraded: list[str] = field(default_factory=list)
    version: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    n_unknown: dict[str, int] = field(default_factory=dict)
    person: Person | None = None
    ask: Ask | None = None
    retrieved: Retrieved | None = None


class FeedMaker:
    """Makes feeds, on any thread.

    Args:
        sample_share: share of the feeds of which all is kept that they were made from.
        helper: of `HELPED`.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        sample_share: float,
        helper: Helper | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._policy, self._sample_share, self._clock = policy, sample_share, clock
        self._helper = helper
        self._policy_json = policy.to_json()
        self._ranking_s = 0.0
        # Of each release that is still served, that of the version that was sampled last.
        self._packings = WeakKeyDictionary[LiveRelease, tuple[int, Packing]]()

    def make(self, drafts: Sequence[Draft]) -> list[Made]:
        """The whole feeds, side by side; without stage two where that would come too late."""
        return side_by_side(
            [clocked(self._in_steps(one), one.stages, self._clock) for one in drafts],
            self._helper,
        )

    def _in_steps(self, draft: Draft) -> Steps[Made]:
        deadline, draft.version = self._clock() + draft.left_s, draft.live.version
        yield PERSON
        person, ask = self._made_of(draft)
        retrieved = yield from retrieve_in_steps(draft.live.served, person, ask)
        draft.person, draft.ask, draft.retrieved = person, ask, retrieved
        if ask.everybodys == LATEST:
            slate = in_retrieval_order(draft.live.served, person, retrieved, ask)
        elif (began := self._clock()) + self._ranking_s >= deadline:
            return (yield from self._late_in_steps(draft))
        else:
            slate = yield from rank_in_steps(draft.live.served, person, retrieved, ask)
            # As long as it takes beside others.
            self._ranking_s += _RECENT * (self._clock() - began - self._ranking_s)
        yield ANSWER
        return self._made(draft, slate)

    def make_late(self, draft: Draft) -> Made:
        """What can be had at once: the order of stage one, or what most people touched."""
        # Somebody else may still be at it.
        draft = replace(draft, degraded=[*draft.degraded], stages={**draft.stages})
        return alone(clocked(self._late_in_steps(draft), draft.stages, self._clock))

    def _late_in_steps(self, draft: Draft) -> Steps[Made]:
        person, ask, retrieved = draft.person, draft.ask, draft.retrieved
        if person is None or ask is None or retrieved is None:
            draft.degraded.append(RETRIEVAL_LATE)
            draft.basis, draft.version = draft.basis.without_past(draft.live), draft.live.version
            yield PERSON
            person, ask = self._made_of(draft)
            retrieved = yield from retrieve_in_steps(draft.live.served, person, ask)
        else:
            draft.degraded.append(RANKER_LATE)
        yield ANSWER
        return self._made(draft, in_retrieval_order(draft.live.served, person, retrieved, ask))

    def _made_of(self, draft: Draft) -> tuple[Person, Ask]:
        person, is_whole = person_of(draft.basis, draft.live)
        if not is_whole:
            draft.degraded.append(USER_FEATURES)
        ask, n_unknown = ask_of(draft.basis, draft.live, self._policy)
        is_stranger = draft.basis.is_by_release and person.row == len(draft.live.served.users)
        draft.n_unknown = {"user": int(is_stranger), "item": n_unknown}
        return person, ask

    def _made(self, draft: Draft, slate: Slate) -> Made:
        request, live = draft.basis.request, draft.live
        slots = [slot_line(slot) for slot in slate.slots]
        answer = {
            "request_id": draft.basis.request_id,
            "release_id": live.release_id,
            "mode": _mode(request, slate),
            "degraded": draft.degraded,
            "slots": slots,
        }
        if request.debug:
            answer["debug"] = _funnel(draft.basis, live, slate, self._policy)
        body = encoded(answer)
        line = slate_line(
            live.served,
            slate,
            slots,
            self._policy_json,
            surface=request.surface,
            degraded=draft.degraded,
        )
        kept = encoded(line)
        sampled, sample = self._sampled(draft, slate)
        values = [slot.value for slot in slate.slots if slot.p_engaged is not None]
        return Made(
            answer=body,
            line=kept,
            sample=sample,
            sampled=sampled,
            n_slots=len(slate.slots),
            degraded=tuple(draft.degraded),
            stages=draft.stages,
            n_unknown=draft.n_unknown,
            n_candidates=slate.n_candidates,
            n_non_finite=slate.n_non_finite,
            scores=tuple(filter(isfinite, values)),
        )

    def _sampled(self, draft: Draft, slate: Slate) -> tuple[str, bytes | None]:
        """What became of the sample of a share of the requests, and what the slate was made of."""
        if not is_sampled(draft.basis.request_id, self._sample_share):
            return "", None
        packing = self._packing_of(draft.live, draft.version)
        if packing is None:
            return "items_changed", None
        packed = packing.pack(draft.basis, read_of(draft.live, slate))
        return ("too_large" if packed is None else "kept"), packed

    def _packing_of(self, live: LiveRelease, version: int) -> Packing | None:
        """None where items came or went since: rules, index and sample may not say the same."""
        of_version, packing = self._packings.get(live, (None, None))
        if packing is None or of_version != version:
            packing = Packing(changed_of(live))
        if version % 2 or version != live.version:
            return None
        self._packings[live] = version, packing
        return packing


def _mode(request: FeedRequest, slate: Slate) -> str:
    """What the slate is: nothing is known of a stranger, so theirs is what is popular."""
    if request.mode == "personal" and not len(slate.person.past):
        return POPULAR
    return request.mode


def _funnel(basis: Basis, live: LiveRelease, slate: Slate, policy: Policy) -> dict[str, Any]:
    """How much is known, how many came and went, and what each slot's score was made of."""
    retrieved, selected = slate.retrieved, slate.selected
    return {
        "events": dict(basis.counts),
        "past": len(slate.person.past),
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
        "weights": dict(weights_of(live.served, slate.person)),
        "heads": [heads_of(slot) for slot in slate.slots],
    }
