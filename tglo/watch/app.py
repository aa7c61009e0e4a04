"""The server of `tglo watch`: the page, what is new, and the validation images; nothing else of a run."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import Route

from tglo.console.verbosity import note
from tglo.pages.serve import check_address, serve
from tglo.watch.curves import Have
from tglo.watch.metrics_file import CHUNK
from tglo.watch.page import live_page, snapshot
from tglo.watch.runs import Runs

_HAVE = re.compile(r"(\d+)\.(\d+)\.(\d+)\.(\d+)\.(\d+)")


def watch(places: Sequence[Path], *, host: str, port: int, token: str | None) -> None:
    """Serve the page of these runs until Ctrl-C; ValueError for what `Runs` and `serve` refuse."""
    token = check_address(host, token)
    runs = Runs(places)
    watcher = Watcher(runs)
    threading.Thread(target=watcher.catch_up, daemon=True, name="tglo-watch").start()
    what = runs_in_words(runs)
    for place in runs.awaited():
        note(f"there is no run at {place} yet; it appears on the page when it starts")
    serve(watcher.app(), host=host, port=port, token=token, what=what)


def runs_in_words(runs: Runs) -> str:
    """Name the run, or count them."""
    names = [run.name for run in runs]
    return f"run {names[0]}" if len(names) == 1 else f"{len(names) or 'no'} runs"


class Watcher:
    """Runs, read by one thread at a time: first by `catch_up`, later by the questions of pages."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._caught_up = False

    def catch_up(self) -> None:
        """Read all that is there, in pieces, so that a page is answered in between with what there is."""
        while not self._caught_up:
            with self._lock:
                self._caught_up = not self._runs.poll(CHUNK)
            time.sleep(0.01)  # a page that waits for the lock gets it

    def _look(self) -> bool:
        """Read what is new; return whether more is waiting."""
        return self._runs.poll(CHUNK) if self._caught_up else True

    def app(self) -> Starlette:
        """Return the application; `tglo.pages.serve.guard` goes before it."""
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/data", self._data),
                Route("/sample/{run:int}/{step}/{name}", self._sample),
            ]
        )

    def _page(self, _: Request) -> Response:
        with self._lock:
            return HTMLResponse(live_page(self._runs, self._look()))

    def _data(self, request: Request) -> Response:
        texts = (_HAVE.fullmatch(text) for text in request.query_params.getlist("have"))
        numbers = [[int(part[:15]) for part in match.groups()] for match in texts if match]
        have = {n: (Have(*curves), samples) for n, *curves, samples in numbers}
        with self._lock:
            news = snapshot(self._runs, self._look(), have)
        return Response(json.dumps(news), media_type="application/json")

    def _sample(self, request: Request) -> Response:
        values, runs = request.path_params, list(self._runs)
        number = values["run"]
        file = (
            runs[number].files.file(values["step"], values["name"]) if number < len(runs) else None
        )
        if file is None:
            return PlainTextResponse("there is no such validation image", 404)
        # The address has the file's version in it.
        return FileResponse(file, headers={"Cache-Control": "private, max-age=86400"})
