"""hf://datasets/OWNER/NAME: read from the hub's cache, as a download leaves it; there is no network here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.test_manifest import png
from tests.data.test_parquet_images import many, write
from tglo.cli import main
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest

pytest.importorskip("huggingface_hub")
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts files into the cache of a data set ann/cats: each is a link to a blob that has no ending."""
    folder = tmp_path.resolve() / "hub/datasets--ann--cats"
    (folder / "refs").mkdir(parents=True), (folder / "blobs").mkdir()
    (folder / "refs/main").write_text(REVISION)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def add(name: str, make) -> Path:
        path = folder / "snapshots" / REVISION / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blob = folder / "blobs" / f"{len(list((folder / 'blobs').iterdir())):040x}"
        make(blob)
        path.symlink_to(blob)
        return path

    return add


def add_shards(hub):
    for n in range(2):
        hub(
            f"data/train-{n:05d}-of-00002.parquet",
            lambda p, n=n: write(p, many(6)[3 * n : 3 * n + 3]),
        )
    hub("README.md", lambda path: path.write_text("cats"))
    hub("assets/logo.png", lambda path: path.write_bytes(png()))


@pytest.mark.parametrize(
    "address",
    [
        "hf://datasets/ann/cats",
        f"hf://datasets/ann/cats@{REVISION}",
        "hf://datasets/ann/cats@main/data",
        "hf://datasets/ann/cats/data/train-*.parquet",
    ],
)
def test_parquet_files_of_a_data_set(hub, address):
    add_shards(hub)
    manifest = read_manifest(address)
    assert [manifest.open_image(row) for row in manifest] == many(6)
    assert manifest.sha256 == read_manifest(Path(address)).sha256
    row = read_manifest(f"{address.partition('@')[0]}").rows[0] if "@" not in address else None
    assert row is None or row.image.endswith("train-00000-of-00002.parquet#image/000000000")


def test_an_image_folder_of_a_data_set(hub):
    hub("metadata.csv", lambda path: path.write_text("file_name,prompt,score\nimages/1.png,a,1\n"))
    hub("images/1.png", lambda path: path.write_bytes(png(7)))
    manifest = read_manifest("hf://datasets/ann/cats")
    assert manifest.open_image(manifest.rows[0]) == png(7)


def test_captions_of_a_data_set(hub):
    hub("1.txt", lambda path: path.write_text("a cat"))
    hub("1.png", lambda path: path.write_bytes(png(7)))
    manifest = read_manifest("hf://datasets/ann/cats", require_scores=False)
    assert manifest.prompts() == ["a cat"] and manifest.open_image(manifest.rows[0]) == png(7)


def test_scored_into_a_file_of_ones_own(hub, tmp_path, capsys, caplog):
    add_shards(hub)
    command = ["score", "hf://datasets/ann/cats", "--scorer", "ink"]
    assert main(command) == 1 and "give --output FILE" in capsys.readouterr().err
    with caplog.at_level("INFO", "tglo"):
        assert main([*command, "--output", str(tmp_path / "scored.csv")]) == 0
    assert "are found with --root" in caplog.text
    scored = read_manifest(tmp_path / "scored.csv", root="hf://datasets/ann/cats")
    assert [scored.open_image(row) for row in scored] == many(6)


def test_without_a_network_the_remedy_is_named(hub):
    with pytest.raises(ManifestError) as caught:
        read_manifest("hf://datasets/ann/dogs")
    text = str(caught.value)
    assert "cannot get the data set ann/dogs from the hub" in text
    assert "hf download ann/dogs --repo-type dataset" in text
    with pytest.raises(ManifestError, match=r"--revision v9\)"):
        read_manifest("hf://datasets/ann/cats@v9")


@pytest.mark.parametrize("address", ["hf://ann/cats", "hf://datasets/cats", "hf://spaces/ann/cats"])
def test_what_is_no_address_of_a_data_set(address):
    with pytest.raises(ManifestError, match="write hf://datasets/OWNER/NAME"):
        read_manifest(address)
