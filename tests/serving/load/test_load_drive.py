"""Requests over real sockets: when they are sent, how their time counts, what may go wrong."""

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidfeed.serving.load import client as client_module
from candidfeed.serving.load import drive
from candidfeed.serving.load.clicks import ClicksByPosition
from candidfeed.serving.load.client import Client
from candidfeed.serving.load.drive import Driver, poisson_arrivals, run
from candidfeed.serving.load.people import people_by_zipf
from candidfeed.serving.load.tally import Tally
from candidfeed.serving.load.traffic import Traffic

FEED = b'{"user_id": 1, "limit": 2}'
T = TypeVar("T")


@contextmanager
def driving(
    service: Any, *, n_connections: int = 50, timeout_s: float = 30, events_share: float = 0.0
) -> Iterator[Driver]:
    traffic = Traffic(
        people_by_zipf(5),
        ClicksByPosition(),
        limit=3,
        events_share=events_share,
        batch=1,
        rng=np.random.default_rng(0),
        run_name="run",
    )
    with closing(Client("127.0.0.1", service.port, n_connections=n_connections)) as client:
        yield Driver(client, traffic, timeout_s=timeout_s)


def with_service(service: Any, main: Coroutine[Any, Any, T]) -> T:
    """Run it while the service listens in the same event loop."""

    async def both() -> T:
        server = await service.serve()
        try:
            return await main
        finally:
            server.close()

    return run(both())


# The schedule


@given(st.floats(0.1, 500), st.floats(0.1, 20), st.integers(0, 2**32))
def test_a_schedule_is_ascending_within_its_time_and_as_long_as_expected(
    rate_per_s: float, seconds: float, seed: int
) -> None:
    due_s = poisson_arrivals(rate_per_s, seconds, np.random.default_rng(seed))
    assert len(due_s) == round(rate_per_s * seconds)
    assert np.all(np.diff(due_s) >= 0)
    assert np.all((due_s >= 0) & (due_s <= seconds))


def test_gaps_between_arrivals_spread_as_those_of_a_poisson_process() -> None:
    gaps = np.diff(poisson_arrivals(100.0, 1_000.0, np.random.default_rng(1)))
    # Exponential: P(gap > t) = exp(-rate * t), each within six standard deviations.
    for t in (0.001, 0.01, 0.05):
        expected = np.exp(-100 * t)
        assert abs((gaps > t).mean() - expected) < 6 * (expected * (1 - expected) / 1e5) ** 0.5


# Open and closed loop


def test_a_stall_shows_in_every_request_that_was_due_meanwhile(service: Any) -> None:
    """The service answers nobody until all twenty wait: a tool that waits first never ends."""
    due_s = np.arange(20) * 0.01

    async def main() -> Tally:
        all_wait = asyncio.Event()

        async def before_answer() -> None:
            if len(service.asked) == 20:
                all_wait.set()
            await all_wait.wait()

        service.before_answer = before_answer
        with driving(service) as driver:
            return await driver.open_loop(due_s)

    tally = with_service(service, main())
    latencies_s = sorted(tally.kinds["feed"].good_s, reverse=True)
    assert len(latencies_s) == 20
    assert all(took >= 0.19 - due for took, due in zip(latencies_s, due_s, strict=True))


def test_requests_that_wait_for_a_connection_are_late_from_when_they_were_due(
    service: Any,
) -> None:
    async def main() -> Tally:
        stall = asyncio.Event()
        service.before_answer = stall.wait
        asyncio.get_running_loop().call_later(0.2, stall.set)
        with driving(service, n_connections=1) as driver:
            return await driver.open_loop(np.arange(10) * 0.01)

    tally = with_service(service, main())
    latencies_s = sorted(tally.kinds["feed"].good_s, reverse=True)
    assert service.n_connections == 1
    assert all(took >= 0.19 - n * 0.01 for n, took in enumerate(latencies_s))
    assert max(tally.client_late_s) >= 0.18


def test_a_request_is_never_sent_before_it_is_due(service: Any) -> None:
    tally = with_service(service, _open_loop(service, np.linspace(0, 0.1, 30)))
    assert tally.n_good == 30
    assert min(tally.client_late_s) >= 0


def test_what_is_due_in_the_warm_up_is_sent_and_not_counted(service: Any) -> None:
    tally = with_service(service, _open_loop(service, np.array([0.0, 0.01, 0.05, 0.06]), 0.03))
    assert (len(service.asked), tally.n) == (4, 2)


async def _open_loop(service: Any, due_s: np.ndarray, warm_up_s: float = 0.0) -> Tally:
    with driving(service) as driver:
        return await driver.open_loop(due_s, warm_up_s=warm_up_s)


def test_what_is_due_while_too_many_wait_is_not_sent_and_has_failed(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "MOST_WAITING", 3)

    async def main() -> Tally:
        stall = asyncio.Event()
        service.before_answer = stall.wait
        asyncio.get_running_loop().call_later(0.1, stall.set)
        with driving(service) as driver:
            return await driver.open_loop(np.zeros(5))

    tally = with_service(service, main())
    assert tally.answers == {"200": 3, "not sent": 2}
    assert (tally.n_failed, len(service.asked)) == (2, 3)


def test_a_closed_loop_has_never_more_in_flight_than_it_was_told(service: Any) -> None:
    in_flight: list[int] = []

    async def main() -> Tally:
        n = 0

        async def before_answer() -> None:
            nonlocal n
            n += 1
            in_flight.append(n)
            await asyncio.sleep(0)
            n -= 1

        service.before_answer = before_answer
        with driving(service) as driver:
            return await driver.closed_loop(n_in_flight=4, seconds=0.2)

    tally = with_service(service, main())
    assert tally.n_good == tally.n == len(service.asked)
    assert max(in_flight) <= 4
    assert service.n_connections == 4


