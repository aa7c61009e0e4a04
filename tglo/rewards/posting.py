"""JSON posted to a server and its JSON answer, however unwell the server is."""

from __future__ import annotations

import http.client
import json
import logging
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from tglo.redaction import redacted

log = logging.getLogger("tglo")

MOST_BYTES = 16 * 2**20  # of an answer
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two attempts; doubled each time
GARBLED_ATTEMPTS = (
    3  # for an answer that is no JSON, such as a proxy's page while the server restarts
)


class ServerError(RuntimeError):
    """A server that does not give what it was asked for."""


class _Again(Exception):
    """A failure that may pass. pause: seconds that the server asks for."""

    def __init__(self, reason: str, pause: float = 0.0, garbled: bool = False) -> None:
        super().__init__(reason)
        self.pause, self.garbled = pause, garbled


class _Never(Exception):
    """A failure that another attempt would meet again."""


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    shown: str,
    timeout: float,
    patience: float,
    stop: threading.Event,
) -> Any:
    """Post JSON and return the JSON that is answered.

    shown: the URL as messages have it, without secrets.
    timeout: seconds for an answer.
    patience: seconds, all attempts together, for which a failure that may pass is met with another
        attempt: no connection, one that breaks off, no answer in time, statuses 408, 429, 500 to 599.
    stop: ends the attempts.

    Raises ServerError for any other answer, and at the end of the patience, with the reason.
    """
    started, attempt, garbled = time.monotonic(), 0, 0
    while True:
        try:
            return _once(url, body, headers, timeout)
        except _Never as failure:
            raise ServerError(f"{shown} {failure}") from None
        except _Again as failure:
            attempt, garbled = attempt + 1, garbled + failure.garbled
            pause = min(FIRST_PAUSE * 2 ** min(attempt - 1, 16), LONGEST_PAUSE)
            pause = max(pause * random.uniform(0.5, 1), failure.pause)  # not all at the same moment
            past = time.monotonic() - started
            if stop.is_set() or past + pause > patience or garbled >= GARBLED_ATTEMPTS:
                raise ServerError(
                    f"{shown} {failure} ({attempt} attempts in {past:.0f} s). See whether the server "
                    "runs and what it logs; the same command resumes with what is left"
                ) from None
            log.warning("%s %s; asked again in %.1f s", shown, failure, pause)
            stop.wait(pause)


def _once(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Any:
    request = urllib.request.Request(
        url, body, {"Content-Type": "application/json", "Accept": "application/json", **headers}
    )
    ends = time.monotonic() + timeout
    try:
        with _opener().open(request, timeout=timeout) as response:
            content = _read(response, ends)
            kind = response.headers.get_content_type()
    except urllib.error.HTTPError as error:
        raise _refused(error) from None
    except TimeoutError:
        raise _Again(f"did not answer in {timeout:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise _failed(getattr(error, "reason", error), timeout) from None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        what = f"{kind}, not JSON: {first_line(content)!r}" if content.strip() else "nothing"
        raise _Again(f"answered {what}", garbled=True) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A post that is redirected would become a get, and its credentials would go elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _read(response: Any, ends: float) -> bytes:
    """Read an answer of bounded size until `ends`; TimeoutError beyond."""
    wanted, parts, size = response.length, [], 0
    while part := response.read1(65536):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise _Never(f"answered more than {MOST_BYTES} bytes")
        if time.monotonic() > ends:
            raise TimeoutError
    if wanted is not None and size < wanted:
        raise http.client.IncompleteRead(b"", wanted - size)
    return b"".join(parts)


def _refused(error: urllib.error.HTTPError) -> Exception:
    """Return what to raise for a status that is not 200."""
    with error:
        try:
            said = first_line(error.read(4096))
        except (OSError, http.client.HTTPException):
            said = ""
    reason = f"answered {error.code} {error.reason}" + (f": {said}" if said else "")
    if error.code in (408, 429) or error.code >= 500:
        asked = error.headers.get("Retry-After", "")
        return _Again(reason, pause=float(asked) if asked.isascii() and asked.isdigit() else 0.0)
    if 300 <= error.code < 400:
        place = redacted(error.headers.get("Location", "nowhere"))
        reason = f"redirects to {place}; name that place as the scorer if it is right"
    return _Never(reason)


def _failed(reason: Any, timeout: float) -> Exception:
    """Return what to raise for a connection that failed."""
    if isinstance(reason, TimeoutError):
        return _Again(f"did not answer in {timeout:g} s")
    text = redacted(str(reason)) or type(reason).__name__
    lasting = isinstance(reason, ssl.SSLCertVerificationError) or (
        isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME
    )
    if lasting or isinstance(reason, (str, http.client.InvalidURL)):
        return _Never(f"cannot be reached: {text}")
    return _Again(f"cannot be reached: {text}")


def first_line(content: bytes | str) -> str:
    """Return the first line of an answer, shortened and without secrets, for a message."""
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    line = next(filter(None, map(str.strip, text.splitlines())), "")
    return redacted(line[:200])
