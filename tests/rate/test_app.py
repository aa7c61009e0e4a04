"""What the server answers: to pages, to hostile requests, and for images of every kind and condition."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.rate.conftest import ROWS, fill, new_id
from tglo.data.decoding import INSTALL as NEEDS_PYAV
from tglo.data.manifest import Manifest, read_manifest
from tglo.data.video import Video, write_video
from tglo.pages.serve import LOOPBACK, guard
from tglo.rate.app import application
from tglo.rate.desk import Desk
from tglo.rate.folder import distinct_rows
from tglo.rate.log import FILE, RatingLog

SESSION = "session-one"


def client_of(manifest: Manifest, folder: Path, rater: str = "") -> TestClient:
    folder.mkdir(parents=True, exist_ok=True)
    app = application(Desk(distinct_rows(manifest), RatingLog(folder / FILE)), rater)
    return TestClient(guard(app, LOOPBACK, None), base_url=f"http://{LOOPBACK}:80")


@pytest.fixture
def client(manifest: Manifest, tmp_path: Path) -> Iterator[TestClient]:
    with client_of(manifest, tmp_path / "ratings") as made:
        yield made


def said(client: TestClient, **content: Any) -> dict[str, Any]:
    log = client.app.state.desk.log
    return {"ratings": log.id, "name": "Ann", "session": SESSION, **content}


def rate(client: TestClient, row: int, stars: int = 3, **content: Any) -> Any:
    sample = str(client.app.state.desk.samples[row])
    event = {"kind": "rate", "id": new_id(), "sample": sample, "stars": stars, "seconds": 1.5}
    return client.post("/events", json=said(client, events=[{**event, **content}]))


def image(client: TestClient, row: int, more: str = "", **options: Any) -> Any:
    sample = client.app.state.desk.samples[row]
    return client.get(f"/image/{row}?of={sample}{more}", **options)


def test_a_page_starts_and_rates(client: TestClient) -> None:
    page = client.get("/")
    assert f"You will see {ROWS} images, one at a time" in page.text
    assert page.status_code == 200 and "media-src &#39;self&#39;" in page.text
    start = client.post("/enter", json=said(client)).json()
    assert len(start["rows"]) == 4 and start["left"] == ROWS
    answer = rate(client, start["rows"][0]["row"])
    assert answer.status_code == 200 and answer.json()["rated"] == 1
    assert client.post("/leave", content=json.dumps(said(client))).status_code == 200
    assert client.post("/enter", json=said(client, session="session-two")).status_code == 200
    again = client.post("/enter", json=said(client))
    assert again.status_code == 409 and "rating in another window" in again.json()["problem"]


def test_a_rater_that_is_given_starts_at_once(manifest: Manifest, tmp_path: Path) -> None:
    with client_of(manifest, tmp_path / "ratings", "Ann <b>") as client:
        assert 'data-rater="Ann &lt;b&gt;"' in client.get("/").text


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10**5, b'{"name": 1}', b'"' + b"a" * 2**20],
)
@pytest.mark.parametrize("address", ["/enter", "/events", "/leave"])
def test_malformed_requests(client: TestClient, address: str, content: bytes) -> None:
    answer = client.post(address, content=content)
    assert answer.status_code == 400 and answer.json()["problem"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"stars": stars} for stars in (0, 6, -1, 2.5, "3", None, True, 10**30)),
        *({"sample": sample} for sample in ("", "-1", "1e3", "../m.csv", 17, None, "9" * 20)),
        *(
            {"id": identity}
            for identity in ("", "short", "a b c d e f", "../../etc/passwd", "abcdefgh\n", 7)
        ),
        *({"kind": kind} for kind in ("give", None, ["rate"])),
        *({"seconds": seconds} for seconds in (-1, "2", 1e300)),
    ],
)
def test_ratings_out_of_range(client: TestClient, wrong: dict[str, Any]) -> None:
    answer = rate(client, 0, **wrong)
    assert answer.status_code == 400 and "events[0]" in answer.json()["problem"]
    assert not client.app.state.desk.book.raters


def test_an_unknown_row(client: TestClient) -> None:
    answer = rate(client, 0, sample="17").json()
    assert not answer["saved"] and "does not have" in next(iter(answer["refused"].values()))


def test_names(client: TestClient) -> None:
    for name, problem in {
        " ": "needs a name",
        "x" * 65: "65 characters",
        "\x1b[0m": "printed",
    }.items():
        answer = client.post("/enter", json=said(client, name=name))
        assert answer.status_code == 400 and problem in answer.json()["problem"]
    for name in ("'; DROP TABLE", "../..", "<script>alert(1)</script>", "アン", "x" * 64):
        assert client.post("/enter", json=said(client, name=name)).json()["name"] == name


def test_a_page_of_other_ratings(client: TestClient) -> None:
    other = said(client, ratings="0123456789abcdef", events=[], holding=[])
    answer = client.post("/events", json=other)
    assert answer.status_code == 400 and "takes other ratings" in answer.json()["problem"]


@pytest.mark.parametrize(
    "address",
    [
        *("/image/0", "/image/0?of=1", "/image/99999?of=1", "/image/99999999999999999999?of=1"),
        *("/image/-1?of=1", "/image/m.csv", "/image/../m.csv", "/image/%2e%2e%2fm.csv?of=1"),
        *("/image//etc/passwd", "/m.csv", "/../m.csv", "/%2e%2e/m.csv", "/static/0.png"),
        *("/image/0%00?of=1", "/image/٣?of=1"),
    ],
)
def test_nothing_but_rows_is_served(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 404 and b"picture" not in answer.content


def test_images_as_they_are(client: TestClient, path: Path) -> None:
    answer = image(client, 3)
    assert answer.content == (path.parent / "3.png").read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_images_that_cannot_be_shown(client: TestClient, path: Path, tmp_path: Path) -> None:
    folder = path.parent
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "2.png").write_text("<html><script>alert(1)</script></html>")
    (folder / "3.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes((folder / "4.png").read_bytes())
    (folder / "4.png").unlink()
    (folder / "4.png").symlink_to(tmp_path / "secret.png")
    problems = [
        "cannot be read",
        "cannot be decoded",
        "no known image",
        "no known",
        "a link out of",
    ]
    for row, problem in enumerate(problems):
        answer = image(client, row)
        assert answer.status_code == 422 and problem in answer.json()["problem"], answer.text
    assert image(client, 5).status_code == 200 and rate(client, 5).status_code == 200


def test_links_within_the_folder_are_followed(client: TestClient, path: Path) -> None:
    (path.parent / "0.png").rename(path.parent / "moved.png")
    (path.parent / "0.png").symlink_to("moved.png")
    assert image(client, 0).status_code == 200


def test_images_that_are_made_over(client: TestClient, path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(path.parent / "0.png")
    Image.new("RGB", (3000, 1000)).save(path.parent / "1.png")
    Image.new("RGB", (9, 9), "blue").save(path.parent / "2.png", "TIFF")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    frames[0].save(path.parent / "3.png", "GIF", save_all=True, append_images=frames[1:])
    found = []
    for row in range(4):
        answer = image(client, row)
        assert answer.status_code == 200 and image(client, row).content == answer.content
        found.append(Image.open(io.BytesIO(answer.content)))
    assert [one.format for one in found] == ["PNG", "JPEG", "PNG", "PNG"]
    assert found[0].getpixel((0, 0)) == (255, 255, 255) and found[1].size == (2048, 683)
    assert found[2].getpixel((0, 0)) == (0, 0, 255) and found[3].getpixel((0, 0)) == (255, 0, 0)


def test_images_in_parquet_and_in_tars(path: Path, tmp_path: Path) -> None:
    data = [(path.parent / f"{row}.png").read_bytes() for row in range(3)]
    shard = tmp_path / "packed" / "data.parquet"
    shard.parent.mkdir()
    cells = [{"bytes": one, "path": None} for one in data]
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], "image": cells}), shard)
    tar = tmp_path / "tarred" / "a.tar"
    tar.parent.mkdir()
    with tarfile.open(tar, "w") as made:
        for row, one in enumerate(data):
            for name, content in ((f"{row}.png", one), (f"{row}.txt", b"a prompt")):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                made.addfile(entry, io.BytesIO(content))
    for manifest in (shard, tar):
        rows = read_manifest(manifest, require_scores=False)
        with client_of(rows, tmp_path / f"{manifest.stem}-ratings") as client:
            assert [image(client, row).content for row in range(3)] == data


def make_videos(folder: Path) -> Path:
    """A file that browsers play, one that they do not, a folder of frames, and a torn file."""
    av = pytest.importorskip("av", reason=NEEDS_PYAV)
    frames = [Image.new("RGB", (32, 32), (30 * n, 0, 0)) for n in range(8)]
    (folder / "frames").mkdir(parents=True)
    (folder / "0.mp4").write_bytes(write_video(Video(frames, 8.0)))
    with av.open(str(folder / "1.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    for number, frame in enumerate(frames):
        frame.save(folder / "frames" / f"{number}.png")
    (folder / "3.mp4").write_bytes((folder / "0.mp4").read_bytes()[:12] + bytes(50))
    lines = ["prompt,image,frame_rate", "a,0.mp4,", "b,1.avi,", "c,frames,4", "d,3.mp4,"]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def test_videos(tmp_path: Path) -> None:
    rows = read_manifest(make_videos(tmp_path / "videos"), require_scores=False)
    whole = (tmp_path / "videos" / "0.mp4").read_bytes()
    with client_of(rows, tmp_path / "ratings") as client:
        assert "images or videos, one" in client.get("/").text
        assert all(row["video"] for row in client.post("/enter", json=said(client)).json()["rows"])
        answer = image(client, 0)
        assert (answer.status_code, answer.content) == (200, whole)
        assert answer.headers["content-type"] == "video/mp4"
        for wanted, part in {"0-": whole, "10-19": whole[10:20], "-5": whole[-5:]}.items():
            answer = image(client, 0, headers={"range": f"bytes={wanted}"})
            assert (answer.status_code, answer.content) == (206, part)
        assert image(client, 0, headers={"range": "bytes=10-99999999"}).content == whole[10:]
        for wanted in ("bytes=99999999-", "bytes=9-3", "bytes=-0"):
            assert image(client, 0, headers={"range": wanted}).status_code == 416
        for wanted in (
            "bytes=0-1,4-5",
            "lines=1-2",
            "bytes=-",
            "bytes=a-b",
            "bytes=" + "9" * 99 + "-",
        ):
            assert image(client, 0, headers={"range": wanted}).content == whole
        for row, more, rate in ((0, "&moving", 8), (1, "", 8), (2, "", 4)):
            moving = Image.open(io.BytesIO(image(client, row, more).content))
            assert moving.format == "WEBP" and moving.n_frames == 8
            moving.load()
            assert moving.info["duration"] == 1000 // rate
        assert image(client, 3, "&moving").status_code == 422
        (tmp_path / "videos" / "0.mp4").unlink()
        assert image(client, 1).status_code == 200


def test_a_full_disk(manifest: Manifest, small_disk: Path) -> None:
    with client_of(manifest, small_disk / "ratings") as client:
        assert rate(client, 0).status_code == 200
        fill(small_disk)
        rows = [rate(client, row % ROWS) for row in range(60)]
        assert (
            rows[-1].status_code == 507
            and "the disk with the ratings is full" in rows[-1].json()["problem"]
        )
        (small_disk / "filler").unlink()
        assert rate(client, 1).json()["saved"]


def test_answers_take_no_time_with_many_images(manifest: Manifest, tmp_path: Path) -> None:
    """A bound for a busy machine; docs/rate.md says what was measured."""
    ids = np.random.default_rng(0).choice(2**40, 100_000, replace=False).tolist()
    first = manifest.rows[0]
    rows = manifest.with_rows(replace(first, sample_id=sample) for sample in ids)
    (tmp_path / "many").mkdir()
    desk = Desk(rows, RatingLog(tmp_path / "many" / FILE), overlap=2)
    desk.enter("Ann", SESSION)
    times = []
    for _ in range(20):
        start = perf_counter()
        desk.record("Ann", SESSION, [], [])
        times.append(perf_counter() - start)
    assert min(times) < 0.025
