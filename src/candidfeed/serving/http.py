"""What all routes share: who asks, how much, the body, and how a refusal is told."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from candidfeed.serving import keys
from candidfeed.serving.engine import Work
from candidfeed.serving.keys import ANYBODY, Bearer
from candidfeed.serving.service import Service
from candidfeed.serving.wire import ErrorAnswer, encoded

JSON: Final = "application/json"
SCHEMAS: Final = "#/components/schemas/"
# In the scope of a request for a feed: the `Work` that it became.
WORK: Final = "candidfeed.work"
_RETRY_S: Final = 1
_TOLD: Final[Mapping[int, str]] = {
    400: "The request can't be understood: what is wrong, what came, what to do.",
    401: "No API key, or one that is not known or no longer.",
    403: "The key is not for this, or not for this user.",
    404: "Not known.",
    409: "The item was deleted for good.",
    413: "The body is too long.",
    429: "This key asks too often.",
    503: "Not now: too much waits, no release is loaded, or the store can't write.",
}


class Refusal(Exception):
    """An answer that is not what was asked for."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after_s = retry_after_s


def problem(refusal: Refusal) -> Response:
    headers = {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(refusal.retry_after_s)))
    told = {"error": {"code": refusal.code, "message": refusal.message}}
    return Response(encoded(told), refusal.status, headers, JSON)


def answered(answer: BaseModel | dict[str, Any] | bytes) -> Response:
    return Response(answer if isinstance(answer, bytes) else encoded(answer), media_type=JSON)


def declared(answer: type[BaseModel], *refusals: int) -> dict[str, Any]:
    """Of a route: what it answers, for its description."""
    told = {status: {"model": ErrorAnswer, "description": _TOLD[status]} for status in refusals}
    return {"responses": {200: {"model": answer}, **told}}


def takes(body: type[BaseModel] | dict[str, Any]) -> dict[str, Any]:
    """Of a route that reads its body by itself: its model or JSON schema, for its description."""
    schema = body if isinstance(body, dict) else {"$ref": f"{SCHEMAS}{body.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def allowed(service: Service, request: Request, scope: keys.Scope) -> Bearer:
    """Who asks, if they may.

    Raises:
        Refusal: no key, a wrong one, or too many requests.
    """
    bearer = ANYBODY
    if service.keys is not None:
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        found = service.keys.find(key, now_s=time.time()) if kind.lower() == "bearer" else None
        if found is None:
            service.metrics.refused.labels("no_key").inc()
            raise Refusal(401, "no_key", "send a valid API key: 'Authorization: Bearer KEY'")
        # What that scope changes is everybody's.
        if scope not in found.scopes or (scope == "admin" and found.user_id is not None):
            service.metrics.refused.labels("scope").inc()
            raise Refusal(403, "scope", f"the key {found.name!r} is not for {scope!r}")
        bearer = found
    wait_s = service.request_buckets.take(bearer.name, 1, now_s=time.monotonic())
    if wait_s:
        raise too_often(service, wait_s)
    return bearer


def too_often(service: Service, wait_s: float) -> Refusal:
    service.metrics.refused.labels("rate").inc()
    told = f"more than this key may ask for; try again in {wait_s:.1f} s"
    return Refusal(429, "rate", told, retry_after_s=wait_s)


def of_user(bearer: Bearer, user_id: str | None) -> None:
    """
    Raises:
        Refusal: the key is for another user.
    """
    if not bearer.may_ask_about(user_id):
        raise Refusal(403, "other_user", "the key is for another user")


async def body_of(service: Service, request: Request) -> bytes:
    """
    Raises:
        Refusal: it is longer than allowed, and the rest of it is not read; or it is cut off.
    """
    most = service.settings.max_body_bytes
    told = request.headers.get("content-length", "0")
    n, parts = 0, []
    if not (told.isdecimal() and int(told) > most):
        try:
            async for part in request.stream():
                n += len(part)
                if n > most:
                    break
                parts.append(part)
            else:
                return b"".join(parts)
        except ClientDisconnect:
            # Nobody hears it: it is counted so.
            raise Refusal(400, "cut_off", "body: the connection closed before its end") from None
    raise Refusal(413, "too_long", f"body: expected at most {most} bytes, came more")


def not_ready() -> Refusal:
    return Refusal(503, "not_ready", "no release is loaded yet", retry_after_s=_RETRY_S)


class Measured:
    """Times every request, and refuses feeds at once where too many wait.

    That refusal is made before anything is read or looked up: it must cost next to nothing.

    Args:
        at_once: by method and path, what is answered without `app`.
    """

    def __init__(
        self, app: ASGIApp, service: Service, at_once: Mapping[tuple[str, str], ASGIApp]
    ) -> None:
        self._app, self._service, self._at_once = app, service, at_once
        self._busy = problem(
            Refusal(503, "busy", "too many requests wait; try again", retry_after_s=_RETRY_S)
        )
        self._no_text = problem(Refusal(400, "not_understood", "path: expected UTF-8, as %XX"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        if self._service.workers.is_full and scope["path"].startswith("/v1/feed"):
            self._service.metrics.refused.labels("busy").inc()
            await self._busy(scope, receive, send)
            self._tell(scope, "/v1/feed", self._busy.status_code, began)
            return
        if b"%" in scope.get("raw_path", b"") and not _is_text(scope["raw_path"]):
            await self._no_text(scope, receive, send)
            self._tell(scope, "none", self._no_text.status_code, began)
            return

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        app = self._at_once.get((scope["method"], scope["path"]), self._app)
        try:
            await app(scope, receive, told)
        finally:
            route = getattr(scope.get("route"), "path_format", "none")
            self._tell(scope, route, status, began)

    def _tell(self, scope: Scope, route: str, status: int, began: float) -> None:
        """Count it; and one line, if that was asked for: a path, body or key may name somebody."""
        seconds = time.perf_counter() - began
        self._service.metrics.requests.labels(route, status).observe(seconds)
        if not self._service.settings.log_requests:
            return
        about = {"method": scope["method"], "route": route, "status": status}
        about["took_ms"] = round(seconds * 1e3, 2)
        work: Work | None = scope.get(WORK)
        if work is not None and work.made is not None:
            about |= {"request_id": work.request_id, "degraded": work.made.degraded}
            about["n_slots"] = work.made.n_slots
        self._service.journal.write("request", **about)


def _is_text(raw_path: bytes) -> bool:
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return False
    return True


class AtOnce:
    """A route without the framework's layers, which take as long as a third of a feed.

    Args:
        route: its endpoint needs no more than the request.
        told: the answer to an error of one of these `kinds`.
    """

    def __init__(
        self,
        route: Route,
        told: Callable[[Exception], Response],
        kinds: tuple[type[Exception], ...],
    ) -> None:
        self._route, self._told, self._kinds = route, told, kinds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self._route
        try:
            answer = await self._route.endpoint(Request(scope, receive))
        except self._kinds as error:
            answer = self._told(error)
        await answer(scope, receive, send)
