"""The routes: HTTP on one side, the parts of the service on the other."""

from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from candidfeed import __version__
from candidfeed.errors import CandidfeedError, DataError, StoreBusyError, StoreError
from candidfeed.serving import admin, events, feed
from candidfeed.serving.http import Measured, Refusal, allowed, answered, declared, problem
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
# Bodies that the routes read by themselves.
_BODIES: Final[tuple[type[BaseModel], ...]] = (FeedRequest, ItemFields, UserFields, NewKey)
_SCHEMAS: Final = "#/components/schemas/{model}"


def make_app(service: Service) -> FastAPI:
    """The service over HTTP; `service` is started and closed by whoever made it."""
    app = FastAPI(title="candidfeed", version=__version__, description=_ABOUT, redoc_url=None)
    app.add_middleware(Measured, service=service)
    for routes in (feed, events, admin):
        routes.add_routes(app, service)
    _add_health(app, service)
    _add_errors(app, service)
    app.openapi = lambda: _described(app)  # pyright: ignore[reportAttributeAccessIssue]
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
        "/metrics", tags=["health"],
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **declared(Alive, 401, 403, 429)["responses"],
        },
    )  # fmt: skip
    async def metrics(request: Request) -> Response:
        """Counters and times for Prometheus."""
        allowed(service, request, "metrics")
        service.metrics.in_flight.set(service.workers.n_in_flight)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI, service: Service) -> None:
    def told(refusal: Refusal) -> Response:
        return problem(refusal)

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return told(error)

    @app.exception_handler(WireError)
    async def not_understood(_: Request, error: WireError) -> Response:
        return told(Refusal(400, "not_understood", str(error)))

    @app.exception_handler(RequestValidationError)
    async def not_valid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place, why = ".".join(map(str, first["loc"])), first["msg"]
        return told(Refusal(400, "not_understood", f"{place}: {why}, came {first['input']!r:.80}"))

    @app.exception_handler(CandidfeedError)
    async def failed(request: Request, error: CandidfeedError) -> Response:
        if isinstance(error, DataError):
            return told(Refusal(400, "not_understood", str(error)))
        if isinstance(error, StoreError):
            code = "busy" if isinstance(error, StoreBusyError) else "store"
            service.metrics.refused.labels(code).inc()
            return told(Refusal(503, code, str(error), retry_after_s=1))
        raise error

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return told(Refusal(error.status_code, "http", str(error.detail).lower()))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        service.journal.write(
            "unexpected error",
            path=request.scope.get("path"),
            error=f"{type(error).__name__}: {error}",
        )
        return told(Refusal(500, "bug", "an error that should not be; the log has more"))


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with the bodies that routes read by themselves, and our refusals."""
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        _, bodies = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template=_SCHEMAS
        )
        schemas = described["components"]["schemas"]
        schemas |= bodies["$defs"]
        for operations in described["paths"].values():
            for operation in operations.values():
                # Ours are 400, with one shape for all.
                if operation["responses"].pop("422", None):
                    reference = {"$ref": _SCHEMAS.format(model=ErrorAnswer.__name__)}
                    content = {"application/json": {"schema": reference}}
                    operation["responses"].setdefault(
                        "400", {"description": "", "content": content}
                    )
        for gone in ("HTTPValidationError", "ValidationError"):
            schemas.pop(gone, None)
        app.openapi_schema = described
    return app.openapi_schema
