"""A run's page on this machine: the page, the questions it asks of the model, the notes its reader writes.

| request            | answer                                             |
| ------------------ | -------------------------------------------------- |
| GET /              | the page                                           |
| GET /bundle.json   | what it draws                                      |
| POST /api/tokenize | {"text"} -> tokens                                 |
| POST /api/ask      | live.Question -> live.Answer                       |
| GET /api/notes     | notes by node                                      |
| PUT /api/notes     | the same, to replace them                          |

A question that cannot be answered as it is asked gets {"message"}, for the reader; what is refused or fails gets the
same with a status of 400 or more. No file is served: a path is one of these or it is not found.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import re
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gossamer.errors import BadInput, GossamerError, one_line
from gossamer.show.desk import MOST_BYTES, Desk, Notes, Prompt
from gossamer.show.live import Answer, Question
from gossamer.show.page import render_page

T = TypeVar("T")

_FAR = 4  # times the limit of a body
SHORTEST_TOKEN = 16  # characters
HEADERS = {
    "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin", "cache-control": "no-store", "connection": "close",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limits:
    """body: bytes of a request. waiting: questions at a time; one is computed, the others wait. seconds: for an answer,
    from when it is asked; slow: seconds a request's header, then its body, may take to arrive. connections: so many
    requests at a time, beyond them 503; so many connections without a request, beyond them the oldest is closed."""

    body: int = MOST_BYTES
    waiting: int = 8
    seconds: float = 60.0
    slow: float = 10.0
    connections: int = 64


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.status = status
        super().__init__(message)


class Guard:
    """What every request must pass before anything reads it.

    names: whom this server answers to, besides addresses: a page of another site that has its name resolve to this
    machine (DNS rebinding) asks for that name. token: asked of every request, in `?token=`, as a bearer or in the
    cookie that the first request sets. Only a request from the page itself may change or ask anything.
    """

    def __init__(self, app: ASGIApp, *, names: frozenset[str], token: str | None, limits: Limits) -> None:
        self.app, self.names, self.token, self.limits = app, names, token, limits
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        try:
            added = self._passes(request)
            if self.under_way >= self.limits.connections:
                raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests at a time; ask again in a moment.")
            self.under_way += 1
            try:
                await self._answer(request, receive, send, added)
            finally:
                self.under_way -= 1
        except _Refused as refused:
            await JSONResponse({"message": str(refused)}, refused.status, HEADERS)(scope, receive, send)

    async def _answer(self, request: Request, receive: Receive, send: Send, added: dict[str, str]) -> None:
        """What the app says to a request that has passed, with headers `added`; _Refused for its body."""
        body = await self._body(request, receive)
        if body is None:
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(k.encode(), v.encode()) for k, v in {**HEADERS, **added}.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self.app(request.scope, replay, with_headers)

    def _passes(self, request: Request) -> dict[str, str]:
        """Headers of the answer; _Refused otherwise."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._own(hosts[0]):
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, "This server does not go by that name.")
        added = self._admitted(request)
        if request.method not in ("GET", "HEAD"):
            origin = request.headers.get("origin")
            try:
                there = None if origin is None else urlsplit(origin).netloc.lower()
            except ValueError:
                there = ""
            site = request.headers.get("sec-fetch-site", "same-origin")
            if there not in (None, hosts[0].lower()) or site not in ("same-origin", "none"):
                raise _Refused(HTTPStatus.FORBIDDEN, "Only this server's own page may ask.")
        return added

    def _own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.lower() in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _admitted(self, request: Request) -> dict[str, str]:
        if self.token is None:
            return {}
        cookie = f"gossamer-{request.scope['server'][1]}"  # browsers do not tell the cookies of two ports apart
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        asked = request.query_params.get("token", "")
        given = (asked, request.cookies.get(cookie, ""), bearer if scheme.lower() == "bearer" else "")
        right = [hmac.compare_digest(one.encode(), self.token.encode()) for one in given]
        if not any(right):
            raise _Refused(HTTPStatus.UNAUTHORIZED, "Expected this server's token; open the address it printed.")
        return {"set-cookie": f"{cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"} if right[0] else {}

    async def _body(self, request: Request, receive: Receive) -> bytes | None:
        """The whole body, None when the client has gone; _Refused for one that is too long or too slow.

        A little too long is read to its end, so that the client hears why; far too long is not.
        """
        limit = self.limits.body
        far = _FAR * limit
        long = _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected at most {limit} bytes.")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > far:
            raise long
        found, size, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(self.limits.slow):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    size += len(piece)
                    if size > far:
                        raise long
                    if size <= limit:
                        found += piece
        except TimeoutError:
            raise _Refused(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time.") from None
        if size > limit:
            raise long
        return bytes(found)


def _connection(limits: Limits) -> type[H11Protocol]:
    """Connections that cannot be held without a request; one that sends none takes no request's place."""
    idle: dict[Connection, asyncio.TimerHandle] = {}  # without a request under way, the oldest first

    class Connection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._leave()

        def _look(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._leave()
            elif self not in idle:
                idle[self] = self.loop.call_later(limits.slow, self.transport.close)
                if len(idle) > limits.connections:
                    oldest = next(iter(idle))
                    oldest._leave()
                    oldest.transport.abort()

        def _leave(self) -> None:
            if timer := idle.pop(self, None):
                timer.cancel()

    return Connection


class Worker:
    """One thread for all questions, as a model answers one at a time; so many may wait, the next is told to."""

    def __init__(self, limits: Limits) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="gossamer-ask")
        self.places = threading.BoundedSemaphore(limits.waiting)
        self.seconds = limits.seconds

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """What the work returns; HTTPException when too many wait or it takes too long.

        Work that is under way cannot be stopped: it keeps its place until it ends.
        """
        if not self.places.acquire(blocking=False):
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "Too many questions wait; ask again in a moment.")
        future = self.pool.submit(work, *args)
        future.add_done_callback(lambda _: self.places.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.seconds)
        except TimeoutError:
            raise HTTPException(
                HTTPStatus.GATEWAY_TIMEOUT, f"No answer within {self.seconds:g} seconds; ask less."
            ) from None


