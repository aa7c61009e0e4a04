from __future__ import annotations

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from tests.rewards import published
from tests.rewards.original_preprocessing import crop_of_shorter_side
from tglo.rewards import load_scorer


def test_it_is_a_hundred_times_the_cosine(tmp_path):
    folder = published.clip_folder(tmp_path / "clip")
    images, prompts = published.images(), published.prompts()
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    pixels = torch.stack([crop_of_shorter_side(image, 28) for image in images])
    with torch.no_grad():
        image = model.get_image_features(pixels).pooler_output
        text = [
            model.get_text_features(**tokenizer(prompt, return_tensors="pt")).pooler_output[0]
            for prompt in prompts
        ]
    expected = 100 * torch.cosine_similarity(image, torch.stack(text))
    found = load_scorer(f"clip={folder}", device="cpu")(images, prompts)
    assert found.dtype == "float64" and found.std() > 1
    assert found == pytest.approx(expected.numpy(), abs=2e-5)
    model.visual_projection.weight.data *= -1
    model.save_pretrained(folder)
    negative = load_scorer(f"clip={folder}", device="cpu")(images, prompts)
    assert negative.max() < 0  # not cut off at 0
    assert negative == pytest.approx(-found, abs=2e-5)


def test_a_folder_without_the_text_tower_is_refused(tmp_path):
    folder = published.clip_folder(tmp_path / "clip")
    model = CLIPModel.from_pretrained(folder)
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("text_model.")}
    model.save_pretrained(folder, state_dict=kept)
    with pytest.raises(ValueError, match=r"lacks \d+ of a CLIPModel's weights \(text_model"):
        load_scorer(f"clip={folder}", device="cpu")
