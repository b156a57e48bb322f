"""What came of all requests, counted, and how long they took."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from candidfeed.serving.load.answers import Receipt, Slate
from candidfeed.serving.load.traffic import Kind

# Answers by which a service says that it has too much to do.
REFUSED: Final = frozenset({"429", "503"})
SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


@dataclass(frozen=True, slots=True)
class Times:
    """Of one request, by the event loop's clock; one that was never sent was sent at its end."""

    due_s: float
    sent_s: float
    ended_s: float


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    # Rounded, because 0.07 * 100 is a little more than 7.
    return ascending[max(math.ceil(round(share * len(ascending), 6)), 1) - 1]


def spread_ms(taken_s: Sequence[float]) -> dict[str, float] | None:
    """The `SHARES` in milliseconds; None of nothing."""
    ascending = sorted(taken_s)
    if not ascending:
        return None
    return {name: round(percentile(ascending, at) * 1e3, 3) for name, at in SHARES.items()}


class OfKind:
    """Requests of one kind; all times count from when a request was due.

    Attributes:
        good_s: of good answers, to the last byte.
        refused_s: of refusals; `refused_sent_s` counts from when the request was sent.
        n_failed: requests with neither.
    """

    def __init__(self) -> None:
        self.good_s, self.refused_s, self.refused_sent_s = array("d"), array("d"), array("d")
        self.n_failed = 0

    @property
    def n(self) -> int:
        return len(self.good_s) + len(self.refused_s) + self.n_failed


class Tally:
    """Counts requests that were due from `start_s` on, by the event loop's clock."""

    def __init__(self, *, start_s: float) -> None:
        self.start_s, self.last_s = start_s, start_s
        self.kinds: dict[Kind, OfKind] = {"feed": OfKind(), "events": OfKind()}
        self.answers: Counter[str] = Counter()
        self.degraded: Counter[str] = Counter()
        self.releases: Counter[str] = Counter()
        self.n_slots: Counter[int] = Counter()
        self.client_late_s = array("d")

    @property
    def n(self) -> int:
        return self.answers.total()

    @property
    def n_good(self) -> int:
        return sum(len(one.good_s) for one in self.kinds.values())

    @property
    def n_failed(self) -> int:
        return sum(one.n_failed for one in self.kinds.values())

    def add(
        self, kind: Kind, answer: str, times: Times, read: Slate | Receipt | None = None
    ) -> None:
        """Count a request, once it has ended.

        Args:
            answer: the status, or what went wrong.
            read: what a good answer said.
        """
        if times.due_s < self.start_s:
            return
        self.last_s = max(self.last_s, times.ended_s)
        self.answers[answer] += 1
        self.client_late_s.append(times.sent_s - times.due_s)
        of_kind = self.kinds[kind]
        if read is not None:
            of_kind.good_s.append(times.ended_s - times.due_s)
        elif answer in REFUSED:
            of_kind.refused_s.append(times.ended_s - times.due_s)
            of_kind.refused_sent_s.append(times.ended_s - times.sent_s)
        else:
            of_kind.n_failed += 1
        if isinstance(read, Slate):
            self.releases[read.release_id] += 1
            self.degraded.update(read.degraded)
            self.n_slots[len(read.items)] += 1

    def holds(self, *, limit_s: float, share: float) -> bool:
        """Whether nothing failed, and so many of the feeds were answered well in time.

        A feed that was refused came too late. Where no feed was asked, events are judged; where
        nothing was asked, nothing holds.
        """
        judged = self.kinds["feed" if self.kinds["feed"].n else "events"]
        n_in_time = sum(one <= limit_s for one in judged.good_s)
        return not self.n_failed and n_in_time >= share * judged.n > 0

    def figures(self, *, seconds: float) -> dict[str, Any]:
        """All of it, as JSON takes it.

        Rates are over `seconds`, or until the last answer where that came later: what is answered
        after the end is no throughput of the time before.
        """
        took_s = max(seconds, self.last_s - self.start_s)
        return {
            "seconds": round(took_s, 2),
            "n": self.n,
            "n_failed": self.n_failed,
            "per_s": round(self.n / took_s, 1),
            "good_per_s": round(self.n_good / took_s, 1),
            **{kind: _kind_figures(one, took_s) for kind, one in self.kinds.items()},
            "answers": dict(self.answers.most_common()),
            "degraded": dict(self.degraded.most_common()),
            "releases": dict(self.releases.most_common()),
            "slots": {str(n): self.n_slots[n] for n in sorted(self.n_slots)},
            "client_late_ms": spread_ms(self.client_late_s),
        }


def _kind_figures(one: OfKind, took_s: float) -> dict[str, Any]:
    return {
        "n": one.n,
        "n_good": len(one.good_s),
        "n_refused": len(one.refused_s),
        "n_failed": one.n_failed,
        "good_per_s": round(len(one.good_s) / took_s, 1),
        "latency_ms": spread_ms(one.good_s),
        "refused_ms": spread_ms(one.refused_s),
        "refused_after_sending_ms": spread_ms(one.refused_sent_s),
    }
