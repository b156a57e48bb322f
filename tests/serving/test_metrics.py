"""A distribution counts as Prometheus' own histogram does."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from candidfeed.serving.metrics import Distribution

BOUNDS = (0.0, 0.01, 0.5, 1.0)
VALUES = ((), (-2.0, 0.0, 0.0078125), (0.015625, 0.5, 0.75, 1.0, 7.5))


def test_many_values_at_a_time_are_counted_as_one_by_one() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = Distribution("score", "Of each slot", BOUNDS, ours)
    other = Histogram("score", "Of each slot", registry=theirs, buckets=BOUNDS)
    for values in VALUES:
        one.observe(values)
        for value in values:
            other.observe(value)
    expected = [
        line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line
    ]
    assert generate_latest(ours).decode().splitlines() == expected
