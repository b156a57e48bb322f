"""The routes: HTTP on one side, the parts of the service on the other."""

from collections.abc import Callable
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from candidfeed import __version__
from candidfeed.errors import DataError, StoreBusyError, StoreError
from candidfeed.serving import admin, events, feed
from candidfeed.serving.http import (
    SCHEMAS,
    AtOnce,
    Measured,
    Refusal,
    allowed,
    answered,
    declared,
    problem,
)
from candidfeed.serving.service import Service
from candidfeed.serving.wire import (
    Alive,
    ErrorAnswer,
    FeedRequest,
    ItemFields,
    NewKey,
    Readiness,
    UserFields,
    WireError,
    encoded,
)

_ABOUT: Final = "Events in, feed out. Answers are JSON; errors say what is wrong and what to do."
# What is asked most, of routes that take no more than the request.
_AT_ONCE: Final = ("/v1/feed", "/v1/events")
# Errors of which is told what is wrong.
_TOLD: Final = (Refusal, WireError, RequestValidationError, DataError, StoreError)
# Bodies that the routes read by themselves.
_BODIES: Final[tuple[type[BaseModel], ...]] = (FeedRequest, ItemFields, UserFields, NewKey)


def make_app(service: Service) -> ASGIApp:
    """The service over HTTP; `service` is started and closed by whoever made it."""
    app = describe(service)
    told, unexpected = _told(service), _unexpected(service)
    at_once: dict[tuple[str, str], ASGIApp] = {
        ("POST", route.path): ServerErrorMiddleware(AtOnce(route, told, _TOLD), unexpected)
        for route in app.routes
        if isinstance(route, Route) and route.path in _AT_ONCE
    }
    return Measured(app, service, at_once)


def describe(service: Service) -> FastAPI:
    """All routes, with their description."""
    # The page's scripts come from here, not from another host.
    app = FastAPIOffline(
        title="candidfeed", version=__version__, description=_ABOUT, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    for routes in (feed, events, admin):
        routes.add_routes(app, service)
    _add_health(app, service)
    _add_errors(app, service)
    _describe(app, with_keys=service.keys is not None)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/livez", **declared(Alive), tags=["health"])
    async def livez() -> Response:
        """Whether the process answers."""
        return answered(Alive())

    @app.get(
        "/readyz",
        responses={200: {"model": Readiness}, 503: {"model": Readiness}}, tags=["health"],
    )  # fmt: skip
    async def readyz() -> Response:
        """Whether feeds can be made; events may still be refused while the store can't write."""
        live, health = service.releases.live, service.store.health()
        told = Readiness(
            is_ready=live is not None,
            release_id=live.release_id if live else None,
            store=health.reason or "ok",
        )
        return Response(encoded(told), 200 if live else 503, media_type="application/json")

    @app.get(
        "/metrics", tags=["health"], response_class=PlainTextResponse,
        responses=declared(Alive, 401, 403, 429)["responses"] | {200: {"description": "Text."}},
    )  # fmt: skip
    async def metrics(request: Request) -> Response:
        """Counters and times for Prometheus."""
        allowed(service, request, "metrics")
        service.metrics.in_flight.set(service.workers.n_in_flight)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI, service: Service) -> None:
    told = _told(service)
    for kind in _TOLD:
        app.add_exception_handler(kind, lambda _, error: told(error))
    app.add_exception_handler(Exception, _unexpected(service))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        answer = problem(Refusal(error.status_code, "http", str(error.detail).lower()))
        if error.status_code == 405:
            answer.headers["Allow"] = ", ".join(_methods(app, request))
        return answer


def _told(service: Service) -> Callable[[Exception], Response]:
    return lambda error: problem(_refusal_of(error, service))


def _unexpected(service: Service) -> Callable[[Request, Exception], Response]:
    def told(request: Request, error: Exception) -> Response:
        route = getattr(request.scope.get("route"), "path_format", None)
        service.journal.write_error("unexpected error", error, route=route)
        return problem(Refusal(500, "bug", "an error that should not be; the log has more"))

    return told


def _refusal_of(error: Exception, service: Service) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, StoreError):
        code = "busy" if isinstance(error, StoreBusyError) else "store"
        service.metrics.refused.labels(code).inc()
        return Refusal(503, code, str(error), retry_after_s=1)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place, came = ".".join(map(str, first["loc"])), f"{first['input']!r:.80}"
        return Refusal(400, "not_understood", f"{place}: {first['msg']}, came {came}")
    return Refusal(400, "not_understood", str(error))


def _methods(app: FastAPI, request: Request) -> list[str]:
    """What may be asked of this path, whichever of its routes takes it."""
    routes = [one for one in app.routes if isinstance(one, Route)]
    fitting = (one for one in routes if one.path_regex.match(request.url.path))
    return sorted({method for one in fitting for method in one.methods or ()})


def _describe(app: FastAPI, *, with_keys: bool) -> None:
    """Add to the app's description the bodies that routes read by themselves, and our refusals."""
    # Kept by the app as long as no route is added.
    described = app.openapi()
    _, bodies = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template=f"{SCHEMAS}{{model}}"
    )
    schemas = described["components"]["schemas"]
    schemas |= bodies["$defs"]
    for operations in described["paths"].values():
        for operation in operations.values():
            # Ours are 400, with one shape for all.
            if operation["responses"].pop("422", None):
                reference = {"$ref": f"{SCHEMAS}{ErrorAnswer.__name__}"}
                content = {"application/json": {"schema": reference}}
                operation["responses"].setdefault("400", {"description": "", "content": content})
    for gone in ("HTTPValidationError", "ValidationError"):
        schemas.pop(gone, None)
    if with_keys:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
        for path in ("/livez", "/readyz"):
            described["paths"][path]["get"]["security"] = []
