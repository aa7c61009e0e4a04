"""A scorer behind a URL, on loopback: servers that are well, slow, wrong, and killed."""

from __future__ import annotations

import base64
import io
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cache.fake_encoder import make_manifest
from tests.rewards import published
from tglo import cli
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest
from tglo.rewards import load_scorer, named_scorers, posting, score_manifest, scorer_name
from tglo.rewards.posting import ServerError
from tglo.rewards.served import parse_server

EXAMPLE = Path(__file__).parents[2] / "examples" / "score_server.py"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(posting, "FIRST_PAUSE", 0.01)
    monkeypatch.delenv("TGLO_SCORER_TOKEN", raising=False)


@contextmanager
def serving(answer, port=0):
    """A server whose answer(asked, handler) is JSON to send, or None if it has answered itself."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = answer(asked, self)
            if content is not None:
                send(self, json.dumps(content).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/score"
        finally:
            server.shutdown()


def send(handler, body, status=200, **headers):
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def pictures(asked):
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in asked["images"]]


def red(images, prompts):
    return [
        float(np.asarray(i.convert("RGB"))[..., 0].mean()) + len(p)
        for i, p in zip(images, prompts, strict=True)
    ]


def well(asked, handler):
    return {"scores": red(pictures(asked), asked["prompts"])}


@pytest.mark.parametrize("settings", ["", ",images=1,requests=2", ",images=5,requests=64"])
def test_pixels_prompts_and_order_arrive(settings):
    images, prompts = published.images(13), [f"é {n} {'x' * n}" for n in range(13)]
    sizes, most, lock, at_once = [], [], threading.Lock(), set()

    def answer(asked, handler):
        with lock:
            at_once.add(threading.get_ident())
            sizes.append(len(asked["images"]))
            most.append(len(at_once))
        time.sleep(0.01 * (len(asked["prompts"][0]) % 3))  # out of order
        with lock:
            at_once.discard(threading.get_ident())
        assert asked["format"] == "tglo.scorer.1" and len(set(asked["ids"])) == len(asked["ids"])
        return {**well(asked, handler), "ids": asked["ids"]}

    with serving(answer) as url:
        scores = load_scorer(url + settings)(images, prompts)
        server = parse_server(url + settings)
    assert scores.tolist() == red(images, prompts)  # PNG: no pixel is lost
    assert max(sizes) <= server.images and sum(sizes) == 13 and max(most) <= server.requests
    with pytest.raises(ValueError, match="1 images but 2 prompts"):
        load_scorer(url)(images[:1], prompts[:2])
    assert load_scorer(url)([], []).shape == (0,)


def test_odd_modes_are_sent_as_rgb():
    grey, clear = Image.new("L", (3, 5), 9), Image.new("RGBA", (3, 5), (0, 0, 0, 0))

    def answer(asked, handler):
        assert [i.mode for i in pictures(asked)] == ["RGB", "RGB"]
        return {"scores": [i.getpixel((0, 0))[0] for i in pictures(asked)]}

    with serving(answer) as url:
        assert load_scorer(url)([grey, clear], ["", ""]).tolist() == [9, 255]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"scores": [1.0]}, "gave 1 scores for 2 images"),
        ({"scores": [1.0, 2.0, 3.0]}, "gave 3 scores for 2 images"),
        ({"scores": [1.0, "2"]}, 'gave "2" as a score; scores are numbers'),
        ({"scores": [1.0, True]}, "gave true as a score"),
        ({"scores": [None, 1.0]}, "gave null as a score"),
        ({"scores": {"a": 1}}, r"JSON with keys \['scores'\]; it must be"),
        ({"rewards": [1.0, 2.0]}, r"JSON with keys \['rewards'\]"),
        ([1.0, 2.0], "JSON with list"),
        ({"error": "no model\nsecond"}, "says: no model$"),
        ({"scores": [1.0, 2.0], "ids": ["b", "a"]}, "for other ids"),
    ],
)
def test_an_answer_that_is_wrong_is_refused_at_once(answer, message):
    asked = []
    with (
        serving(lambda *_: asked.append(1) or answer) as url,
        pytest.raises(ServerError, match=message),
    ):
        load_scorer(url)(published.images(2), ["a", "b"])
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\n<html><title>Log in</title>\n</html>", "not JSON: '<html><title>Log in</title>'"),
        (b"", "answered nothing"),
        (b'{"scores": [1.0,', "answered application/json, not JSON"),
        (b"[" * 100_000, "answered application/json, not JSON"),  # deeper than Python reads
    ],
)
def test_html_and_nothing_are_asked_for_again_and_then_refused(body, message):
    asked = []

    def answer(_, handler):
        asked.append(1)
        send(handler, body, Content_Type="application/json")

    with serving(answer) as url, pytest.raises(ServerError, match=message):
        load_scorer(url)(published.images(2), ["a", "b"])
    assert len(asked) == 3


def test_a_client_error_is_told_with_its_first_line():
    def answer(_, handler):
        send(handler, b"\nno such path token=x hf_" + b"a1" * 17 + b"\nmore", 404)

    with serving(answer) as url, pytest.raises(ServerError) as error:
        load_scorer(url)(published.images(1), ["a"])
    text = str(error.value)
    assert "answered 404 Not Found: no such path" in text and "more" not in text
    assert "a1a1" not in text


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(status, caplog):
    asked = []

    def answer(content, handler):
        asked.append(time.monotonic())
        if len(asked) < 4:
            return send(handler, b"busy", status, Retry_After="0")
        return well(content, handler)

    with serving(answer) as url, caplog.at_level(logging.WARNING, "tglo"):
        scores = load_scorer(url)(published.images(2), ["a", "b"])
    assert scores.tolist() == red(published.images(2), ["a", "b"]) and len(asked) == 4
    assert f"answered {status}" in caplog.text and "busy; asked again in" in caplog.text


def test_retry_after_is_heeded_and_patience_ends():
    with (
        serving(lambda _, handler: send(handler, b"", 429, Retry_After="3600")) as url,
        pytest.raises(ServerError, match=r"answered 429 .*\(1 attempts .*the same command resumes"),
    ):
        load_scorer(url)(published.images(1), ["a"])
    with (
        serving(lambda _, handler: send(handler, b"", 500)) as url,
        pytest.raises(ServerError, match=r"answered 500 .*attempts in 0 s"),
    ):
        load_scorer(f"{url},patience=0.05")(published.images(1), ["a"])


def test_a_redirect_is_not_followed():
    with (
        serving(lambda _, h: send(h, b"", 307, Location="http://u:p@other/score")) as url,
        pytest.raises(ServerError, match=r"redirects to http://\*\*\*@other/score; name that"),
    ):
        load_scorer(url)(published.images(1), ["a"])


def test_a_slow_server_is_given_up_and_one_that_drips(caplog):
    def drips(_, handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    for answer in (lambda *_: time.sleep(60), drips):
        started = time.monotonic()
        with (
            serving(answer) as url,
            pytest.raises(ServerError, match=r"did not answer in 0\.2 s"),
        ):
            load_scorer(f"{url},timeout=0.2,patience=0.3")(published.images(1), ["a"])
        assert time.monotonic() - started < 30


def test_a_connection_that_breaks_off_is_made_again():
    asked = []

    def answer(content, handler):
        asked.append(1)
        if len(asked) == 1:  # the answer is cut short
            return send(handler, b'{"scores"', Content_Length="100")
        if len(asked) == 2:  # no answer
            handler.close_connection = True
            return handler.connection.shutdown(socket.SHUT_RDWR)
        return well(content, handler)

    with serving(answer) as url:
        assert load_scorer(url)(published.images(1), ["a"]).tolist() == red(
            published.images(1), ["a"]
        )
    assert len(asked) == 3


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=r"cannot be reached: .*refused.*attempts"):
        load_scorer(f"http://127.0.0.1:{port}/x,patience=0.05")(published.images(1), ["a"])


def test_an_interruption_does_not_wait_for_a_slow_server():
    class Stopped(BaseException):
        pass

    def stop(*_):
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with serving(lambda *_: time.sleep(60)) as url:
            scorer = load_scorer(url)
            started = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Stopped):
                scorer(published.images(2), ["a", "b"])
            assert time.monotonic() - started < 30
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_nan_names_its_row_and_what_was_scored_is_kept(tmp_path):
    manifest, partial = make_manifest(tmp_path, 4), tmp_path / "partial.json"

    def answer(asked, handler):
        return {"scores": [float("nan") if p == "a dog" else 1.0 for p in asked["prompts"]]}

    with (
        serving(answer) as url,
        pytest.raises(ManifestError, match=r"scorer http://.*NaN or inf .*line 3: images/001"),
    ):
        score_manifest(manifest, load_scorer(url), 2, partial=partial, progress=False)
    assert len(json.loads(partial.read_text())["scores"]) == 1


# Names and secrets


def test_names_and_settings():
    assert scorer_name("http://h:8/a?model=x,images=3") == "http://h:8/a"
    assert scorer_name("geneval=https://u:p@h/a?b=c") == "geneval"
    found = parse_server("g=https://u%40:p@h:8/a?b=c,images=3,requests=2,timeout=0.5,patience=0")
    assert found.url == "https://h:8/a?b=c" and found.name == "https://h:8/a"
    assert (found.images, found.requests, found.timeout, found.patience) == (3, 2, 0.5, 0)
    assert found.headers == {"Authorization": "Basic " + base64.b64encode(b"u@:p").decode()}
    for text, message in {
        "http://h/a,image=3": r"no setting 'image' \(nearest: images",
        "http://h/a,images=x": "'images=x' is not a number",
        "http://h/a,images=0": "images is 0; it must be",
        "http://h/a,timeout=nan": "timeout is nan",
        "http:///a": "names no host",
        "http://u:geheim@h:port/a": "Port could not be cast",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            load_scorer(text)
        assert "geheim" not in str(error.value)
    with pytest.raises(ValueError, match="scorer http://h/a is given twice"):
        named_scorers(["http://u:p@h/a", "http://h/a?x=y"])


def test_credentials_are_sent_and_never_shown(monkeypatch):
    seen = []

    def answer(asked, handler):
        seen.append((handler.headers["Authorization"], handler.path))
        send(handler, b"no", 403)

    with serving(answer) as url:
        for text in (url.replace("//", "//user:geheim@") + "?key=geheim", url):
            monkeypatch.setenv("TGLO_SCORER_TOKEN", "geheim2")
            scorer = load_scorer(text)
            with pytest.raises(ServerError, match="answered 403 Forbidden: no") as error:
                scorer(published.images(1), ["a"])
            assert "geheim" not in str(error.value) + scorer.identity + scorer_name(text)
    assert seen == [
        ("Basic " + base64.b64encode(b"user:geheim").decode(), "/score?key=geheim"),
        ("Bearer geheim2", "/score"),
    ]


# The example, killed in the middle


@contextmanager
def example(port=0):
    command = [sys.executable, str(EXAMPLE), str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_example_is_killed_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    manifest = make_manifest(tmp_path, 12)
    monkeypatch.setattr("tglo.rewards.partial.SAVE_SECONDS", 0.0)
    with example() as (process, url):
        port = url.split(":")[2].split("/")[0]
        process.send_signal(signal.SIGSTOP)  # from its side: it hangs with requests in flight
        flags = [str(manifest.path), "--batch-size", "4"]
        settings = ",images=2,requests=2,timeout=0.2,patience=0.3"
        assert cli.main(["score", *flags, "--scorer", f"bright={url}{settings}"]) == 1
        assert "did not answer in 0.2 s" in capsys.readouterr().err
        process.send_signal(signal.SIGCONT)

        def killing(images, prompts, calls=[]):  # noqa: B006
            calls.append(1)
            if len(calls) == 3:
                process.kill()
                process.wait()
            return [1.0] * len(images)

        monkeypatch.setitem(sys.modules, "killing", type(sys)("killing"))
        sys.modules["killing"].scorer = killing
        command = ["score", *flags, "--scorer", "killing:scorer"]
        assert cli.main([*command, "--scorer", f"bright={url}{settings}"]) == 1
        assert "cannot be reached" in capsys.readouterr().err
        kept = (tmp_path / ".manifest-scored.csv.partial-work").glob("scores-*.json")
        assert sum(len(json.loads(path.read_text())["scores"]) for path in kept) == 8
    with example(port) as (_, again):
        assert again == url
        assert cli.main([*command, "--scorer", f"bright={url}"]) == 0, capsys.readouterr().err
    rows = read_manifest(tmp_path / "manifest-scored.csv").rows
    means = [np.asarray(Image.open(tmp_path / r.image).convert("L")).mean() / 255 for r in rows]
    assert [float(row.extra["bright"]) for row in rows] == pytest.approx(means)
