"""A page with a server behind it, for the person at this machine unless a token lets others in."""

from __future__ import annotations

import errno
import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from tglo.console.verbosity import note

RANDOM = "random"  # as --token: one is made
LOOPBACK = "127.0.0.1"
_COOKIE = "tglo-token"
_LONGEST_PATH = 1000  # characters, above all that a page asks for
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Answer = Callable[[Request], Awaitable[Response]]


def check_address(host: str, token: str | None) -> str | None:
    """Return the token that requests must show, None where none is needed.

    ValueError for an address that others can reach without a token, and for a token that is short.
    """
    if token == RANDOM:
        return secrets.token_urlsafe(16)
    if token is not None and len(token) < 8:
        raise ValueError(f"--token has {len(token)} characters; it needs at least 8, or {RANDOM}")
    if token is None and not is_loopback(host):
        raise ValueError(
            f"--host {host} can be reached by other machines, so a token must say who may come in: "
            f"give --token {RANDOM}, or a word of your own; without --host only this machine can"
        )
    return token


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guard(app: Starlette, host: str, token: str | None) -> Starlette:
    """Return the application behind its guards, for `serve` and for tests.

    Every request shows the token, once in the address and then as a cookie, where there is one. On
    loopback the name that a request was sent to must be this machine's, and what changes something must
    come from the page itself: other pages in the same browser can reach a loopback address as well.
    """

    async def checked(
        request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        refused = _refusal(request, host, token)
        try:
            response = await answer(request) if refused is None else refused
        except (
            ClientDisconnect
        ):  # a page that was closed while it sent something; nobody reads the answer
            response = Response(status_code=400)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    app.user_middleware.insert(0, Middleware(BaseHTTPMiddleware, dispatch=checked))
    return app


def _refusal(request: Request, host: str, token: str | None) -> Response | None:
    """Return the answer to a request that is not let in, or the step that lets it in; None otherwise."""
    sent_to = request.headers.get("host", "")
    if len(request.scope["path"]) > _LONGEST_PATH:
        return PlainTextResponse("there is no such address", 414)
    if token is None:
        name = _host_in(f"//{sent_to}")
        if not is_loopback(name) and name != host:
            return PlainTextResponse(f"{sent_to} is not the address of this page", 403)
    elif not _shown(request.cookies.get(_COOKIE), token):
        if not _shown(request.query_params.get("token"), token):
            return PlainTextResponse("open the link that the terminal shows: it has the token", 403)
        # "//other" is another machine's address.
        entered = RedirectResponse("/" + request.url.path.lstrip("/"), 303)
        # Not strict: the link may be clicked on another site, and the redirect has no strict cookie then.
        entered.set_cookie(_COOKIE, token, httponly=True, samesite="lax")
        return entered
    origin = request.headers.get("origin")
    if request.method not in ("GET", "HEAD") and origin and not _is_at(origin, sent_to):
        return PlainTextResponse("a request from another page is refused", 403)
    return None


def _host_in(address: str) -> str:
    """Return the host of an address; "" for what is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_at(origin: str, place: str) -> bool:
    try:
        return urlsplit(origin).netloc == place
    except ValueError:
        return False


def _shown(given: str | None, token: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def serve(app: Starlette, *, host: str, port: int, token: str | None, what: str) -> None:
    """Serve a page until Ctrl-C, its normal end, and say where it is. port: 0 takes a free one. what: it, in words.

    token: what `check_address` returned. ValueError for a port that is taken and an address that is not
    this machine's.
    """
    with listening(host, port) as bound:
        address = bound.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        end = f"/?token={token}" if token else "/"
        config = uvicorn.Config(
            guard(app, host, token),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        try:
            note(f"{what}: http://{shown}:{address[1]}{end} (Ctrl-C ends it)")
            uvicorn.Server(config).run(sockets=[bound])
        except KeyboardInterrupt:  # raised again by uvicorn when it has closed the connections
            note("ended")


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address. ValueError that says why one cannot be had."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port} is not between 0 and 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ValueError(f"--host {host}: {error.strerror}; {LOOPBACK} is this machine") from None
    # Named, since asyncio sends small answers at once on sockets that say TCP alone; others wait 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        remedies = {
            errno.EADDRINUSE: "another program listens there; give another --port, or 0 for a free one",
            errno.EACCES: "ports below 1024 are the system's; give another --port, or 0 for a free one",
            errno.EADDRNOTAVAIL: f"this machine does not have that address; {LOOPBACK} is this machine",
        }
        reason = remedies.get(error.errno or 0, os.strerror(error.errno or 0))
        raise ValueError(f"cannot listen on {host} port {port}: {reason}") from None
    return bound
