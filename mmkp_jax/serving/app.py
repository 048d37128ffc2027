"""The application: routes, who may ask, and headers that let the page load nothing from elsewhere."""

import hmac
import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmkp_jax.pages.serving.page import page_of
from mmkp_jax.serving import openai_api, page_api
from mmkp_jax.serving.posts import ShownPosts
from mmkp_jax.serving.refusals import Refusal
from mmkp_jax.serving.service import Service

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine; a page of another site that a name server points here is called otherwise."""

OPEN = ("/", "/favicon.ico")
"""What is served without a token: the page itself, which holds nothing."""


def make_app(service: Service, posts: ShownPosts | str, token: str) -> Starlette:
    """The application.

    Args:
        token: what requests must carry as `Authorization: Bearer TOKEN`; empty for a server on loopback, which
            answers under its own names alone.
    """
    html, digest = page_of()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src 'sha256-{digest}'",
            "style-src 'unsafe-inline'",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )

    async def page(request: Request) -> Response:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    async def icon(request: Request) -> Response:
        return Response(status_code=204)

    routes = [
        Route("/", page),
        Route("/favicon.ico", icon),
        Route("/api/info", page_api.info),
        Route("/api/examples/{number:int}", page_api.example),
        Route("/api/nearest", page_api.nearest, methods=["POST"]),
        Route("/api/predict", page_api.predict, methods=["POST"]),
        Route("/v1/models", openai_api.models),
        Route("/v1/models/{name:path}", openai_api.model),
        Route("/v1/chat/completions", openai_api.chat_completions, methods=["POST"]),
    ]
    handlers = {Refusal: _refused, HTTPException: _http_error, Exception: _broken}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.add_middleware(_Guard, token=token)
    app.state.service, app.state.posts, app.state.started = service, posts, int(time.time())
    return app


async def _refused(request: Request, error: Refusal) -> Response:
    # What is left of a body is not read, so the connection cannot be used again.
    return JSONResponse(error.body(), status_code=error.status, headers={"Connection": "close"})


async def _http_error(request: Request, error: HTTPException) -> Response:
    refusal = Refusal(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}")
    return JSONResponse(refusal.body(), status_code=error.status_code, headers=error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    refusal = Refusal(500, f"the server failed ({type(error).__name__}); its terminal says more")
    return JSONResponse(refusal.body(), status_code=500)


class _Guard:
    """Answers those alone who may ask, and adds headers of security to every answer."""

    def __init__(self, app: ASGIApp, token: str):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if refusal := self._refusal(scope["path"], headers):
            response = JSONResponse(refusal.body(), status_code=refusal.status)
            await response(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> Refusal | None:
        if self._token:
            given = headers.get(b"authorization", b"").decode("latin-1").removeprefix("Bearer ")
            if path not in OPEN and not hmac.compare_digest(given.encode(), self._token.encode()):
                return Refusal(401, "give the token that the server printed, as Authorization: Bearer TOKEN")
            return None
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if name.lower() not in LOOPBACK:
            return Refusal(403, f"this server answers at {', '.join(LOOPBACK)}, not at {name[:100]!r}")
        return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = {
                b"x-content-type-options": b"nosniff",
                b"referrer-policy": b"no-referrer",
                b"x-frame-options": b"DENY",
                b"cross-origin-resource-policy": b"same-origin",
            }
            message["headers"] = [*message.get("headers", []), *more.items()]
        await send(message)

    return sending
