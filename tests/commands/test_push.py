"""`tglo push` against a stand-in of the hub's HTTP interface on this machine, by the hub's own client."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

TOKEN = "hf_" + "aB3" * 12
WEIGHTS = bytes(range(256)) * 40


class Hub(ThreadingHTTPServer):
    """Repositories in memory; files that end in .safetensors go the way of large ones."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repos: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.refuses = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, content: Any = None, status: int = 200, **headers: str) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self) -> bool:
        """Whether a request was answered with the error that the hub is to give."""
        self.server.requests.append(f"{self.command} {self.path}")
        status = self.server.refuses
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 401
        if status:
            self.answer({"error": "no"}, status, **{"X-Error-Message": "no"})
        return bool(status)

    def do_GET(self) -> None:
        if not self.refused():
            repo = "/".join(self.path.split("?")[0].split("/")[3:5])
            found = self.server.repos.get(repo)
            if found is None:
                self.answer({"error": "no"}, 404, **{"X-Error-Code": "RepoNotFound"})
            else:
                self.answer({"id": repo, "private": found["private"], "siblings": []})

    def do_PUT(self) -> None:  # to the storage, without a token
        data = self.body()
        self.server.large[hashlib.sha256(data).hexdigest()] = data
        self.answer()

    def do_POST(self) -> None:
        body = self.body()
        if self.refused():
            return
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if repo in self.server.repos:
                self.answer({"url": f"{self.server.url}/{repo}"}, 409)
                return
            self.server.repos[repo] = {
                "private": asked.get("visibility") == "private",
                "branches": {"main": {}},
            }
            self.answer({"url": f"{self.server.url}/{repo}"})
        elif path.endswith("/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.server.url}/storage/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif path == "/api/validate-yaml":  # of the card
            self.answer({"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            _, _, _, owner, name, verb, revision = path.split("/")
            self.repo(self.server.repos[f"{owner}/{name}"], verb, revision, body)

    def repo(self, repo: dict[str, Any], verb: str, revision: str, body: bytes) -> None:
        if verb == "branch":
            repo["branches"].setdefault(revision, {})
            self.answer({})
        elif verb == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif verb == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    content = base64.b64decode(value["content"])
                    repo["branches"][revision][value["path"]] = content
                elif line["key"] == "lfsFile":
                    repo["branches"][revision][value["path"]] = self.server.large[value["oid"]]
            url = f"{self.server.url}/x/y/commit/1"
            self.answer({"commitUrl": url, "commitOid": "1", "pullRequestUrl": None})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "unet").mkdir(parents=True)
    for name, data in (
        ("model_index.json", b"{}"),
        ("README.md", b"# card"),
        ("unet/model.safetensors", WEIGHTS),
        (".hidden", b"x"),
    ):
        (folder / name).write_bytes(data)
    return folder


def push(
    url: str, tmp_path: Path, *arguments: str | Path, token: str = TOKEN, offline: str = "0"
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        **{"HF_ENDPOINT": url, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path / "home")},
        "HF_HUB_DISABLE_XET": "1",  # whose storage speaks no plain HTTP
        **({"HF_TOKEN": token} if token else {}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tglo.cli", "push", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_an_export_goes_up_whole(hub: Hub, export: Path, tmp_path: Path) -> None:
    done = push(hub.url, tmp_path, export, "--repo", "me/model", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"pushed to {hub.url}/me/model"
    files = hub.repos["me/model"]["branches"]["main"]
    assert files["unet/model.safetensors"] == WEIGHTS and files["README.md"] == b"# card"
    assert set(files) == {"model_index.json", "README.md", "unet/model.safetensors"}
    assert hub.repos["me/model"]["private"]
    again = push(hub.url, tmp_path, export, "--repo", "me/model", "--revision", "v2")
    assert again.returncode == 0 and set(hub.repos["me/model"]["branches"]["v2"]) == set(files)


def test_private_does_not_publish_to_a_public_one(hub: Hub, export: Path, tmp_path: Path) -> None:
    hub.repos["me/open"] = {"private": False, "branches": {"main": {}}}
    done = push(hub.url, tmp_path, export, "--repo", "me/open", "--private")
    assert done.returncode == 1 and "me/open exists and is public" in done.stderr
    assert not hub.repos["me/open"]["branches"]["main"]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "refuses the token for me/model: log in with `hf auth login`, or set HF_TOKEN"),
        (403, "the token may not write to me/model; take an OWNER that you belong to"),
        (404, "me/model does not exist and was not made"),
    ],
)
def test_refusals(hub: Hub, export: Path, tmp_path: Path, status: int, told: str) -> None:
    hub.refuses = status
    done = push(hub.url, tmp_path, export, "--repo", "me/model")
    assert done.returncode == 1 and told in done.stderr.splitlines()[-1]


def test_no_token_no_network_offline_and_no_export(hub: Hub, export: Path, tmp_path: Path) -> None:
    done = push(hub.url, tmp_path, export, "--repo", "me/model", token="")
    assert done.returncode == 1 and "log in with `hf auth login`" in done.stderr.splitlines()[-1]
    done = push("http://127.0.0.1:9", tmp_path, export, "--repo", "me/model")
    assert done.returncode == 1 and "http://127.0.0.1:9 cannot be reached" in done.stderr
    done = push(hub.url, tmp_path, export, "--repo", "me/model", offline="1")
    assert done.returncode == 1 and "switched off by HF_HUB_OFFLINE" in done.stderr
    done = push(hub.url, tmp_path, tmp_path, "--repo", "me/model")
    assert done.returncode == 1 and "holds no export, " in done.stderr
    assert f"give {export}" in done.stderr
    done = push(hub.url, tmp_path, export, "--repo", "not a repo")
    assert done.returncode == 1 and "write OWNER/NAME" in done.stderr
    assert not hub.repos
