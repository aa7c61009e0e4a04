from __future__ import annotations

import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from tests.rewards import published
from tests.tiny import build_tokenizer
from tglo.rewards import MODELS, load_scorer
from tglo.rewards.weights import load_state, locate, parse


def test_places_in_a_scorers_name():
    assert parse("hpsv2") == ("hpsv2", {})
    assert parse("hpsv2=./a.pt") == ("hpsv2", {"weights": "./a.pt"})
    expected = ("clip", {"weights": "a/b", "tokenizer": "./t"})
    assert parse("clip=a/b,tokenizer=./t") == expected
    assert parse("hpsv2,tokenizer=./t") == ("hpsv2", {"tokenizer": "./t"})
    for text in ("hpsv2=", "hpsv2,", "hpsv2=./a,tokenizer", "=./a"):
        with pytest.raises(ValueError, match="not of the form NAME=PLACE,PART=PLACE"):
            parse(text)
    with pytest.raises(ValueError, match="names 'tokenizer' twice"):
        parse("hpsv2,tokenizer=./a,tokenizer=./b")


def test_parts_are_found_beside_the_weights_or_where_they_are_named(tmp_path):
    folder, _ = published.hpsv2_folder(tmp_path / "hps")
    expected = load_scorer(f"hpsv2={folder}", device="cpu")(published.images(2), ["a", "b"])
    file = folder / "HPS_v2.1_compressed.pt"
    elsewhere = tmp_path / "other-name.pt"
    elsewhere.write_bytes(file.read_bytes())
    build_tokenizer().save_pretrained(tmp_path / "words")
    for text in (
        f"hpsv2={file}",
        f"hpsv2=path:{file}",
        f"hpsv2={elsewhere},tokenizer={folder}/tokenizer",
        f"hpsv2={elsewhere},tokenizer={tmp_path}/words",
    ):
        found = load_scorer(text, device="cpu")(published.images(2), ["a", "b"])
        assert found.tolist() == expected.tolist()


def test_a_missing_file_says_what_to_download_and_where_to_put_it(tmp_path):
    (tmp_path / "empty").mkdir()
    for text, parts in {
        f"hpsv2={tmp_path}/empty": ("HPS_v2.1_compressed.pt", "huggingface.co/xswu/HPSv2"),
        f"hpsv2={tmp_path}/absent.pt": ("absent.pt does not exist", "HPS_v2.1_compressed.pt"),
        f"pickscore={tmp_path}/empty": ("model.safetensors", "yuvalkirstain/PickScore_v1"),
        f"clip={tmp_path}/empty": ("config.json", "openai/clip-vit-large-patch14"),
        f"imagereward={tmp_path}/empty": ("ImageReward.pt", "huggingface.co/THUDM/ImageReward"),
        f"aesthetic={tmp_path}/empty": (
            "sac+logos+ava1-l14-linearMSE.pth",
            "github.com/christophschuhmann/improved-aesthetic-predictor",
        ),
        "aesthetic": ("is not on the hub", "--scorer aesthetic=./PLACE"),
    }.items():
        with pytest.raises(ValueError) as error:
            load_scorer(text, device="cpu")
        assert all(part in str(error.value) for part in parts), error.value
    folder, _ = published.aesthetic_folder(tmp_path / "aesthetic")
    for file in (folder / "clip").iterdir():
        file.unlink()
    with pytest.raises(ValueError) as error:  # on the hub, and there is none in the tests
        load_scorer(f"aesthetic={folder}", device="cpu")
    message = str(error.value)
    assert "cannot get clip from the hub (openai/clip-vit-large-patch14" in message
    assert "--scorer aesthetic=...,clip=./PLACE" in message


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"aesthetic"}))
def test_without_a_hub_each_model_says_where_its_weights_are(tmp_path, name):
    (tmp_path / "asked.txt").write_text("x")
    text = f"hpsv3,instruction={tmp_path}/asked.txt" if name == "hpsv3" else name
    with pytest.raises(ValueError, match=rf"cannot get weights from the hub .*{name}=\./PLACE"):
        load_scorer(text, device="cpu")


def test_names_that_lead_nowhere():
    with pytest.raises(ValueError, match=r"no part 'tokeniser' \(did you mean 'tokenizer'\?\)"):
        load_scorer("hpsv2,tokeniser=./x")
    with pytest.raises(ValueError, match=r"'weights' is not a hub id .* = \./weights"):
        load_scorer("hpsv2=weights")
    with pytest.raises(ValueError, match=r"no scorer 'hpsv22' \(did you mean 'hpsv2'\?\)"):
        load_scorer("hpsv22=./x")
    with pytest.raises(ValueError, match=r"ink has no files to name, got 'ink=\./x'"):
        load_scorer("ink=./x")
    with pytest.raises(ValueError, match="device is 'gpu'"):
        load_scorer("hpsv2=./x", device="gpu")
    with pytest.raises(ValueError, match="dtype is 'float'; use one of fp32, bf16, fp16"):
        load_scorer("hpsv2=./x", device="cpu", dtype="float")


def test_the_hub_gives_what_was_not_named(tmp_path, monkeypatch):
    folder, _ = published.hpsv2_folder(tmp_path / "hps")
    asked = []

    def snapshot_download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(folder if repository == "xswu/HPSv2" else folder / "tokenizer")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    from tglo.rewards.hpsv2 import HPSv2

    found = locate("hpsv2", {}, HPSv2.parts)
    assert found == {
        "weights": folder / "HPS_v2.1_compressed.pt",
        "tokenizer": folder / "tokenizer",
    }
    assert [repository for repository, _ in asked] == [
        "xswu/HPSv2",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ]
    assert not any(pattern.endswith((".bin", ".py")) for _, some in asked for pattern in some)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_file_that_would_run_code_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": {"x": torch.ones(1)}, "extra": Harmful()}, path)
    with pytest.raises(ValueError, match="is torn, or holds something other than tensors"):
        load_state(path)
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(ValueError, match="is torn, or holds something other than tensors"):
        load_state(path)
    assert not (tmp_path / "harm").exists()


def test_state_dicts(tmp_path):
    state = {"a": torch.arange(3.0)}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "nested.pt")
    save_file(state, tmp_path / "safe.safetensors")
    for name in ("plain.pth", "nested.pt", "safe.safetensors"):
        assert load_state(tmp_path / name)["a"].tolist() == [0, 1, 2]
    whole = (tmp_path / "nested.pt").read_bytes()
    for cut in (0, 10, len(whole) // 2):
        (tmp_path / "torn.pt").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/torn.pt is torn")):
            load_state(tmp_path / "torn.pt")
    (tmp_path / "torn.pt").write_bytes(b"abc")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/torn.pt is torn")):
        load_state(tmp_path / "torn.pt")
    torch.save({"epoch": 1}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="no state dict of tensors"):
        load_state(tmp_path / "none.pt")


def test_a_torn_safetensors_file_is_named(tmp_path):
    path = tmp_path / "torn.safetensors"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"torn\.safetensors is torn.*download it again"):
        load_state(path)
