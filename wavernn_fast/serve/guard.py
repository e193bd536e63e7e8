"""The outermost layer: who may talk to the service from where, and what every reply carries.

A page of another site may not use a service on this machine through the visitor's browser: a name
that points at the loopback address (DNS rebinding) is refused by its Host, and requests that
a browser sends for a foreign page by their Origin. Programs send no Origin and are not concerned.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Limits
from .metrics import Metrics
from .problems import as_problem, logger, new_id
from .wire import aborter, cut, header

REQUEST_ID = "wavernn_fast.id"  # key of a scope
_SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_EXPOSED = (
    "X-Request-Id, X-Sample-Rate, X-Samples, X-Audio-Seconds, X-Real-Time-Factor, X-Wall-Seconds,"
    " X-First-Chunk-Ms, X-Warning, Retry-After"
)


class Guard:
    """ASGI middleware.

    Parameters
    ----------
    app : ASGI application
    limits : Limits
        `allow_hosts` and `allow_origins`.
    metrics : Metrics
        Requests are counted by route and status.
    routes : collection of str
        Paths that may be named in metrics; others count as "other".
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, routes: set[str]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes
        self._hosts = {host.lower() for host in limits.allow_hosts}
        self._origins = {origin.lower().rstrip("/") for origin in limits.allow_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID] = request_id = new_id()
        origin = self._allowed_origin(scope)
        refusal = self._refusal(scope, request_id)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                self._metrics.requests.labels(self.route(scope), "403").inc()
                await send({"type": "websocket.close", "code": 1008})
            return
        if scope["method"] == "HEAD":  # answered as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        reply: ASGIApp = refusal or self._app
        if origin and scope["method"] == "OPTIONS":
            reply = _preflight()
        await self._run(reply, scope, receive, self._sending(scope, send, origin))

    async def _run(self, reply: ASGIApp, scope: Scope, receive: Receive, send: _Counting) -> None:
        """Run the application; what it does not handle is told by id only, and logged."""
        try:
            await reply(scope, receive, send)
        except Exception as error:
            problem = as_problem(error, scope[REQUEST_ID])
            if send.started:
                await cut(aborter(scope))
            else:
                content = {"error": problem.sentence, "id": scope[REQUEST_ID]}
                await JSONResponse(content, problem.status)(scope, receive, send)

    def route(self, scope: Scope) -> str:
        """Path of a request as it is counted."""
        return scope["path"] if scope["path"] in self._routes else "other"

    def _refusal(self, scope: Scope, request_id: str) -> Response | None:
        sentence = ""
        if not self._is_host_allowed(header(scope, b"host")):
            sentence = "This service does not answer to that host name."
        elif not (_only_reads(scope) or self._is_origin_allowed(scope)):
            sentence = "Pages of that origin may not use this service."
        if not sentence:
            return None
        logger.warning("request %s refused: %s", request_id, sentence)
        return JSONResponse({"error": sentence, "id": request_id}, 403)

    def _is_host_allowed(self, host: str) -> bool:
        return not self._hosts or _name(host) in self._hosts

    def _is_origin_allowed(self, scope: Scope) -> bool:
        given = [value for key, value in scope["headers"] if key == b"origin"]
        if not given:
            return True
        origin = header(scope, b"origin").lower()
        own = {f"{scheme}://{header(scope, b'host').lower()}" for scheme in ("http", "https")}
        return origin in own | self._origins

    def _allowed_origin(self, scope: Scope) -> str:
        """Origin of a foreign page that may read replies; "" if there is none."""
        origin = header(scope, b"origin")
        return origin if origin.lower() in self._origins else ""

    def _sending(self, scope: Scope, send: Send, origin: str) -> _Counting:
        def count(status: int) -> None:
            self._metrics.requests.labels(self.route(scope), str(status)).inc()

        return _Counting(send, scope[REQUEST_ID], origin, count)


# --- helpers ---


class _Counting:
    """A `send` that completes the headers of a reply and counts it."""

    def __init__(
        self, send: Send, request_id: str, origin: str, count: Callable[[int], None]
    ) -> None:
        self._send, self._id, self._origin, self._count = send, request_id, origin, count
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._count(int(message["status"]))  # Python 3.10 writes an HTTPStatus by its name
            message = {**message, "headers": _completed(message, self._id, self._origin)}
        await self._send(message)


def _name(host: str) -> str:
    """Name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _only_reads(scope: Scope) -> bool:
    """Whether a page of another origin gains nothing by it, as browsers keep the reply from it."""
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD")


def _completed(message: Message, request_id: str, origin: str) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = list(message.get("headers", []))
    present = {name.lower() for name, _ in headers}
    extra = {**_SECURITY, "x-request-id": request_id}
    if origin:
        extra |= {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": _EXPOSED,
            "vary": "Origin",
        }
    else:
        extra["cross-origin-resource-policy"] = "same-origin"
    fresh = [(n.encode(), v.encode("latin-1")) for n, v in extra.items()]
    return headers + [(name, value) for name, value in fresh if name not in present]


def _preflight() -> Response:
    """Reply to a browser that asks whether a page of an allowed origin may post."""
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "Content-Type",
            "Access-Control-Max-Age": "600",
        },
    )
