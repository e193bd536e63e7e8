"""Puts the service together: routes, errors, pages and what runs while it does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from .. import __version__
from ..errors import InputError
from . import metrics as counting
from . import openapi, pages
from .admission import Hall
from .conversation import Conversation
from .engine import Engine, Pool, Wish
from .guard import REQUEST_ID, Guard
from .limits import Limits
from .problems import Problem, sentence_of
from .service import Service
from .vocode import Format, Order, VocodeReply, error_reply

if TYPE_CHECKING:
    from ..vocoder import Vocoder

ROUTES = {
    "/", "/docs", "/openapi.json", "/healthz", "/metrics", "/v1/model", "/v1/sentence",
    "/v1/vocode", "/v1/stream",
}  # fmt: skip


def build(voc: Vocoder, limits: Limits, voice: str | None, pool: Pool | None) -> FastAPI:
    """See `create_app`."""
    _refuse_model(voc)
    hall = Hall(limits)
    pool = pool or _live_pool(voc, limits)
    service = Service(voc, limits, voice, hall, counting.Metrics(hall))
    app = FastAPI(
        title="wavernn_fast",
        version=__version__,
        description=openapi.DESCRIPTION,
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan(service, pool),
    )
    app.state.service, app.state.hall = service, hall
    app.add_middleware(Guard, limits=limits, metrics=service.metrics, routes=ROUTES)
    _add_errors(app)
    _add_pages(app)
    _add_vocode(app, service)
    _add_stream(app, service)
    _add_facts(app, service)
    return app


def _refuse_model(voc: Vocoder) -> None:
    if not voc.config.n_mels:
        raise InputError("This model takes no mel; a service has nothing to make it speak from.")
    if voc.config.speaker_size:
        raise InputError("This model hears a speaker's vector, which the service does not take.")


def _lifespan(service: Service, pool: Pool) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine = engine = Engine(pool, service.hall)
        service.metrics.stalled = lambda: engine.stalled
        try:
            yield
        finally:
            service.engine.close()

    return lifespan


def _live_pool(voc: Vocoder, limits: Limits) -> Pool:
    from ..live import LivePool

    return LivePool(voc, max_streams=limits.max_streams, waiting_seconds=limits.max_seconds + 1.0)


def _add_errors(app: FastAPI) -> None:
    def problem(request: Request, error: Problem) -> JSONResponse:
        return error_reply(error, request.scope[REQUEST_ID])

    def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(request, Problem(422, sentence_of(error.errors())))

    def http(request: Request, error: HTTPException) -> JSONResponse:
        texts = {404: "There is nothing at this path.", 405: "This path has another method."}
        sentence = texts.get(error.status_code, "This request cannot be answered.")
        reply = problem(request, Problem(error.status_code, sentence))
        reply.headers.update(error.headers or {})  # such as Allow, of a 405
        return reply

    handlers: dict[Any, Any] = {
        Problem: problem,
        RequestValidationError: validation,
        HTTPException: http,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _add_pages(app: FastAPI) -> None:
    html, policy = pages.front()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(html, headers={"content-security-policy": policy})

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        text, rule = pages.reference(app.openapi())
        return HTMLResponse(text, headers={"content-security-policy": rule})


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", **openapi.MODEL)
    async def model() -> dict[str, Any]:
        return service.facts()

    @app.get("/v1/sentence", **openapi.SENTENCE)
    async def sentence() -> Response:
        data = service.sentence()
        if data is None:
            raise Problem(404, "The model of this service comes without a sentence.")
        return Response(data, media_type="application/x-npy")

    @app.get("/healthz", **openapi.HEALTH)
    async def health() -> JSONResponse:
        state = "ok" if service.running.alive() else "dead"
        if state == "ok" and service.hall.draining:
            state = "draining"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics", **openapi.METRICS)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"content-type": counting.CONTENT_TYPE})


def _add_vocode(app: FastAPI, service: Service) -> None:
    @app.post("/v1/vocode", **openapi.VOCODE)
    async def vocode(
        request: Request,
        seed: Annotated[int, Query(ge=0, le=2**64 - 1, description="Same seed, same audio.")] = 0,
        temperature: Annotated[
            float, Query(gt=0, le=100, allow_inf_nan=False, description="Less is safer, duller.")
        ] = 1.0,
        greedy: Annotated[bool, Query(description="Take the likeliest class; no chance.")] = False,
        format: Annotated[
            Format, Query(description="raw and f32le: samples without a header, little-endian.")
        ] = "wav",
        stream: Annotated[bool, Query(description="Send audio while it is made.")] = False,
    ) -> Response:
        if stream and format == "flac":
            raise Problem(422, "FLAC is not streamed; ask for wav, raw or f32le, or no stream.")
        order = Order(Wish(seed, temperature, greedy), format, stream)
        return VocodeReply(service, order, request.scope[REQUEST_ID])


def _add_stream(app: FastAPI, service: Service) -> None:
    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        code = await Conversation(service, socket, socket.scope[REQUEST_ID]).run()
        service.metrics.requests.labels("/v1/stream", str(code)).inc()
