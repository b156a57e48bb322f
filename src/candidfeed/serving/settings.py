"""What a person who runs the service may choose."""

from dataclasses import dataclass, fields
from typing import Final

from candidfeed.errors import ConfigError
from candidfeed.feed.policy import DEFAULT_POLICY, Policy

_OTHER_KINDS: Final = ("policy", "sample_features", "log_requests")


@dataclass(frozen=True)
class ServeSettings:
    """
    Attributes:
        deadline_ms: after so long a feed is answered with less than was planned.
        n_workers: threads that make feeds.
        n_processes: that make feeds, this one among them; each other takes memory of its own.
        n_waiting: requests for feeds that may wait for a thread; more are refused at once.
        requests_per_s: that one API key may make, on average.
        burst: that it may make at once.
        events_per_s: events that one API key may send, on average, and ten times so many at once.
        max_body_bytes: of a request.
        watch_s: how often the pointer of the releases is looked at.
        max_future_s: how far ahead of our clock the time of an event may be.
        policy: what slates keep to beside values.
        sample_features: share of the feeds, 0 to 1, of which all is kept that they were made from.
        log_requests: whether each request is told in the log.
    """

    deadline_ms: float = 150.0
    n_workers: int = 1
    n_processes: int = 1
    n_waiting: int = 32
    requests_per_s: float = 2_000.0
    burst: float = 4_000.0
    events_per_s: float = 50_000.0
    max_body_bytes: int = 1 << 20
    watch_s: float = 1.0
    max_future_s: float = 300.0
    policy: Policy = DEFAULT_POLICY
    sample_features: float = 0.01
    log_requests: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            came = getattr(self, field.name)
            if field.name not in _OTHER_KINDS and not came > 0:
                raise ConfigError(f"{field.name}: expected a number above 0, came {came}")
        if not 0 <= self.sample_features <= 1:
            raise ConfigError(
                f"sample_features: expected a share from 0 to 1, came {self.sample_features}"
            )
