"""The routes of the gateway, as a Litestar application."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Operation, RequestBody, Tag
from litestar.openapi.spec.media_type import OpenAPIMediaType
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp, Receive, Scope, Send

from stream.gateway.bodies import (
    BehaviorRequest,
    ClickRequest,
    HealthAnswer,
    ProblemDetails,
    RankAnswer,
    RankRequest,
    Written,
    decode_click_request,
    decode_rank,
)
from stream.gateway.checker import EventChecker
from stream.gateway.gateway import Gateway
from stream.gateway.keys import ApiKeys
from stream.gateway.metrics import GatewayMetrics
from stream.gateway.peers import FORWARDED, Peers
from stream.gateway.problems import MEDIA_TYPE, ProblemError, unusable
from stream.gateway.web.page import ApiPage
from stream.runtime.health import Health
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.gateway")
_limit = LogLimit()

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
"""Content types of several behaviours, one a line."""
_WORDS = {
    400: "the body is wrong",
    401: "no valid API key",
    409: "the request_id belongs to another request",
    413: "the body, a record or the number of lines is too large",
    422: "a field cannot be used; `errors` names it",
    429: "too many requests wait; see Retry-After",
    503: "the gateway is about to end, or Kafka or another gateway does not answer; see Retry-After",
    504: "no score came in time, where `gateway.on_timeout` is `error`",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes need."""

    gateway: Gateway
    checker: EventChecker
    peers: Peers
    keys: ApiKeys
    health: Health
    metrics: GatewayMetrics


def build(parts: Parts, *, max_body_bytes: int, pages: str = "") -> Litestar:
    """Return the application.

    Args:
        parts: what answers.
        max_body_bytes: larger bodies are answered 413.
        pages: folder of files to serve; empty for none.
    """

    @post("/rank", request_class=RankBody, status_code=200, responses=_problems(400, 401, 409, 413, 422, 429, 503, 504))
    async def rank(data: RankRequest, request: Request[Any, Any, Any]) -> Response[RankAnswer]:
        """Rank candidates for a user; waits for the score."""
        if (peer := parts.peers.other(parts.checker.partition(data.user))) is not None:
            return await _ask_peer(parts, peer, request)
        return Response(await parts.gateway.rank(data))

    @post("/click", request_class=ClickBody, status_code=202, responses=_problems(400, 401, 413, 422, 429, 503))
    async def click(data: ClickRequest) -> Written:
        """Write that an item was clicked, as the request showed it."""
        return await parts.gateway.click(data)

    @post(
        "/behaviors",
        status_code=202,
        operation_class=_BehaviorsOperation,
        responses=_problems(400, 401, 413, 422, 429, 503),
    )
    async def behaviors(body: bytes, request: Request[Any, Any, Any]) -> Written:
        """Write what users did: one JSON object, or one a line. Of a bulk with a bad line nothing is written."""
        return await parts.gateway.behaviors(body, lines=request.content_type[0] in NDJSON)

    @get("/health", responses={503: ResponseSpec(HealthAnswer, description="it does not", generate_examples=False)})
    async def health() -> Response[HealthAnswer]:
        """Say whether the gateway answers."""
        trouble = "it is about to end" if parts.gateway.draining else parts.health.trouble()
        return Response(
            HealthAnswer(not trouble, trouble, tuple(parts.health.notes)), status_code=503 if trouble else 200
        )

    closed = Router(
        "/v1",
        route_handlers=[rank, click, behaviors],
        guards=[_key_guard(parts.keys)],
        middleware=[_admission(parts.gateway)],
    )
    open_routes: list[Any] = [Router("/v1", route_handlers=[health])]
    if pages:
        open_routes.append(create_static_files_router("/pages", [pages], html_mode=True, include_in_schema=False))
    return Litestar(
        [closed, *open_routes],
        exception_handlers={
            Exception: _answer_error,
        },
        request_max_body_size=max_body_bytes,
        openapi_config=_openapi(),
        logging_config=None,
    )


class RankBody(Request[Any, Any, Any]):
    """A request whose body is decoded as the readers of the topics do it: strictly, naming the field."""

    async def json(self) -> RankRequest:
        """Return the body."""
        return decode_rank(await self.body())


class ClickBody(Request[Any, Any, Any]):
    """The same for clicks."""

    async def json(self) -> ClickRequest:
        """Return the body."""
        return decode_click_request(await self.body())


async def _ask_peer(parts: Parts, peer: str, request: Request[Any, Any, Any]) -> Response[Any]:
    if FORWARDED in request.headers:
        text = "two gateways have different gateway.peers, or a wrong gateway.peer: each sends this user to the other"
        raise ProblemError(503, text, retry_after_s=1)
    parts.metrics.forwarded.labels(peer).inc()
    authorization = request.headers.get("Authorization", "")
    answer = await parts.peers.ask(peer, "/v1/rank", await request.body(), authorization)
    return Response(answer.body, status_code=answer.status, headers=answer.headers)


def _admission(gateway: Gateway) -> Callable[[ASGIApp], ASGIApp]:
    """Return a middleware that counts calls before their bodies are read, so that these are bounded, too."""

    def around(app: ASGIApp) -> ASGIApp:
        async def admit(scope: Scope, receive: Receive, send: Send) -> None:
            with gateway.admitted():
                await app(scope, receive, send)

        return admit

    return around


def _key_guard(keys: ApiKeys) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], None]:
    def check(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if not keys.accept(connection.headers.get("Authorization", "")):
            raise ProblemError(401, "send one of the keys of gateway.keys as `Authorization: Bearer KEY`")

    return check


def _problem_response(problem: ProblemError) -> Response[ProblemDetails]:
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(problem.details(), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemDetails]:
    """Return the problem of anything that was raised while a call was answered."""
    if isinstance(error, ProblemError):
        return _problem_response(error)
    if isinstance(error, msgspec.ValidationError):
        return _problem_response(unusable(error))
    if isinstance(error, (msgspec.DecodeError, RecursionError)):
        return _problem_response(ProblemError(400, f"{error}: send a JSON object"))
    if isinstance(error, HTTPException):
        detail = "the body is empty: send a JSON object" if error.status_code == 400 else error.detail
        response = _problem_response(ProblemError(error.status_code, detail))
        response.headers.update(error.headers or {})
        return response
    if (held_back := _limit.admit(repr(type(error)))) is not None:
        path = request.url.path
        log(_logger, "request_failed", logging.ERROR, path=path, error=repr(error), held_back=held_back)
        _logger.debug("traceback", exc_info=error)
    return _problem_response(ProblemError(500, "the gateway has failed at this request; its log says how"))


def _problems(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(ProblemDetails, description=_WORDS[status], media_type=MEDIA_TYPE, generate_examples=False)
        for status in statuses
    }


@dataclass
class _BehaviorsOperation(Operation):
    def __post_init__(self) -> None:
        _, components = msgspec.json.schema_components([BehaviorRequest])
        lines: Any = {"type": "string", "description": "One JSON object of the same form a line."}
        self.request_body = RequestBody(
            {
                "application/json": OpenAPIMediaType(schema=components["BehaviorRequest"]),  # type: ignore[arg-type]
                NDJSON[0]: OpenAPIMediaType(schema=lines),
            },
            required=True,
        )


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="samstream gateway",
        version="1",
        description="Rank candidates for users, and tell what they do. Errors are problem details (RFC 9457).",
        path="/docs",
        render_plugins=[ApiPage(), JsonRenderPlugin()],
        tags=[Tag("v1")],
    )
