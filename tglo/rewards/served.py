"""Scores from a server of one's own: images or videos and prompts are posted, numbers come back.
docs/rewards.md has the format, examples/score_server.py a small server.

A scorer is named [NAME=]URL[,SETTING=NUMBER]...; see `Server` for the settings.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import queue
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tglo.data.images import as_rgb
from tglo.data.video import Video
from tglo.redaction import redacted
from tglo.rewards.posting import ServerError, first_line, post
from tglo.rewards.video import as_file
from tglo.settings import Limit, check_limits, nearest

FORMAT = "tglo.scorer.1"  # of what is posted
TOKEN = "TGLO_SCORER_TOKEN"  # environment variable: sent as a bearer token
LIMITS = {
    "images": Limit(1, 4096),
    "videos": Limit(1, 4096),
    "requests": Limit(1, 256),
    "timeout": Limit(0, 86400, above=True),
    "patience": Limit(0, 604800),
}
_NAMED_URL = re.compile(r"(?:(?P<name>[^=,/]+)=)?(?P<url>https?://[^,]*)(?:,(?P<settings>.*))?$")


@dataclass(frozen=True)
class Server:
    """Where scores are asked for, and how."""

    url: str
    """Without user and password."""
    headers: Mapping[str, str]
    images: int = 8
    """At most so many in a request."""
    videos: int = 0
    """Where it scores videos, and no images, at most so many in a request."""
    requests: int = 4
    """At most so many at once, for the images of one batch."""
    timeout: float = 60.0
    """Seconds for an answer."""
    patience: float = 600.0
    """Seconds for which a request that failed is sent again."""

    @property
    def name(self) -> str:
        """The URL without what may be secret in it."""
        return urlunsplit(urlsplit(self.url)._replace(query="", fragment=""))


def is_served(text: str) -> bool:
    """Say whether the text for a scorer names a server."""
    return _NAMED_URL.match(text) is not None


def served_name(text: str) -> str:
    """Return the name, and column, of a scorer that is a server: NAME, else the URL without its query."""
    found = _NAMED_URL.match(text)
    assert found is not None, "is_served says so"
    return found["name"] or _server(found["url"], {}).name


def parse_server(text: str) -> Server:
    """Parse [NAME=]URL[,SETTING=NUMBER]... ValueError for another form, without the URL's password."""
    found = _NAMED_URL.match(text)
    assert found is not None, "is_served says so"
    values: dict[str, float] = {}
    for entry in filter(None, (found["settings"] or "").split(",")):
        key, _, number = entry.partition("=")
        if key not in LIMITS:
            raise ValueError(
                f"scorer {redacted(text)!r} has no setting {key!r} ({nearest(key, LIMITS)}); a comma in "
                "the URL itself is written %2C"
            )
        try:
            values[key] = float(number) if key in ("timeout", "patience") else int(number)
        except ValueError:
            raise ValueError(f"scorer {redacted(text)!r}: {entry!r} is not a number") from None
    check_limits(values, LIMITS)
    if "images" in values and "videos" in values:
        raise ValueError(
            f"scorer {redacted(text)!r} has images and videos; leave the one it does not score"
        )
    return _server(found["url"], values)


def _server(url: str, values: Mapping[str, Any]) -> Server:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"scorer {redacted(url)!r}: {error}") from None
    if not host:
        raise ValueError(f"scorer {redacted(url)!r} names no host; write http://HOST:PORT/PATH")
    headers = {}
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    elif token := os.environ.get(TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    return replace(Server(urlunsplit(bare), headers), **values)


class ServedScorer:
    """A scorer whose numbers come from a server. Raises `ServerError` when it does not give them.

    It takes videos if the server has a number of them, as `VideoBytes` or `Video`, which is encoded, and else images.
    """

    takes_files = True

    def __init__(self, server: Server) -> None:
        self.server = server
        self.takes = "videos" if server.videos else "images"
        query = urlsplit(server.url).query
        mark = f" (query {hashlib.sha256(query.encode()).hexdigest()[:8]})" if query else ""
        self.identity = server.name + mark + (", of videos" if server.videos else "")

    def __call__(self, images: Sequence[Any], prompts: list[str]) -> NDArray[np.float64]:
        """Return scores (B,) float64, NaN and inf as the server gives them."""
        if len(images) != len(prompts):
            raise ValueError(
                f"{len(images)} {self.takes} but {len(prompts)} prompts; give one each"
            )
        step = self.server.videos or self.server.images
        pieces = [slice(at, at + step) for at in range(0, len(images), step)]
        todo, done = deque(pieces), queue.SimpleQueue[tuple[slice, Any]]()
        stop = threading.Event()

        def work() -> None:
            while todo and not stop.is_set():
                try:
                    piece = todo.popleft()
                except IndexError:  # another thread was faster
                    return
                try:
                    done.put((piece, self._ask(images[piece], prompts[piece], stop)))
                except BaseException as error:
                    done.put((piece, error))

        # Daemons: an interrupted scoring must not wait for a slow server.
        for _ in range(min(self.server.requests, len(pieces))):
            threading.Thread(target=work, daemon=True).start()
        scores = np.zeros(len(images))
        try:
            for _ in pieces:
                piece, answer = done.get()
                if isinstance(answer, BaseException):
                    raise answer
                scores[piece] = answer
        finally:
            stop.set()
        return scores

    def _ask(
        self, samples: Sequence[Any], prompts: list[str], stop: threading.Event
    ) -> list[float]:
        if self.server.videos:
            files = [as_file(one) if isinstance(one, Video) else one for one in samples]
            kinds, parts = {"types": [one.kind for one in files]}, [one.content for one in files]
        else:
            kinds, parts = {}, [_png(image) for image in samples]
        ids = [
            hashlib.sha256(prompt.encode("utf-8", "surrogatepass") + b"\0" + part).hexdigest()
            for prompt, part in zip(prompts, parts, strict=True)
        ]
        content = {
            "format": FORMAT,
            "ids": [identity[:16] for identity in ids],
            "prompts": prompts,
            self.takes: [base64.b64encode(part).decode() for part in parts],
            **kinds,
        }
        server = self.server
        answer = post(
            server.url,
            json.dumps(content).encode(),
            server.headers,
            shown=server.name,
            timeout=server.timeout,
            patience=server.patience,
            stop=stop,
        )
        return _scores(answer, content["ids"], server.name, self.takes)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    as_rgb(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _scores(answer: Any, ids: Any, url: str, noun: str) -> list[float]:
    """Return the numbers of an answer. ServerError, saying what is wrong, for any other answer. noun: of what."""
    if isinstance(answer, dict) and "scores" not in answer and "error" in answer:
        raise ServerError(f"{url} says: {first_line(str(answer['error']))}")
    found = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(found, list):
        what = f"keys {list(answer)[:5]}" if isinstance(answer, dict) else type(answer).__name__
        raise ServerError(
            f'{url} answered JSON with {what}; it must be {{"scores": [NUMBER, ...]}}'
        )
    if len(found) != len(ids):
        raise ServerError(f"{url} gave {len(found)} scores for {len(ids)} {noun}; give one each")
    if answer.get("ids", ids) != ids:
        raise ServerError(
            f"{url} answered for other ids, or in another order, than it was asked for"
        )
    scores = []
    for number in found:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ServerError(
                f"{url} gave {first_line(json.dumps(number))} as a score; scores are numbers"
            )
        try:
            scores.append(float(number))
        except OverflowError:
            scores.append(float("inf"))
    return scores
