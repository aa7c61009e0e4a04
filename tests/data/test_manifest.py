from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tglo.data.manifest import Manifest, read_manifest, sample_id, write_manifest

PROMPTS = ["a cat, sitting", 'a "dog"', "two\nlines", "ein Bär \N{SNOWMAN}"]
IMAGES = [f"images/{i}.png" for i in range(4)]
SCORES = [0.1, -2.5, 1e-17, 3.0]


def png(value: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(out, "PNG")
    return out.getvalue()


def make_images(folder):
    (folder / "images").mkdir()
    for i, image in enumerate(IMAGES):
        (folder / image).write_bytes(png(i))


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def simple_manifest(folder) -> Manifest:
    make_images(folder)
    cells = zip(PROMPTS, IMAGES, SCORES, strict=True)
    rows = [{"prompt": p, "image": i, "score": s, "seed": n} for n, (p, i, s) in enumerate(cells)]
    return read_manifest(jsonl(folder / "source.jsonl", rows))


def assert_same(manifest: Manifest) -> None:
    assert manifest.prompts() == PROMPTS
    assert manifest.scores().tolist() == SCORES
    assert manifest.scores().dtype == np.float64
    assert [manifest.open_image(row) for row in manifest.rows] == [png(i) for i in range(4)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_what_is_written_is_read_with_every_bit(tmp_path, suffix):
    first = simple_manifest(tmp_path)
    path = tmp_path / f"manifest.{suffix}"
    write_manifest(path, first.rows)
    again = read_manifest(path)
    assert_same(again)
    assert again.sample_ids().tolist() == first.sample_ids().tolist()
    assert (again.sha256, again.identity) == (first.sha256, first.identity)
    assert [str(row.extra["seed"]) for row in again.rows] == ["0", "1", "2", "3"]
    assert not list(tmp_path.glob(".*"))


def test_lines_are_those_of_an_editor(tmp_path):
    first = simple_manifest(tmp_path)
    write_manifest(tmp_path / "m.csv", first.rows)
    lines = (tmp_path / "m.csv").read_text().split("\n")
    for row in read_manifest(tmp_path / "m.csv").rows:
        assert lines[row.line - 1].replace('"', "").startswith(row.prompt.split("\n")[0][:2])
    assert [row.line for row in read_manifest(tmp_path / "m.csv").rows] == [2, 3, 4, 6]
    path = jsonl(tmp_path / "blank.jsonl", [])
    path.write_text('\n{"prompt": "a", "image": "b", "score": 1}\n')
    assert read_manifest(path).rows[0].line == 2


def test_the_sample_id_survives_reordering_and_rescoring(tmp_path):
    first = simple_manifest(tmp_path)
    write_manifest(tmp_path / "m.csv", [replace(r, score=7.0) for r in reversed(first.rows)])
    again = read_manifest(tmp_path / "m.csv")
    assert again.sample_ids().tolist() == first.sample_ids().tolist()[::-1]
    assert again.identity == first.identity and again.sha256 != first.sha256
    assert sample_id("a cat", "1.png") == 6411733146367126922  # pinned: caches depend on it
    assert 0 <= min(again.sample_ids())


def test_a_hugging_face_dataset_with_embedded_images(tmp_path):
    datasets = pytest.importorskip("datasets")
    make_images(tmp_path)
    table = {
        "caption": PROMPTS,
        "image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(4)],
        "score": SCORES,
        "tag": ["t"] * 4,
    }
    features = datasets.Features(
        {
            "caption": datasets.Value("string"),
            "image": datasets.Image(),
            "score": datasets.Value("float64"),
            "tag": datasets.Value("string"),
        }
    )
    dataset = datasets.Dataset.from_dict(table, features=features)
    dataset.save_to_disk(tmp_path / "embedded", num_shards=2)
    manifest = read_manifest(tmp_path / "embedded", prompt_column="caption")
    assert_same(manifest)
    assert manifest.rows[3].extra == {"tag": "t"} and manifest.rows[3].line == 4
    # scored elsewhere, the rows still find their images
    write_manifest(tmp_path / "m.csv", manifest.rows)
    assert_same(read_manifest(tmp_path / "m.csv", root=tmp_path / "embedded"))

    paths = datasets.Dataset.from_dict({"prompt": PROMPTS, "image": IMAGES, "score": SCORES})
    paths.save_to_disk(tmp_path / "paths")
    (tmp_path / "images").rename(tmp_path / "paths" / "images")
    assert_same(read_manifest(tmp_path / "paths"))

    datasets.DatasetDict({"train": paths}).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match=r"holds the splits \['train'\]: give one"):
        read_manifest(tmp_path / "splits")


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def make_tars(folder):
    for shard in range(2):
        with tarfile.open(folder / f"shard-{shard:03d}.tar", "w") as tar:
            for i in (2 * shard, 2 * shard + 1):
                add(tar, f"x/{i}.png", png(i))
                if shard:
                    add(tar, f"x/{i}.txt", PROMPTS[i].encode())
                    add(tar, f"x/{i}.score", str(SCORES[i]).encode())
                else:
                    cells = {"prompt": PROMPTS[i], "score": SCORES[i], "tag": "t"}
                    add(tar, f"x/{i}.json", json.dumps(cells).encode())


@pytest.mark.parametrize("path", ["shard-{000..001}.tar", "."])
def test_webdataset_tars(tmp_path, path):
    make_tars(tmp_path)
    manifest = read_manifest(tmp_path / path)
    assert_same(manifest)
    assert manifest.rows[0].image == "shard-000.tar#x/0.png"
    assert manifest.rows[0].extra == {"tag": "t"}
    write_manifest(tmp_path / "m.jsonl", manifest.rows)
    assert_same(read_manifest(tmp_path / "m.jsonl"))


def test_missing_tars_are_named(tmp_path):
    make_tars(tmp_path)
    with pytest.raises(ValueError, match=r"1 of 3 tars are missing: .*shard-002"):
        read_manifest(tmp_path / "shard-{000..002}.tar")


def test_rows_without_scores(tmp_path):
    path = jsonl(tmp_path / "m.jsonl", [{"prompt": "a", "image": "b.png"}])
    manifest = read_manifest(path, require_scores=False)
    assert manifest.rows[0].score is None
    with pytest.raises(ValueError, match=r"1 of 1 rows .*have no score \(lines \[1\]\)"):
        manifest.scores()


def test_select_keeps_the_images(tmp_path):
    manifest = simple_manifest(tmp_path).select([2, 0])
    assert manifest.prompts() == [PROMPTS[2], PROMPTS[0]]
    assert manifest.open_image(manifest.rows[0]) == png(2)


def test_a_large_manifest_reads_in_seconds(tmp_path):
    """Counts Python work per row rather than seconds: no image may be touched."""
    path = tmp_path / "m.csv"
    rows = "".join(f"prompt {i % 100},images/{i}.png,{i / 7}\n" for i in range(20_000))
    path.write_text("prompt,image,score\n" + rows)
    manifest = read_manifest(path)  # none of the images exists
    assert len(manifest) == 20_000 and manifest.rows[-1].line == 20_001


def test_the_same_image_scored_twice_is_fine(tmp_path):
    row = {"prompt": "a", "image": "b.png", "score": 1}
    manifest = read_manifest(jsonl(tmp_path / "m.jsonl", [row, {**row, "score": 2}]))
    assert manifest.rows[0].sample_id == manifest.rows[1].sample_id


def test_writing_refuses_an_unknown_format(tmp_path):
    with pytest.raises(ValueError, match=r"written as one of \.csv, \.jsonl, \.parquet"):
        write_manifest(tmp_path / "m.txt", [])


def test_a_manifest_is_written_beside_its_images(tmp_path):
    manifest = simple_manifest(tmp_path)
    write_manifest(tmp_path / "copy.csv", manifest)
    assert_same(read_manifest(tmp_path / "copy.csv"))
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="which its images are relative to; write it there"):
        write_manifest(tmp_path / "other" / "copy.csv", manifest)
    with pytest.raises(ValueError, match=r"written as one of"):
        manifest.check_output(tmp_path / "copy.xlsx")
