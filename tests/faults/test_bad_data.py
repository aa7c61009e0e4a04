"""Bad data: refused when it is read, set aside with its name, or stopped at; never trained on.

Numbers are those of the fault list: 4 torn files, 5 corrupt images, 6 bad scores, 8 a degenerate
threshold, 9 scores of another size, 10 too few rows, 11 a cache for something else, 24 pickles,
25 paths out of the data folder, 26 decompression bombs.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cache.fake_encoder import FakeEncoder, make_image, make_manifest
from tglo.cache.build import build_cache
from tglo.cache.format import fingerprint_of
from tglo.cache.latents import LatentCache
from tglo.data.containers import ImageStore
from tglo.data.errors import CacheError, ImageError, ManifestError
from tglo.data.images import decode_image
from tglo.data.manifest import read_manifest
from tglo.data.roots import Root
from tglo.data.sampler import BatchSampler
from tglo.files.sealed import write_sealed
from tglo.threshold.frozen import estimate
from tglo.threshold.summary import describe

SETTINGS = {"resolution": 32, "shard_size": 6, "batch_size": 4, "progress": False}


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def store_of(folder) -> ImageStore:
    return ImageStore(Root(os.path.realpath(folder), os.path.realpath(folder)))


def write_csv(folder, *rows, header="prompt,image,score"):
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


# 4 ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    manifest = make_manifest(folder, 20)
    build_cache(manifest, folder / "cache", FakeEncoder(), **SETTINGS)
    return manifest, folder / "cache"


@pytest.fixture
def cache_copy(built, tmp_path):
    shutil.copytree(built[1], tmp_path / "cache")
    return built[0], tmp_path / "cache"


@pytest.mark.parametrize("name", ["latents-00001.safetensors", "text-00000.safetensors"])
def test_04_a_cut_shard_is_named(cache_copy, name):
    path = cache_copy[1] / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        CacheError, match=f"{name} has .* bytes instead of .* run `tglo cache` again"
    ):
        LatentCache(cache_copy[1])


def test_04_a_missing_shard_is_named(cache_copy):
    (cache_copy[1] / "latents-00002.safetensors").unlink()
    with pytest.raises(CacheError, match=r"latents-00002\.safetensors is missing"):
        LatentCache(cache_copy[1])


def test_04_a_flipped_bit_is_found_by_verify_and_repaired(cache_copy):
    manifest, folder = cache_copy
    path = folder / "latents-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    with pytest.raises(CacheError, match=r"latents-00001\.safetensors differs from its checksum"):
        LatentCache(folder).verify()
    report = build_cache(manifest, folder, FakeEncoder(), **SETTINGS)
    assert report.written == 1
    LatentCache(folder).verify()


def test_04_a_torn_index_is_named(cache_copy):
    path = cache_copy[1] / "index.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    with pytest.raises(CacheError, match=r"index\.safetensors differs from its checksum"):
        LatentCache(cache_copy[1])


def test_04_a_torn_cache_json_is_named(cache_copy):
    path = cache_copy[1] / "cache.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match=r"cache\.json is damaged or no latent cache .*: run `tglo cache` again"
    ):
        LatentCache(cache_copy[1])


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_04_a_cut_manifest_is_refused(tmp_path, suffix):
    from tglo.data.manifest import Row, write_manifest

    path = tmp_path / f"m.{suffix}"
    write_manifest(path, [Row(0, 'a "prompt", quoted', f"{i}.png", i / 3, i) for i in range(9)])
    path.write_bytes(path.read_bytes()[:-25])
    with pytest.raises(ManifestError, match=f"m.{suffix}"):
        read_manifest(path)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_04_a_cut_tar_is_named(tmp_path, keep):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(5):
            for name, data in ((f"{i}.png", encoded(make_image(i))), (f"{i}.txt", b"a cat")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    data = path.read_bytes()
    path.write_bytes(data[: int(end * keep)])
    with pytest.raises(ManifestError, match=r"shard\.tar is damaged or no uncompressed tar"):
        read_manifest(path, require_scores=False)
    path.write_bytes(data[:end])  # cut between two members: only the end mark is missing
    with pytest.raises(ManifestError, match="end mark is missing"):
        read_manifest(path, require_scores=False)


def test_04_a_cut_arrow_file_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    columns = {"prompt": ["a"] * 50, "image": ["b.png"] * 50, "score": [1.0] * 50}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "data")
    file = next((tmp_path / "data").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ManifestError, match=r"\.arrow is damaged or no Arrow stream"):
        read_manifest(tmp_path / "data")


# 5 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.9])
def test_05_a_truncated_image_is_an_error(kind, keep):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert decode_image(data).size == (64, 64)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(data[: int(len(data) * keep)])


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF"])
def test_05_what_is_no_image_is_an_error(data):
    with pytest.raises(ImageError, match="cannot be decoded: no known image format"):
        decode_image(data)


def spoil(manifest, folder):
    """Three rows of one hundred: truncated, missing, and a text file."""
    path = folder / manifest.rows[3].image
    path.write_bytes(path.read_bytes()[:60])
    (folder / manifest.rows[50].image).unlink()
    (folder / manifest.rows[77].image).write_bytes(b"not found")


def test_05_bad_images_are_quarantined_and_listed(tmp_path):
    manifest = make_manifest(tmp_path, 100)
    spoil(manifest, tmp_path)
    settings = {**SETTINGS, "max_bad_fraction": 0.03}
    report = build_cache(manifest, tmp_path / "cache", FakeEncoder(), **settings)
    assert report.samples == 97
    listed = [(entry.line, entry.image) for entry in report.quarantined]
    assert listed == [(5, "images/003.png"), (52, "images/050.png"), (79, "images/077.png")]
    causes = [entry.cause for entry in report.quarantined]
    assert "cannot be decoded" in causes[0] and "No such file" in causes[1]
    assert "no known image format" in causes[2]
    content = json.loads((tmp_path / "cache" / "cache.json").read_text())
    assert [entry["line"] for entry in content["quarantined"]] == [5, 52, 79]

    cache = LatentCache(tmp_path / "cache")
    assert len(cache) == 97 and list(cache.quarantined) == list(report.quarantined)
    here = cache.has(manifest.sample_ids())
    assert np.flatnonzero(~here).tolist() == [3, 50, 77]
    with pytest.raises(CacheError, match="3 images were quarantined"):
        cache.batch(manifest.sample_ids()[[3]])

    # repaired, they are taken in by the next pass, and nothing else is made again
    for number in (3, 50, 77):
        make_image(number).save(tmp_path / manifest.rows[number].image)
    report = build_cache(manifest, tmp_path / "cache", FakeEncoder(), **SETTINGS)
    assert (report.samples, report.quarantined, report.written) == (100, (), 3)


def test_05_above_the_cap_it_stops_with_the_list(tmp_path):
    manifest = make_manifest(tmp_path, 100)
    spoil(manifest, tmp_path)
    with pytest.raises(CacheError, match=r"2 of 100 .*max_bad_fraction = 0\.01: line 5.*line 52"):
        build_cache(manifest, tmp_path / "cache", FakeEncoder(), **SETTINGS)
    with pytest.raises(CacheError, match="is not complete"):
        LatentCache(tmp_path / "cache")


def test_05_the_cap_holds_over_all_ranks(tmp_path):
    manifest = make_manifest(tmp_path, 100)
    for number in (3, 10, 50):  # of shards 0, 1 and 8
        (tmp_path / manifest.rows[number].image).unlink()
    settings = {**SETTINGS, "max_bad_fraction": 0.02, "world_size": 2}
    for rank in (0, 1):
        with pytest.raises(CacheError, match="3 of 100 images cannot be used"):
            build_cache(manifest, tmp_path / "cache", FakeEncoder(), rank=rank, **settings)
    with pytest.raises(CacheError, match="is not complete"):
        LatentCache(tmp_path / "cache")


def test_05_not_one_usable_image(tmp_path):
    manifest = make_manifest(tmp_path, 3)
    shutil.rmtree(tmp_path / "images")
    settings = {**SETTINGS, "max_bad_fraction": 1.0}
    with pytest.raises(CacheError, match="not one image could be used"):
        build_cache(manifest, tmp_path / "cache", FakeEncoder(), **settings)


def test_05_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        store_of(tmp_path).read("pipe.png")


def test_05_an_encoder_that_overflows_stops(tmp_path):
    class Overflowing(FakeEncoder):
        def latents(self, pixels):
            mean, std = super().latents(pixels)
            return mean * 1e6, std

    manifest = make_manifest(tmp_path, 3)
    with pytest.raises(CacheError, match=r"NaN or inf \(as torch.float16\) for \['images/"):
        build_cache(manifest, tmp_path / "cache", Overflowing(), dtype=torch.float16, **SETTINGS)


# 6 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nan", "the score is NaN"),
        ("inf", "the score is infinite"),
        ("-inf", "the score is infinite"),
        ("", "the score is missing"),
        ("good", "the score is 'good', not a number"),
        ("1_0", "the score is '1_0', not a number"),
        ("1e301", "beyond 1e300"),
    ],
)
def test_06_bad_scores_in_csv(tmp_path, value, reason):
    path = write_csv(tmp_path, "a,1.png,1.0", f"b,2.png,{value}", "c,3.png,2.0")
    with pytest.raises(ManifestError, match=f"1 of 3 rows .* are refused: line 3: .*{reason}"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("NaN", "NaN"),
        ("Infinity", "infinite"),
        ("null", "missing"),
        ('"0.5"', "'0.5', not a number"),
        ("true", "True, not a number"),
        ("[1]", "not a number"),
        ("1" + "0" * 400, "beyond 1e300"),
    ],
)
def test_06_bad_scores_in_json_lines(tmp_path, value, reason):
    path = tmp_path / "m.jsonl"
    good = '{"prompt": "a", "image": "1.png", "score": 1}\n'
    path.write_text(good + f'{{"prompt": "b", "image": "2.png", "score": {value}}}\n' + good)
    with pytest.raises(ManifestError, match=f"line 2: .*{reason}"):
        read_manifest(path)


def test_06_bad_scores_in_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(scores):
        columns = {"prompt": ["a"] * 3, "image": ["1.png", "2.png", "3.png"], "score": scores}
        pq.write_table(pa.table(columns), tmp_path / "m.parquet")
        return tmp_path / "m.parquet"

    with pytest.raises(ManifestError, match=r"line 2: the score is NaN; line 3: .* missing"):
        read_manifest(write(pa.array([1.0, float("nan"), None])))
    with pytest.raises(ManifestError, match=r"3 of 3 rows .* 'good', not a number"):
        read_manifest(write(["good", "bad", "bad"]))


def test_06_ten_rows_are_listed_and_all_are_counted(tmp_path):
    path = write_csv(tmp_path, *(f"a,{i}.png,nan" for i in range(25)), "a,x.png,1")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    text = str(caught.value)
    assert "25 of 26 rows" in text and "(the first 10)" in text and "Correct or remove" in text
    assert "line 11:" in text and "line 12:" not in text


def test_06_other_bad_rows(tmp_path):
    path = write_csv(tmp_path, "a,1.png,1", "b,2.png", "c,,1", "d,4.png,1,9")
    with pytest.raises(ManifestError, match=r"line 3: has 2 fields where .* 3; line 4: .*is empty"):
        read_manifest(path)
    lines = [
        "{",
        "[1]",
        '{"prompt": 3, "image": "b", "score": 1}',
        '{"prompt": "\\ud800", "image": "b", "score": 1}',
    ]
    path = tmp_path / "m.jsonl"
    path.write_text('{"prompt": "a", "image": "b", "score": 1}\n' + "\n".join(lines) + "\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    for reason in (
        "2: is not JSON",
        "3: is not a JSON object",
        "4: the prompt is 3, not text",
        "5: the prompt or the image path is not valid Unicode",
    ):
        assert f"line {reason}" in str(caught.value)


def test_06_missing_columns_name_those_that_exist(tmp_path):
    path = write_csv(tmp_path, "a,1.png,1", header="promt,image,rating")
    with pytest.raises(
        ManifestError,
        match=r"no column 'prompt' .* are \['promt', 'image', 'rating'\].*prompt_column='promt'",
    ):
        read_manifest(path)
    with pytest.raises(ManifestError, match="no column 'score' for the score"):
        read_manifest(path, prompt_column="promt")
    assert len(read_manifest(path, prompt_column="promt", score_column="rating")) == 1


def test_06_unknown_formats(tmp_path):
    (tmp_path / "m.xlsx").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"m\.xlsx is not a manifest: known are \.csv, \.jsonl"):
        read_manifest(tmp_path / "m.xlsx")
    with pytest.raises(ManifestError, match=r"there is no manifest .*m\.csv"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(
        ManifestError, match=r"no images with captions.*neither Parquet nor \.tar.*state\.json"
    ):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="is compressed: decompress it"):
        read_manifest(tmp_path / "shard.tar.gz")


# 8, 9 ---------------------------------------------------------------------------------------------


def test_08_equal_scores_are_refused_with_an_explanation():
    with pytest.raises(ValueError, match="all 5 scores equal 3: no threshold separates"):
        estimate([3.0] * 5)
    with pytest.raises(ValueError, match="all 1 scores equal"):
        estimate([3.0])


def test_08_no_or_bad_scores_are_refused():
    with pytest.raises(ValueError, match="no scores were given"):
        estimate([])
    with pytest.raises(ValueError, match=r"2 of 4 scores are NaN or inf, at positions \[1, 3\]"):
        estimate([1.0, float("nan"), 2.0, float("inf")])
    with pytest.raises(TypeError, match="real numbers, got <U4"):
        estimate(["good", "bad"])


@pytest.mark.parametrize("change", [lambda s: s * 1e8, lambda s: s + 1e6])
@pytest.mark.parametrize("score_scale", ["std", "mad", "iqr"])
def test_09_scaled_scores_keep_labels_and_weights(change, score_scale):
    scores = np.random.default_rng(0).normal(0.26, 0.03, 501)
    for percentile in (30, 50, 70):
        before = estimate(scores, percentile, score_scale=score_scale)
        after = estimate(change(scores), percentile, score_scale=score_scale)
        assert np.array_equal(scores >= before.value, change(scores) >= after.value)
        first, second = describe(scores, before), describe(change(scores), after)
        for name in ("weight_min", "weight_median", "weight_p90", "weight_max"):
            assert getattr(second, name) == pytest.approx(getattr(first, name), rel=1e-6)


# 10 -----------------------------------------------------------------------------------------------


def test_10_an_empty_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="has no rows"):
        read_manifest(write_csv(tmp_path))
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(ManifestError, match="not even a header"):
        read_manifest(tmp_path / "empty.csv")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(ManifestError, match="has no rows"):
        read_manifest(tmp_path / "empty.jsonl")


def test_10_fewer_rows_than_the_global_batch_are_refused():
    settings = {"micro_batch": 1, "accumulation": 1, "seed": 0}
    with pytest.raises(ValueError, match=r"3 rows are fewer than the global batch of 4.*4 ranks"):
        BatchSampler([(8, 8)] * 3, world_size=4, **settings)
    with pytest.raises(ValueError, match="data set is empty"):
        BatchSampler([], world_size=1, **settings)


# 11 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "change", "fields"),
    [
        (FakeEncoder("sharper"), {}, ["vae is 'average' there and 'sharper' here"]),
        (FakeEncoder(), {"resolution": 40}, ["resolution is '32'", "buckets is "]),
        (FakeEncoder(), {"buckets": False}, ["buckets is '24x40 32x32 40x24'"]),
        (FakeEncoder(), {"dtype": torch.float16}, ["dtype is .* and 'float16' here"]),
        (FakeEncoder(), {"shard_size": 7}, ["shard_size is '6' there and '7' here"]),
    ],
)
def test_11_every_differing_field_is_named(built, encoder, change, fields):
    manifest, folder = built
    with pytest.raises(CacheError, match=r".*".join(fields)):
        build_cache(manifest, folder, encoder, **{**SETTINGS, **change})
    wanted = {"resolution": 32, "shard_size": 6, **change}
    with pytest.raises(CacheError, match=r".*".join(fields)):
        LatentCache(folder).check(fingerprint_of(encoder, **wanted))


def test_11_a_field_that_the_cache_lacks_is_named(built):
    with pytest.raises(CacheError, match="tokenizer is 'nothing' there and 'x' here"):
        LatentCache(built[1]).check({"tokenizer": "x"})


def test_11_a_folder_with_other_files_is_left_alone(built, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CacheError, match="holds files but no fingerprint.json"):
        build_cache(built[0], tmp_path, FakeEncoder(), **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(CacheError, match="is not a cache"):
        LatentCache(tmp_path)


# 24 -----------------------------------------------------------------------------------------------


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "name",
    [
        "latents-00000.safetensors",
        "text-00000.safetensors",
        "index.safetensors",
        "cache.json",
        "fingerprint.json",
        "latents-00000.json",
    ],
)
def test_24_a_pickle_in_a_cache_is_never_loaded(cache_copy, tmp_path, name):
    manifest, folder = cache_copy
    trap = pickle.dumps(Trap(str(tmp_path / "sprung")))
    (folder / name).write_bytes(trap)
    content = json.loads((folder / "cache.json").read_bytes()) if name != "cache.json" else None
    if content is not None:  # sizes as expected: only the content betrays it
        del content["seal"]
        for entry in [*content["shards"], content["index"]]:
            if entry["file"] == name:
                entry["bytes"] = len(trap)
        write_sealed(folder / "cache.json", content)
    try:
        cache = LatentCache(folder)
        cache.batch(manifest.sample_ids()[:1])
        cache.text([""])
        list(cache.records())
    except ValueError as error:
        assert name in str(error)
    else:
        assert name == "fingerprint.json"  # not needed for reading
    assert not (tmp_path / "sprung").exists()


def test_24_a_pickle_as_image_or_manifest_is_never_loaded(tmp_path):
    trap = pickle.dumps(Trap(str(tmp_path / "sprung")))
    with pytest.raises(ImageError):
        decode_image(trap)
    for suffix in ("csv", "jsonl", "parquet", "tar"):
        (tmp_path / f"m.{suffix}").write_bytes(trap)
        with pytest.raises(ManifestError):
            read_manifest(tmp_path / f"m.{suffix}")
    assert not (tmp_path / "sprung").exists()


def test_24_a_cache_cannot_name_files_elsewhere(cache_copy):
    folder = cache_copy[1]
    content = json.loads((folder / "cache.json").read_text())
    content["shards"][0]["file"] = "../../secret.safetensors"
    del content["seal"]
    write_sealed(folder / "cache.json", content)
    with pytest.raises(CacheError, match="is outside the folder; refused"):
        LatentCache(folder)


# 25 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("../1.png", "climbs with"),
        ("images/../../1.png", "climbs with"),
        ("/etc/passwd", "is absolute and outside the data folder"),
        ("https://example.com/1.png", "is a URL"),
        ("../x.tar#1.png", "climbs with"),
    ],
)
def test_25_paths_out_of_the_data_folder_are_refused(tmp_path, image, reason):
    path = write_csv(tmp_path, "a,1.png,1", f"b,{image},2")
    with pytest.raises(ManifestError, match=f"line 3: .*{image}.* {reason}"):
        read_manifest(path)


def test_25_absolute_paths_inside_are_fine(tmp_path):
    folder = tmp_path.resolve()
    make_image(0).save(folder / "1.png")
    manifest = read_manifest(write_csv(folder, f"a,{folder}/1.png,1"))
    assert decode_image(manifest.open_image(manifest.rows[0])).size == (32, 32)


def test_25_links_out_of_the_data_folder_are_refused(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir(), inside.mkdir()
    make_image(0).save(outside / "secret.png")
    (inside / "file.png").symlink_to(outside / "secret.png")
    (inside / "folder").symlink_to(outside)
    make_image(1).save(inside / "real.png")
    (inside / "alias.png").symlink_to("real.png")
    rows = ("a,file.png,1", "b,folder/secret.png,2", "c,alias.png,3")
    manifest = read_manifest(write_csv(inside, *rows))
    for row in manifest.rows[:2]:
        with pytest.raises(ManifestError, match="link out of the data folder"):
            manifest.open_image(row)
    assert decode_image(manifest.open_image(manifest.rows[2])).size == (40, 20)
    with pytest.raises(ManifestError, match="link out of the data folder"):
        build_cache(manifest, tmp_path / "cache", FakeEncoder(), **SETTINGS)


def tar_with(path, *, name="1.png", kind=tarfile.REGTYPE, link=""):
    with tarfile.open(path, "w") as tar:
        data = encoded(make_image(0))
        for member in ("0.png", name):
            info = tarfile.TarInfo(member)
            if member == name:
                info.type, info.linkname = kind, link
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


@pytest.mark.parametrize("name", ["../1.png", "a/../../1.png", "/etc/1.png"])
def test_25_tar_members_out_of_the_folder_are_refused(tmp_path, name):
    path = tar_with(tmp_path / "x.tar", name=name)
    with pytest.raises(ManifestError, match=f"x.tar: member '{name}' .*refused"):
        read_manifest(path, require_scores=False)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_25_tar_links_and_devices_are_refused(tmp_path, kind):
    path = tar_with(tmp_path / "x.tar", kind=kind, link="/etc/passwd")
    with pytest.raises(ManifestError, match=r"member '1.png' is not a plain file but a link"):
        read_manifest(path, require_scores=False)
    rows = write_csv(tmp_path, "a,x.tar#0.png,1")
    manifest = read_manifest(rows)  # a manifest that points into such a tar
    with pytest.raises(ManifestError, match="is not a plain file but a link"):
        manifest.open_image(manifest.rows[0])


def test_25_a_dataset_folder_cannot_name_files_elsewhere(tmp_path):
    state = {"_data_files": [{"filename": "../data.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(ManifestError, match=r"names '../data.arrow', which is outside the folder"):
        read_manifest(tmp_path)


# 26 -----------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000, 2**31 - 1])
@pytest.mark.filterwarnings("error")
def test_26_a_gigantic_header_is_refused_before_decoding(side):
    with pytest.raises(ImageError, match=r"above the cap|decompression bomb|cannot be decoded"):
        decode_image(png_header(side, side))


def test_26_the_caps_name_value_and_limit():
    data = encoded(Image.new("RGB", (100, 50)))
    with pytest.raises(ImageError, match=r"100 x 50 pixels are above the cap of 4999 \(max_pixels"):
        decode_image(data, max_pixels=4999)
    assert decode_image(data, max_pixels=5000).size == (100, 50)
    with pytest.raises(ImageError, match=r"bytes are above the cap of 10 \(max_bytes"):
        decode_image(data, max_bytes=10)


def test_26_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "big.png", "wb") as handle:
        handle.truncate(2**40)  # sparse: a terabyte
    store = store_of(tmp_path)
    with pytest.raises(ImageError, match="1099511627776 bytes are above the cap"):
        store.read("big.png")
