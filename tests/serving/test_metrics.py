"""A distribution counts as Prometheus' own histogram does."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from candidfeed.serving.metrics import Distribution

BOUNDS = (0.0, 0.01, 0.5, 1.0)
STAGES = ("search", "model", "search", "view", "search")
VALUES = ((), (-2.0, 0.0, 0.0078125), (0.015625, 0.5, 0.75, 1.0, 7.5))


def lines_of(registry: CollectorRegistry) -> list[str]:
    """Without the times at which Prometheus' own began, which ours don't tell."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


def test_many_values_at_a_time_are_counted_as_one_by_one() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = Distribution("score", "Of each slot", BOUNDS, ours)
    other = Histogram("score", "Of each slot", registry=theirs, buckets=BOUNDS)
    for values in VALUES:
        one.observe(values)
        for value in values:
            other.observe(value)
    assert lines_of(ours) == lines_of(theirs)


def test_values_are_counted_by_their_label() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = Distribution("stage_seconds", "Of a feed", BOUNDS, ours, "stage")
    other = Histogram("stage_seconds", "Of a feed", ["stage"], registry=theirs, buckets=BOUNDS)
    for values in VALUES:
        one.observe_by(zip(STAGES, values, strict=False))
        for stage, value in zip(STAGES, values, strict=False):
            other.labels(stage).observe(value)
    assert lines_of(ours) == lines_of(theirs)
