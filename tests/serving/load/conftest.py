"""A feed service that keeps to the contract and does as it is told, on a real socket."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

N_ITEMS = 30
Reply = tuple[int, bytes]


@dataclass
class FeedService:
    """Answers `slate` and `receipt`, or what `instead` says; everything asked is kept.

    Attributes:
        instead: given the path and the body; None leaves the answer to the service.
        before_answer: awaited before each answer.
    """

    instead: Callable[[str, dict[str, Any]], Reply | None] = lambda path, body: None
    before_answer: Callable[[], Awaitable[None]] | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    n_connections: int = 0
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    port: int = 0

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                path = head.split(" ")[1]
                self.asked.append((path, body))
                self.heads.append(head)
                if self.before_answer is not None:
                    await self.before_answer()
                status, answer = self.instead(path, body) or self._answer(path, body)
                said = f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
                writer.write(said + answer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client has gone, or the test has ended
        finally:
            writer.close()

    def _answer(self, path: str, body: dict[str, Any]) -> Reply:
        return 200, json.dumps(
            self.receipt(body) if "events" in path else self.slate(body)
        ).encode()

    def slate(self, body: dict[str, Any]) -> dict[str, Any]:
        n = min(body["limit"], N_ITEMS)
        slots = [{"position": r + 1, "item_id": r, "kind": "organic"} for r in range(n)]
        return {
            "request_id": f"request-{len(self.asked)}",
            "release_id": "0001-a",
            "mode": "personal",
            "degraded": [],
            "slots": slots,
        }

    def receipt(self, body: dict[str, Any]) -> dict[str, Any]:
        new = {one["event_id"]: one for one in body["events"] if one["event_id"] not in self.events}
        self.events |= new
        n_duplicates = len(body["events"]) - len(new)
        return {"accepted": len(new), "duplicate": n_duplicates, "rejected": 0, "rejections": []}


@pytest.fixture
def service() -> FeedService:
    """Not listening yet: `await service.serve()`."""
    return FeedService()


@pytest.fixture
def served(service: FeedService) -> Iterator[FeedService]:
    """The service, listening in a thread of its own."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        server, stop = await service.serve(), asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    loop, stop = started.result()
    yield service
    loop.call_soon_threadsafe(stop.set)
    thread.join()
