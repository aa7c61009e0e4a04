from __future__ import annotations

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.rewards import published
from tests.rewards.original_preprocessing import crop_of_shorter_side
from tglo.rewards import load_scorer


def test_it_equals_the_model_card(tmp_path):
    folder = published.clip_folder(tmp_path / "pickscore", act="gelu")
    images, prompts = published.images(), published.prompts()
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    plain = torch.stack([crop_of_shorter_side(image, 28, floor=True) for image in images])
    assert pixels == pytest.approx(plain, abs=1e-6)
    tokens = tokenizer(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=pixels, **tokens)
    expected = output.logits_per_image.diagonal()
    found = load_scorer(f"pickscore={folder}", device="cpu")(images, prompts)
    assert found.dtype == "float64" and found.std() > 0.1
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_logit_scale_is_the_models_own(tmp_path):
    folder = published.clip_folder(tmp_path / "pickscore")
    images, prompts = published.images(2), published.prompts(2)
    before = load_scorer(f"pickscore={folder}", device="cpu")(images, prompts)
    model = CLIPModel.from_pretrained(folder)
    model.logit_scale.data += 1
    model.save_pretrained(folder)
    after = load_scorer(f"pickscore={folder}", device="cpu")(images, prompts)
    assert after == pytest.approx(before * 2.718281828, rel=1e-6)
