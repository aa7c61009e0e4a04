from __future__ import annotations

import json

import pytest
import torch

from tests.rewards import published
from tests.rewards.original_preprocessing import crop_of_shorter_side
from tglo.rewards import load_scorer


def tokens(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """WordPiece over letters, by hand: (B, 35) ids and 1 where there is a token."""
    ids = torch.zeros(len(prompts), 35, dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        pieces = ["[CLS]"]
        for word in prompt.lower().replace("ä", "a").split():
            pieces += [word[0], *(f"##{letter}" for letter in word[1:])]
        pieces = [*pieces[:34], "[SEP]"]
        row[: len(pieces)] = torch.tensor([published.WORDS.index(piece) for piece in pieces])
    return ids, (ids != 0).long()


def test_it_equals_blip_with_the_head(tmp_path):
    folder, original = published.imagereward_folder(tmp_path / "ir")
    images, prompts = published.images(), [*published.prompts(5), "long " * 40]
    pixels = torch.stack([crop_of_shorter_side(image, 32) for image in images])
    expected = original(pixels, *tokens(prompts))
    found = load_scorer(f"imagereward={folder}", device="cpu")(images, prompts)
    assert found.dtype == "float64" and found.std() > 0.05
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    other = load_scorer(f"imagereward={folder}", device="cpu")(images[::-1], prompts)
    assert abs(other - found).max() > 0.01  # the image is seen


def test_bf16_is_close(tmp_path):
    folder, _ = published.imagereward_folder(tmp_path / "ir")
    images, prompts = published.images(), published.prompts()
    exact = load_scorer(f"imagereward={folder}", device="cpu")(images, prompts)
    half = load_scorer(f"imagereward={folder}", device="cpu", dtype="bf16")(images, prompts)
    assert half == pytest.approx(exact, abs=0.1) and (half != exact).any()


def test_files_that_do_not_fit_are_refused(tmp_path):
    folder, original = published.imagereward_folder(tmp_path / "ir")
    settings = json.loads((folder / "med_config.json").read_text())
    del settings["vocab_size"]
    (folder / "med_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"med_config\.json lacks vocab_size"):
        load_scorer(f"imagereward={folder}", device="cpu")
    (folder / "med_config.json").write_text(json.dumps({**settings, "vocab_size": 9}))
    with pytest.raises(ValueError, match=r"misshapes 1 of .*word_embeddings"):
        load_scorer(f"imagereward={folder}", device="cpu")
    torch.save(original.blip.text_encoder.state_dict(), folder / "ImageReward.pt")
    with pytest.raises(ValueError, match=r"no blip\.visual_encoder\.\* weights"):
        load_scorer(f"imagereward={folder}/ImageReward.pt", device="cpu")
