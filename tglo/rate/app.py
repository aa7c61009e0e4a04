"""The page and what it asks: an application for `tglo.pages.serve`. Rows are named by their numbers, never by paths."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tglo.console.failures import in_a_line
from tglo.data.errors import ImageError, ManifestError
from tglo.files import DiskFull
from tglo.pages.render import page
from tglo.rate.desk import Desk, NameTaken
from tglo.rate.events import LONGEST_NAME, STARS, Event, Id, Sample, parse
from tglo.rate.pictures import Film, Pictures

MOST_BYTES = 2**20  # of a request
Answer = Callable[[Request], Awaitable[Response]]


class _Said(msgspec.Struct, kw_only=True):
    """ratings: the log's id, as the page has it. session: the page's own."""

    ratings: Id
    name: str
    session: Id


class _Enter(_Said, kw_only=True):
    take_over: bool = False


class _Events(_Said, kw_only=True):
    events: Annotated[list[Event], msgspec.Meta(max_length=500)]
    holding: Annotated[list[Sample], msgspec.Meta(max_length=500)] = []


def application(desk: Desk, rater: str = "") -> Starlette:
    """Return the application. rater: the name that a page starts with, without asking."""
    pictures = Pictures(desk.manifest)
    moving = any(desk.manifest.is_video(row) for row in islice(desk.manifest.rows, 100))
    noun = "images or videos" if moving else "images"

    async def start(request: Request) -> Response:
        return HTMLResponse(
            page(
                "rate.html",
                title="Rate images",
                script="rate.js",
                live=True,
                policy={"media-src": "'self'"},
                ratings=desk.log.id,
                rater=rater,
                total=len(desk.samples),
                noun=noun,
                stars=range(1, STARS + 1),
                longest=LONGEST_NAME,
            )
        )

    async def read(request: Request, kind: type[Any]) -> Any:
        said = parse(await _body(request), kind)
        if said.ratings != desk.log.id:  # a page that was open when another server had this address
            raise ValueError("this server takes other ratings: start the one of this page again")
        return said

    async def enter(request: Request) -> Response:
        said = await read(request, _Enter)
        return JSONResponse(
            await run_in_threadpool(desk.enter, said.name, said.session, said.take_over)
        )

    async def events(request: Request) -> Response:
        said = await read(request, _Events)
        return JSONResponse(
            await run_in_threadpool(desk.record, said.name, said.session, said.events, said.holding)
        )

    async def leave(request: Request) -> Response:
        said = await read(request, _Said)
        desk.leave(said.name, said.session)
        return JSONResponse({})

    async def image(request: Request) -> Response:
        number, sample = request.path_params["row"], request.query_params.get("of")
        if number >= len(desk.samples) or str(desk.samples[number]) != sample:
            return _problem("the manifest has no such row (any more): load the page again", 404)
        moving = "moving" in request.query_params
        found = await run_in_threadpool(pictures.of, desk.manifest.rows[number], moving)
        if isinstance(found, Film):
            return _part(found, request.headers.get("range", ""))
        return Response(found.data, media_type=found.kind)

    app = Starlette(
        routes=[
            Route("/", start),
            Route("/enter", _told(enter), methods=["POST"]),
            Route("/events", _told(events), methods=["POST"]),
            Route("/leave", _told(leave), methods=["POST"]),
            Route("/image/{row:int}", _told(image)),
        ]
    )
    app.state.desk = desk
    return app


def _told(answer: Answer) -> Answer:
    """Return the endpoint with errors as a sentence for the page."""

    async def told(request: Request) -> Response:
        try:
            return await answer(request)
        except NameTaken as error:
            return _problem(str(error), 409)
        except (ImageError, ManifestError, ImportError) as error:
            return _problem(str(error), 422)
        except ValueError as error:
            return _problem(str(error), 400)
        except DiskFull:  # which speaks to who types commands
            return _problem("the disk with the ratings is full; free some of it", 507)
        except OSError as error:
            return _problem(in_a_line(error), 507)

    return told


def _problem(text: str, status: int) -> Response:
    return JSONResponse({"problem": text}, status)


async def _body(request: Request) -> bytes:
    """Return a request's body; ValueError for a large one, which is not read to its end."""
    parts, size = list[bytes](), 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise ValueError(f"a request may have {MOST_BYTES} bytes")
    return b"".join(parts)


def _part(film: Film, wanted: str) -> Response:
    """Return the part of a video file that a player asks for; all of it for what is no single range."""
    start, stop, status = 0, film.size, 200
    headers: dict[str, Any] = {"Accept-Ranges": "bytes"}
    found = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", wanted, re.ASCII)
    if found and any(found.groups()):
        first, last = found.groups()
        start = int(first) if first else max(0, film.size - int(last))
        stop = min(film.size, int(last) + 1) if first and last else film.size
        if start >= stop:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{film.size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{film.size}"
        status = 206
    headers["Content-Length"] = str(stop - start)
    return StreamingResponse(film.piece(start, stop), status, headers, film.kind)
