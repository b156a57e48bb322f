"""One measurement of a service: at a rate, so many at a time, or up to its peak and beyond."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from candidfeed.errors import LoadError
from candidfeed.serving.load.client import Client
from candidfeed.serving.load.drive import MOST_REQUESTS, Driver, poisson_arrivals
from candidfeed.serving.load.peak import HIGHEST_PER_S, Step, find_peak, peak_of
from candidfeed.serving.load.service import Service, require_answers
from candidfeed.serving.load.tally import Tally
from candidfeed.serving.load.traffic import Sent, Traffic

T = TypeVar("T")
# What is going on, the seconds of it that have passed, and all of them.
Progress = Callable[[str, float, float], None]

# Clicks that wait when the run ends are sent in batches of so many.
_LEFT_BATCH: Final = 100
_PROGRESS_EVERY_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a service is loaded.

    Attributes:
        rate_per_s: requests that arrive in a second; where the peak is searched, at first.
        seconds: how long, after the seconds that warm up and are not counted; of each step.
        n_in_flight: so many requests at a time instead of a rate.
        find_peak: search the highest rate that holds, from the rate on.
        overload: after that ask so many times the peak, and the peak again.
    """

    rate_per_s: float
    seconds: float
    warm_up_s: float
    n_in_flight: int | None = None
    find_peak: bool = False
    overload: float | None = None
    n_connections: int
    timeout_s: float
    key: str | None = None

    def __post_init__(self) -> None:
        if self.n_in_flight is not None and self.find_peak:
            raise LoadError("--in-flight and --find-peak: a peak is searched by rates; name one")
        if self.overload is not None and not self.find_peak:
            raise LoadError("--overload is so many times the peak; add --find-peak")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise LoadError("--key: is no API key, it holds what no header can")
        # Of the largest step, at worst.
        highest_per_s = HIGHEST_PER_S * (self.overload or 1) if self.find_peak else self.rate_per_s
        n_asked = highest_per_s * (self.seconds + self.warm_up_s)
        if self.n_in_flight is None and n_asked > MOST_REQUESTS:
            raise LoadError(
                f"{n_asked:,.0f} requests are more than one run asks ({MOST_REQUESTS:,}); take a "
                "lower --rate or fewer --seconds"
            )


async def measure(
    service: Service,
    traffic: Traffic,
    plan: Plan,
    rng: np.random.Generator,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """Carry out the plan; the figures, as JSON takes them.

    Raises:
        LoadError: the service does not answer as it should before the load begins.
    """
    headers = [f"Authorization: Bearer {plan.key}"] if plan.key else []
    client = Client(service.host, service.port, n_connections=plan.n_connections, headers=headers)
    with closing(client):
        await require_answers(client, traffic, service)
        session = _Session(Driver(client, traffic, timeout_s=plan.timeout_s), plan, rng, progress)
        figures = await session.carry_out()
        left = await session.driver.send_left(batch=_LEFT_BATCH)
    figures["n_failed"] += left.n_failed
    return {**figures, "events": _events_figures(traffic.sent)}


@dataclass(frozen=True)
class _Session:
    driver: Driver
    plan: Plan
    rng: np.random.Generator
    progress: Progress

    async def carry_out(self) -> dict[str, Any]:
        if self.plan.find_peak:
            return await self.peak_and_beyond()
        if self.plan.n_in_flight is not None:
            return await self.in_flight(self.plan.n_in_flight)
        return await self.at_rate(self.plan.rate_per_s)

    async def at_rate(self, rate_per_s: float) -> dict[str, Any]:
        tally = await self._open_loop(rate_per_s)
        return {"n_failed": tally.n_failed, "run": self._figures(tally, rate_per_s)}

    async def in_flight(self, n: int) -> dict[str, Any]:
        running = self.driver.closed_loop(
            n_in_flight=n, seconds=self.plan.seconds, warm_up_s=self.plan.warm_up_s
        )
        tally = await self._watched(running, f"{n} in flight")
        run = {"n_in_flight": n, **tally.figures(seconds=self.plan.seconds)}
        return {"n_failed": tally.n_failed, "run": run}

    async def peak_and_beyond(self) -> dict[str, Any]:
        steps = await find_peak(self._open_loop, first_per_s=self.plan.rate_per_s)
        peak = peak_of(steps)
        tallies = [step.tally for step in steps]
        figures: dict[str, Any] = {
            "steps": [self._step_figures(step) for step in steps],
            "peak_per_s": peak.rate_per_s if peak else None,
        }
        if peak is not None:
            figures["run"] = self._figures(peak.tally, peak.rate_per_s)
        if peak is not None and self.plan.overload is not None:
            rate_per_s = peak.rate_per_s * self.plan.overload
            over = await self._open_loop(rate_per_s)
            # A machine may be slower by now than when the peak was found.
            again = await self._open_loop(peak.rate_per_s)
            tallies += [over, again]
            figures["overload"] = self._figures(over, rate_per_s)
            figures["run_after"] = self._figures(again, peak.rate_per_s)
            before, goodput, after = (
                figures[name]["good_per_s"] for name in ("run", "overload", "run_after")
            )
            figures["goodput_share"] = round(goodput / ((before + after) / 2), 3)
        figures["n_failed"] = sum(tally.n_failed for tally in tallies)
        return figures

    async def _open_loop(self, rate_per_s: float) -> Tally:
        plan = self.plan
        before_s = poisson_arrivals(rate_per_s, plan.warm_up_s, self.rng)
        counted_s = plan.warm_up_s + poisson_arrivals(rate_per_s, plan.seconds, self.rng)
        due_s = np.concatenate([before_s, counted_s])
        running = self.driver.open_loop(due_s, warm_up_s=plan.warm_up_s)
        return await self._watched(running, f"{rate_per_s:,.0f}/s")

    async def _watched(self, running: Awaitable[T], what: str) -> T:
        """Tell how far it is, beside it."""
        loop = asyncio.get_running_loop()
        start_s, total_s = loop.time(), self.plan.warm_up_s + self.plan.seconds

        async def tell() -> None:
            while True:
                self.progress(what, min(loop.time() - start_s, total_s), total_s)
                await asyncio.sleep(_PROGRESS_EVERY_S)

        telling = asyncio.create_task(tell())
        try:
            return await running
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling

    def _figures(self, tally: Tally, rate_per_s: float) -> dict[str, Any]:
        return {"asked_per_s": rate_per_s, **tally.figures(seconds=self.plan.seconds)}

    def _step_figures(self, step: Step) -> dict[str, Any]:
        figures = step.tally.figures(seconds=self.plan.seconds)
        judged = figures["feed" if figures["feed"]["n"] else "events"]
        spread = judged["latency_ms"] or {}
        return {
            "rate_per_s": step.rate_per_s,
            "good_per_s": figures["good_per_s"],
            "n_refused": sum(figures[kind]["n_refused"] for kind in ("feed", "events")),
            "n_failed": figures["n_failed"],
            "p50_ms": spread.get("p50"),
            "p99_ms": spread.get("p99"),
            "holds": step.holds,
        }


def _events_figures(sent: Sent) -> dict[str, int]:
    return {
        "n_sent": sent.n_sent,
        "n_acknowledged": len(sent.acknowledged),
        "n_accepted": sent.n_accepted,
        "n_duplicates": sent.n_duplicates,
        "n_rejected": sent.n_rejected,
        "n_forgotten": sent.n_forgotten,
    }
