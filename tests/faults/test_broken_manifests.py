"""Manifests and threshold files that are torn, of another kind, or half written by something else.

Each ends in a sentence with the file's name and a remedy, never in the parser's own error.
"""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from tests.cache.fake_encoder import FakeEncoder, make_manifest
from tglo.cache.build import build_cache
from tglo.cli import main
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest
from tglo.threshold.frozen import Threshold, estimate
from tglo.train import train
from tglo.train.config_files import parse_config

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        DEEP,
        '{"_data_files": null}',
        '{"_data_files": 3}',
        '{"_data_files": ["data.arrow"]}',
        '{"_data_files": [{}]}',
        '{"_data_files": [{"filename": null}]}',
        '{"_data_files": [{"filename": ["a"]}]}',
    ],
    ids=lambda state: state[:40],
)
def test_a_malformed_state_json(tmp_path, state):
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(
        ManifestError, match=r"state\.json is damaged or no .*: save the data set a"
    ):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content", ["null", "{}", '{"splits": []}', '{"splits": 3}', '{"splits": [1]}']
)
def test_a_malformed_dataset_dict(tmp_path, content):
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(
        ManifestError, match=r"dataset_dict\.json is damaged or no .*: save the data"
    ):
        read_manifest(tmp_path)


def test_a_missing_arrow_file(tmp_path):
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with pytest.raises(
        ManifestError, match=r"data\.arrow is damaged or no Arrow stream .*: copy it"
    ):
        read_manifest(tmp_path)


def test_json_that_is_nested_too_deeply(tmp_path):
    good = '{"prompt": "a", "image": "1.png", "score": 1}\n'
    (tmp_path / "m.jsonl").write_text(good + f'{{"x": {DEEP}\n' + good)
    with pytest.raises(ManifestError, match=r"m\.jsonl .*line 2: is not JSON .*nested too deeply"):
        read_manifest(tmp_path / "m.jsonl")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (("1.png", b"x"), ("1.json", DEEP.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(ManifestError, match=r"x\.tar: sample '1': it is nested too deeply"):
        read_manifest(tmp_path / "x.tar", require_scores=False)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".tar"])
@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"\0" * 2048, b"\x80" * 9, b'"'])
def test_bytes_that_are_no_manifest(tmp_path, suffix, content):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=rf"m\{suffix}"):
        read_manifest(path)


# Threshold files


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"per_prompt": [1]}, "its content has another form"),
        ({"per_prompt": None}, "its content has another form"),
        ({"per_prompt": {"a": "1"}}, "per_prompt of 'a' is '1', not a finite number"),
        ({"value": None}, "value is None, not a finite number"),
        ({"value": 10**400}, "too large"),
        ({"value": True}, "value is True"),
        ({"percentile": 101}, r"percentile is 101, not in \[0, 100\]"),
        ({"count": "many"}, "count is 'many'"),
        ({"kappa": "10"}, "kappa is '10'"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"score_scale": ["none"]}, "unknown score_scale"),
        ({"scores_sha256": 5}, "scores_sha256 is 5"),
    ],
)
def test_a_malformed_threshold_file(tmp_path, change, cause):
    path = tmp_path / "t.json"
    estimate([1.0, 2.0]).save(path)
    content = {**json.loads(path.read_text()), **change}
    del content["seal"]  # as an edit by hand does
    path.write_text(json.dumps(content))
    message = (
        rf"t\.json is damaged or no threshold file \(.*{cause}.*\): write it again with `tglo th"
    )
    with pytest.raises(ValueError, match=message):
        Threshold.load(path)


@pytest.mark.parametrize("content", ["", "{", DEEP, "[]", "3", '{"format": []}'])
def test_what_is_no_threshold_file(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=r"t\.json is (damaged or no|not a) threshold file"):
        Threshold.load(tmp_path / "t.json")


# 10: before any model is loaded. There is none, and nothing says so.


def config_of(folder, **sections):
    plain = {
        "model": {"path": "./no-such-model"},
        "data": {"manifest": str(folder / "manifest.csv"), "cache": str(folder / "cache")},
        "output": {"folder": str(folder / "run")},
        "engine": {"device": "cpu"},
    }
    return parse_config({name: {**part, **sections.get(name, {})} for name, part in plain.items()})


def test_10_an_empty_manifest_stops_before_the_model(tmp_path):
    (tmp_path / "manifest.csv").write_text("prompt,image,score\n")
    with pytest.raises(ManifestError, match=r"manifest\.csv has no rows"):
        train(config_of(tmp_path))


def test_a_missing_threshold_file_is_named_with_its_key(tmp_path):
    manifest = make_manifest(tmp_path, 4)
    assert len(manifest) == 4
    message = (
        r"there is no threshold file .*t\.json \(data\.threshold\): write it with `tglo threshold`"
    )
    with pytest.raises(ValueError, match=message):
        train(config_of(tmp_path, data={"threshold": str(tmp_path / "t.json")}))


def test_10_fewer_rows_than_the_batch_stop_before_the_model(tmp_path):
    manifest = make_manifest(tmp_path, 3)
    build_cache(manifest, tmp_path / "cache", FakeEncoder(), resolution=32, progress=False)
    with pytest.raises(ValueError, match=r"3 rows are fewer than the global batch of 4"):
        train(config_of(tmp_path))


def test_the_command_prints_a_line_and_fails(tmp_path, capsys):
    (tmp_path / "state.json").write_text("{}")
    assert main(["threshold", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "state.json is damaged" in printed and "Traceback" not in printed
