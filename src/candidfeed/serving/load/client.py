"""A small HTTP/1.1 client that takes little of the cores it shares with the service it measures.

It knows no more of HTTP than the service speaks: answers with a length, connections that stay open
(docs/decisions.md has the figures).
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# The service may close what is idle (uvicorn: after 5 s); a request must not cross that.
IDLE_S: Final = 2.0
_LARGEST_HEAD, _LARGEST_BODY = 1 << 16, 1 << 26
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close *\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came; times are the event loop's.

    Attributes:
        sent_s: when the request was handed to the system.
        ended_s: when the last byte was there.
    """

    status: int
    body: bytes
    sent_s: float
    ended_s: float


class Client:
    """Asks one service over a bounded number of connections; where all are busy requests wait.

    Args:
        headers: sent with every request, such as `Authorization: Bearer KEY`.
    """

    def __init__(
        self, host: str, port: int, *, n_connections: int, headers: Sequence[str] = ()
    ) -> None:
        self._host, self._port = host, port
        name = f"[{host}]" if ":" in host else host
        lines = [f"Host: {name}:{port}", *headers, "Content-Type: application/json"]
        self._head = "".join(f"{line}\r\n" for line in lines).encode()
        self._free = asyncio.Semaphore(n_connections)
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes) -> Answer:
        """The answer, whatever its status.

        Cancelling it closes the connection.

        Raises:
            OSError: no connection, one that broke off, or an answer that is no HTTP.
        """
        request = b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (
            path.encode(),
            self._head,
            len(body),
            body,
        )
        async with self._free:
            connection = self._latest_idle() or await self._connect()
            try:
                answer = await connection.ask(request)
            except BaseException:
                connection.close()
                raise
            if connection.is_open:
                self._idle.append(connection)
            return answer

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _latest_idle(self) -> "_Connection | None":
        now_s = asyncio.get_running_loop().time()
        if self._idle and now_s - self._idle[-1].idle_since_s > IDLE_S:
            self.close()  # the others wait for longer still
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._n_expected = 0
        self._body_at = 0
        self._sent_s = 0.0
        self.idle_since_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Answer:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("connection closed")
        self._waiting = self._loop.create_future()
        self._sent_s = self._loop.time()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail("connection closed")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._waiting is None or self._waiting.done():
            self.close()  # nothing was asked, or nobody waits for it any more
            return
        if not self._body_at and not self._read_head():
            return
        if len(self._buffer) == self._n_expected:
            self._finish()
        elif len(self._buffer) > self._n_expected:
            self._fail("more than was announced")

    def _read_head(self) -> bool:
        """Whether all of it is there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LARGEST_HEAD:
                self._fail("a head without an end")
            return False
        length = _LENGTH.search(self._buffer, 0, end + 2)
        if not _STATUS.match(self._buffer) or length is None or len(length[1]) > 9:
            self._fail("an answer that is no HTTP/1.1, or has no Content-Length")
            return False
        if int(length[1]) > _LARGEST_BODY:
            self._fail("an answer that is too long")
            return False
        self._body_at = end + 4
        self._n_expected = self._body_at + int(length[1])
        return True

    def _finish(self) -> None:
        assert self._waiting is not None
        status = int(self._buffer[9:12])
        body = bytes(memoryview(self._buffer)[self._body_at :])
        if _CLOSE.search(self._buffer, 0, self._body_at - 2):
            self.close()
        self.idle_since_s = self._loop.time()
        self._waiting.set_result(Answer(status, body, self._sent_s, self.idle_since_s))
        self._buffer = bytearray()
        self._body_at = self._n_expected = 0

    def _fail(self, reason: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError(reason))
        self.close()
