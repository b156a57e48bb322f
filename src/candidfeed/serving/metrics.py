"""What the service counts and measures, for Prometheus."""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
_SCORES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_ITEMS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Distribution(Collector):
    """A histogram that takes many values at a time, which `Histogram` takes one by one.

    Args:
        bounds: upper ends of the buckets, ascending and finite; one more is for all above.
        label: that values are counted by; none where it is empty.
    """

    def __init__(
        self,
        name: str,
        told: str,
        bounds: Sequence[float],
        registry: CollectorRegistry,
        label: str = "",
    ) -> None:
        self._name, self._told, self._bounds = name, told, bounds
        self._labels = [label] if label else []
        # Of each value of the label: how many in each bucket, and their sum.
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        if not label:
            self._begin("")
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, values: Iterable[float]) -> None:
        """Count finite values, where there is no label."""
        self.observe_by(("", value) for value in values)

    def observe_by(self, values: Iterable[tuple[str, float]]) -> None:
        """Count finite values, each with that of the label."""
        with self._lock:
            for label, value in values:
                if label not in self._counts:
                    self._begin(label)
                self._counts[label][bisect_left(self._bounds, value)] += 1
                self._sums[label] += value

    def collect(self) -> Iterable[HistogramMetricFamily]:
        with self._lock:
            counts = {label: [*of_label] for label, of_label in self._counts.items()}
            sums = {**self._sums}
        family = HistogramMetricFamily(self._name, self._told, labels=self._labels)
        ends = [*(str(bound) for bound in self._bounds), "+Inf"]
        for label, of_label in counts.items():
            buckets = list(zip(ends, accumulate(of_label), strict=True))
            family.add_metric([label] if self._labels else [], buckets, sums[label])
        yield family

    def _begin(self, label: str) -> None:
        self._counts[label] = [0] * (len(self._bounds) + 1)
        self._sums[label] = 0.0


class Metrics:
    """One registry a service, so that two services in one process count apart.

    Attributes:
        requests: by `route` and `status`, seconds from the first byte to the answer.
        stages: by `stage` of a feed, seconds; `queue` is what it waited for a thread.
        candidates: items that stage two ranked, a feed.
        fallbacks: feeds by what was left out of them (`name`).
        refused: requests by `reason` (`busy`, `rate`, `not_ready`, ...).
        unknown_ids: ids that the release does not know, by `kind` (`user`, `item`).
        scores: what stage two orders slates by, of each slot.
        non_finite: candidates whose score was NaN or infinite.
        events: by `outcome`.
        lost_slates: answers that could not be written down.
        samples: feeds that were drawn to be made again, by `outcome` (`kept`, `too_large`,
            `items_changed` while they were made).
        releases: releases put in force, and those that could not be (`outcome`).
        release_s: since when the release in force is so, seconds since 1970: its age, also over
            restarts.
        release_loaded_s: when it was loaded, likewise.
        retrains: by `outcome` (`published`, `refused` by the gate, `failed`).
        retrained_s: when the schedule last published a release, seconds since 1970.
        in_flight: feeds that wait or are made.
        makers: processes beside the first that make feeds of the release in force.
        lost_makers: those that ended, or were silent.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def seconds(name: str, told: str, *labels: str) -> Histogram:
            return Histogram(
                f"candidfeed_{name}_seconds", told, labels, registry=registry, buckets=_SECONDS
            )

        def counted(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"candidfeed_{name}", told, labels, registry=registry)

        self.requests = seconds("request", "From the first byte to the answer", "route", "status")
        self.stages = Distribution(
            "candidfeed_stage_seconds", "Stages of a feed", _SECONDS, registry, "stage"
        )
        self.candidates = Histogram(
            "candidfeed_candidates", "Items ranked a feed", registry=registry, buckets=_ITEMS
        )
        self.scores = Distribution("candidfeed_score", "Score of each slot", _SCORES, registry)
        self.fallbacks = counted("fallbacks", "Feeds that lack a step", "name")
        self.refused = counted("refused", "Requests that were refused", "reason")
        self.unknown_ids = counted("unknown_ids", "Ids the release does not know", "kind")
        self.non_finite = counted("non_finite_scores", "Candidates without a finite score")
        self.events = counted("events", "Events by what became of them", "outcome")
        self.lost_slates = counted("lost_slates", "Answers that could not be written down")
        self.samples = counted("samples", "Feeds drawn to be replayed, or not kept", "outcome")
        self.releases = counted("release_loads", "Releases that were loaded, or not", "outcome")
        self.release_s = Gauge(
            "candidfeed_release_in_force_timestamp_seconds",
            "Since when the release in force is so", ["release_id"], registry=registry,
        )  # fmt: skip
        self.release_loaded_s = Gauge(
            "candidfeed_release_loaded_timestamp_seconds",
            "When the release in force was loaded", ["release_id"], registry=registry,
        )  # fmt: skip
        self.retrains = counted("retrains", "Releases made by the schedule, or not", "outcome")
        self.retrained_s = Gauge(
            "candidfeed_retrained_timestamp_seconds",
            "When the schedule last published a release", registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "candidfeed_feeds_in_flight", "Feeds that wait or are made", registry=registry
        )

        self.makers = Gauge("candidfeed_makers", "Processes that make feeds too", registry=registry)
        self.lost_makers = counted("lost_makers", "Processes that made feeds and ended")

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