def test_feeds_and_clicks_go_to_their_routes_and_all_clicks_arrive_once(service: Any) -> None:
    async def main() -> tuple[Tally, Tally]:
        with driving(service, events_share=0.1) as driver:
            tally = await driver.open_loop(np.linspace(0, 0.2, 200))
            return tally, await driver.send_left(batch=7)

    tally, left = with_service(service, main())
    assert (tally.n_failed, left.n_failed) == (0, 0)
    assert left.n_good >= 1
    assert {path for path, _ in service.asked[: -left.n]} == {"/v1/feed", "/v1/events"}
    assert {path for path, _ in service.asked[-left.n :]} == {"/v1/events"}
    clicked = [one for one in service.events.values() if "request_id" in one]
    places = [(one["request_id"], one["position"]) for one in clicked]
    assert len(places) == len(set(places)) >= 1


# What may go wrong


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ((503, b""), "503"),
        ((500, b"{}"), "500"),
        ((200, b"<html>"), "wrong: not JSON"),
        ((200, b"{}"), "wrong: field missing"),
    ],
)
def test_an_answer_that_is_not_good_is_counted_by_its_name(
    service: Any, reply: tuple[int, bytes], name: str
) -> None:
    service.instead = lambda path, body: reply
    tally = with_service(service, _open_loop(service, np.zeros(3)))
    assert tally.answers == {name: 3}
    assert tally.n_failed == (0 if name == "503" else 3)


def test_an_answer_that_does_not_come_is_a_timeout_and_its_connection_is_given_up(
    service: Any,
) -> None:
    async def main() -> tuple[Tally, Tally]:
        never = asyncio.Event()

        async def before_answer() -> None:
            if len(service.asked) == 1:
                await never.wait()

        service.before_answer = before_answer
        with driving(service, n_connections=1, timeout_s=0.05) as driver:
            return await driver.open_loop(np.zeros(1)), await driver.open_loop(np.zeros(1))

    first, second = with_service(service, main())
    assert (first.answers, second.answers) == ({"timeout": 1}, {"200": 1})
    assert service.n_connections == 2


def test_a_service_that_has_gone_is_no_answer(service: Any) -> None:
    async def main() -> Tally:
        server = await service.serve()
        server.close()
        await server.wait_closed()
        with driving(service) as driver:
            return await driver.closed_loop(n_in_flight=1, seconds=0.01)

    tally = run(main())
    assert set(tally.answers) == {"no answer"}
    assert tally.n_failed == tally.n


# The client


def answered_in(pieces: list[bytes], *, n_asks: int = 1) -> list[tuple[int, bytes]]:
    """What the client makes of raw bytes that come in these pieces to each request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(n_asks):
            await reader.readuntil(FEED)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def main() -> list[tuple[int, bytes]]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = Client("127.0.0.1", server.sockets[0].getsockname()[1], n_connections=1)
        try:
            answers = [await client.post("/", FEED) for _ in range(n_asks)]
            return [(one.status, one.body) for one in answers]
        finally:
            client.close()
            server.close()

    return run(main())


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX: y\r\n\r\nhello"


@pytest.mark.parametrize("size", [1, 7, len(WHOLE)])
def test_an_answer_may_come_in_pieces(size: int) -> None:
    pieces = [WHOLE[at : at + size] for at in range(0, len(WHOLE), size)]
    assert answered_in(pieces, n_asks=2) == [(200, b"hello")] * 2


def test_an_answer_may_be_empty() -> None:
    assert answered_in([b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"]) == [(503, b"")]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "connection closed"),
        (WHOLE[:-1], "connection closed"),
        (WHOLE + b"!", "more than was announced"),
        (b"SMTP ready\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "no Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "no Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", "too long"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 17), "a head without an end"),
    ],
)
def test_what_is_no_whole_answer_is_an_error(raw: bytes, reason: str) -> None:
    with pytest.raises(OSError, match=reason):
        answered_in([raw])


def test_a_connection_that_the_service_will_close_is_not_used_again() -> None:
    async def main() -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal n_connections
            n_connections += 1
            await reader.readuntil(FEED)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        n_connections = 0
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = Client("127.0.0.1", server.sockets[0].getsockname()[1], n_connections=1)
        assert [(await client.post("/", FEED)).status for _ in range(3)] == [200] * 3
        client.close()
        server.close()
        return n_connections

    assert run(main()) == 3


def test_a_connection_that_was_idle_too_long_is_not_used_again(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        client = Client("127.0.0.1", service.port, n_connections=1)
        for _ in range(3):
            assert (await client.post("/v1/feed", FEED)).status == 200
        client.close()

    monkeypatch.setattr(client_module, "IDLE_S", -1.0)
    with_service(service, main())
    assert service.n_connections == 3


def test_the_head_names_the_host_and_the_key(service: Any) -> None:
    async def main() -> None:
        client = Client(
            "127.0.0.1", service.port, n_connections=1, headers=["Authorization: Bearer secret"]
        )
        await client.post("/v1/feed", FEED)
        client.close()

    with_service(service, main())
    [head] = service.heads
    assert f"\r\nHost: 127.0.0.1:{service.port}\r\nAuthorization: Bearer secret\r\n" in head
    assert json.loads(FEED) == service.asked[0][1]
