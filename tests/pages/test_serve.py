"""Who is let in to a page, and what is said where it cannot be served."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tglo.pages.serve import LOOPBACK, check_address, guard, listening

PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tglo.pages.serve import serve
app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("here"))])
serve(app, host="127.0.0.1", port=0, token=None, what="a page")
"""


def client(
    host: str = LOOPBACK, token: str | None = None, url: str = f"http://{LOOPBACK}:80"
) -> TestClient:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("in")

    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST"])])
    return TestClient(guard(app, host, token), base_url=url, follow_redirects=False)


def test_others_need_a_token() -> None:
    assert check_address(LOOPBACK, None) is None and check_address("::1", None) is None
    assert check_address("localhost", None) is None
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(ValueError, match="--token random"):
            check_address(host, None)
    assert check_address("0.0.0.0", "a-long-word") == "a-long-word"
    made = {check_address("0.0.0.0", "random") for _ in range(2)}
    assert len(made) == 2 and all(len(token or "") >= 16 for token in made)
    with pytest.raises(ValueError, match="at least 8"):
        check_address(LOOPBACK, "short")


def test_a_token_is_shown_once_and_kept() -> None:
    with client("0.0.0.0", "a-long-word", "http://machine:1") as browser:
        assert browser.get("/").status_code == 403
        assert browser.get("/?token=wrong-word").status_code == 403
        entered = browser.get("/?token=a-long-word")
        assert entered.status_code == 303 and "token" not in entered.headers["location"]
        assert "HttpOnly" in entered.headers["set-cookie"]
        assert browser.get("/").text == "in"


def test_the_link_with_the_token_leads_nowhere_else() -> None:
    with client("0.0.0.0", "a-long-word", "http://machine:1") as browser:
        for path in ("//elsewhere", "/%2f/elsewhere"):
            browser.cookies.clear()
            entered = browser.get(f"http://machine:1{path}?token=a-long-word")
            assert entered.headers["location"] == "/elsewhere"


def test_other_pages_of_the_browser_are_refused() -> None:
    with client() as browser:
        assert browser.get("/").text == "in"
        assert browser.get("/", headers={"host": "evil.example"}).status_code == 403
        assert browser.post("/", headers={"origin": "http://evil.example"}).status_code == 403
        assert browser.post("/", headers={"origin": f"http://{LOOPBACK}:80"}).status_code == 403
        assert browser.post("/", headers={"origin": f"http://{LOOPBACK}"}).text == "in"
        assert browser.get("/").headers["x-content-type-options"] == "nosniff"


def test_a_port_that_is_taken() -> None:
    with listening(LOOPBACK, 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port}: another program listens there"):
            listening(LOOPBACK, port)


def test_small_answers_are_sent_at_once() -> None:
    """asyncio turns Nagle's waiting off on sockets that say TCP; else a POST takes 40 ms more."""
    with listening(LOOPBACK, 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_an_address_that_is_not_here() -> None:
    with pytest.raises(ValueError, match="does not have that address"):
        listening("192.0.2.1", 0)
    with pytest.raises(ValueError, match="--host no where"):
        listening("no where", 0)
    with pytest.raises(ValueError, match="65535"):
        listening(LOOPBACK, 99999)


def test_a_server_runs_until_ctrl_c() -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r"a page: (http://\S+)", line)
        assert found, line
        assert httpx.get(found[1]).text == "here"
        server.send_signal(signal.SIGINT)
        assert server.stdout.read() == "ended\n" and server.wait(timeout=20) == 0


@pytest.mark.parametrize("host", ["[::1", "[", "", "a b", "[v1.x]"])
def test_a_host_that_is_none(host: str) -> None:
    with client() as browser:
        assert browser.get("/", headers={"host": host}).status_code == 403


def test_an_origin_that_is_none_and_an_endless_address() -> None:
    with client() as browser:
        assert browser.post("/", headers={"origin": "http://["}).status_code == 403
        assert browser.get("/" + "9" * 5000).status_code == 414


def test_a_page_that_is_closed_while_it_sends_is_no_error() -> None:
    async def answer(request: Request) -> PlainTextResponse:
        raise ClientDisconnect

    app = guard(Starlette(routes=[Route("/", answer)]), LOOPBACK, None)
    with TestClient(app, base_url=f"http://{LOOPBACK}") as browser:
        assert browser.get("/").status_code == 400
