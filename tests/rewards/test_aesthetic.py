from __future__ import annotations

import pytest
import torch
from transformers import CLIPModel

from tests.rewards import published
from tests.rewards.original_preprocessing import crop_of_shorter_side
from tests.rewards.originals import LinearHead
from tglo.rewards import load_scorer


def test_it_equals_the_head_on_normalised_embeddings(tmp_path):
    folder, head = published.aesthetic_folder(tmp_path / "aesthetic")
    images = published.images()
    pixels = torch.stack([crop_of_shorter_side(image, 28) for image in images])
    with torch.no_grad():
        features = CLIPModel.from_pretrained(folder / "clip").get_image_features(pixels)
        embeddings = features.pooler_output
        expected = head(embeddings / embeddings.norm(dim=-1, keepdim=True))[:, 0]
    scorer = load_scorer(f"aesthetic={folder}", device="cpu")
    found = scorer(images, published.prompts())
    assert found.dtype == "float64" and found.std() > 0.01
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert scorer(images, [""] * len(images)).tolist() == found.tolist()


def test_a_head_for_other_embeddings_is_refused(tmp_path):
    folder, _ = published.aesthetic_folder(tmp_path / "aesthetic")
    torch.save(LinearHead(25).state_dict(), folder / "sac+logos+ava1-l14-linearMSE.pth")
    with pytest.raises(ValueError, match=r"\(24, 25\), .*must lead from 24 values to 1"):
        load_scorer(f"aesthetic={folder}", device="cpu")