def make_app(desk: Desk, *, names: frozenset[str], token: str | None = None, limits: Limits | None = None) -> Guard:
    """The server's application. CorruptFile for notes beside the run that are none."""
    limits = limits or Limits()
    desk.read_notes()
    worker = Worker(limits)
    page, bundle = render_page(desk.bundle, server="api/"), desk.bundle.model_dump_json()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def for_reader(work: Callable[[Any], Any], asked: Any) -> Any:
        try:
            return work(asked)
        except GossamerError as error:
            return {"message": one_line(error)}

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page)

    @app.get("/bundle.json")
    async def whole_bundle() -> Response:
        return Response(bundle, media_type="application/json")

    @app.post("/api/tokenize")
    async def tokenize(prompt: Prompt) -> Response:
        return JSONResponse(await worker.do(for_reader, desk.tokens, prompt))

    @app.post("/api/ask")
    async def ask(question: Question) -> Response:
        found = await worker.do(for_reader, desk.ask, question)
        text = found.model_dump_json() if isinstance(found, Answer) else json.dumps(found)
        return Response(text, media_type="application/json")

    @app.get("/api/notes")
    def read_notes() -> Response:
        return JSONResponse(desk.read_notes())

    @app.put("/api/notes")
    def write_notes(notes: Notes) -> Response:
        desk.write_notes(notes)
        return JSONResponse({})

    def told(status: int, message: str) -> Response:
        return JSONResponse({"message": message}, status)

    @app.exception_handler(GossamerError)
    async def bad(_: Request, error: GossamerError) -> Response:
        return told(422, one_line(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return told(422, f"Expected another request: {one_line(error)}.")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return told(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return told(500, f"The model could not answer: {type(error).__name__}: {one_line(error)}")

    return Guard(app, names=names, token=token, limits=limits)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a server listens: its socket, the address to open, and the token it asks for."""

    socket: socket.socket
    url: str
    token: str | None
    names: frozenset[str]


def listen(host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> Place:
    """Take a port of this machine, any free one for 0. Anywhere but on loopback a token is needed; one is made.

    BadInput for a place that cannot be had and for a token that is too short.
    """
    if token is not None and not re.fullmatch(rf"[A-Za-z0-9_-]{{{SHORTEST_TOKEN},}}", token):
        raise BadInput(
            f"Expected a token of at least {SHORTEST_TOKEN} letters, digits, - or _; leave it out and one is made."
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise BadInput(f"Cannot listen at {host}, port {port}: {error}; choose another --host or --port.") from error
    at, own = ipaddress.ip_address(address[0]), socket.gethostname().lower()
    if token is None and not at.is_loopback:
        token = secrets.token_urlsafe(24)
    shown = own if at.is_unspecified else f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{found.getsockname()[1]}/" + ("" if token is None else f"?token={token}")
    return Place(socket=found, url=url, token=token, names=frozenset({"localhost", own, host.lower()}))


def server_at(place: Place, desk: Desk, limits: Limits | None = None) -> uvicorn.Server:
    """A server that is ready to run with `sockets=[place.socket]`."""
    limits = limits or Limits()
    return uvicorn.Server(uvicorn.Config(
        make_app(desk, names=place.names, token=place.token, limits=limits), http=_connection(limits), ws="none",
        lifespan="off", log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=2,
    ))  # fmt: skip


def serve(place: Place, desk: Desk, started: Callable[[], None]) -> None:
    """Serve until Ctrl-C; `started` is called when requests no longer get lost."""
    server = server_at(place, desk)
    started()
    with suppress(KeyboardInterrupt):
        server.run(sockets=[place.socket])
