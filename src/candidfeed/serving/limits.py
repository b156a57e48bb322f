"""How much one key may ask for: a token bucket each."""

import math
import threading


class TokenBucket:
    """Lets through `rate` a second on average, and `burst` at once; for any thread.

    Source: leaky bucket as a meter, ITU-T I.371, generic cell rate algorithm.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at_s = burst, -math.inf
        self._lock = threading.Lock()

    def take(self, n: float, *, now_s: float) -> float:
        """0 where n are let through, else after how many seconds they would be; then none is taken.

        More than `burst` at once are let through when the bucket is full.

        Args:
            now_s: of a clock that never goes back.
        """
        with self._lock:
            left = min(self._burst, self._left + max(0.0, now_s - self._at_s) * self._rate)
            self._left, self._at_s = left, max(now_s, self._at_s)
            if left >= min(n, self._burst):
                self._left = left - n
                return 0.0
            return (min(n, self._burst) - left) / self._rate


class Buckets:
    """A bucket for each name; names are those of API keys, so they are few."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, name: str, n: float, *, now_s: float) -> float:
        """As `TokenBucket.take`."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets.setdefault(name, TokenBucket(self._rate, self._burst))
        return bucket.take(n, now_s=now_s)
