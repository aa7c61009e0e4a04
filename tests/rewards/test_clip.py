from __future__ import annotations

import html
import re

import ftfy
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.rewards import published
from tests.rewards.original_preprocessing import crop_of_shorter_side
from tests.rewards.originals import LinearHead
from tglo.rewards import load_scorer
from tglo.rewards.clip import clean


# What OpenAI's and open_clip's simple_tokenizer.py do before they lower the case.
def original_clean(text: str) -> str:
    text = ftfy.fix_text(text)
    text = html.unescape(html.unescape(text))
    return re.sub(r"\s+", " ", text.strip()).strip()


PROMPTS = [
    "plain words",
    " it\u2019s \u201ca\u201d b &amp;amp; c\n",
    "\uff41 \uff23\uff21\uff34",  # fullwidth
    "a \ufb01ne \ufb02ower",  # ligatures
    "bell\x07 and \x1b[31mred\x1b[0m",  # control characters
    "caf\u00c3\u00a9 \u00e2\u20ac\u201dnight",  # UTF-8 that was read as Latin 1
    "&lt;b&gt; &#39;x&#39; &eacute; <a &amp; b>",
    "tabs\tand\r\nlines  two blanks\u00a0\u3000wide",
    "e\u0301 decomposed",
    "\ufeffmark \u2026 \u2014 \U0001f600",
    "",
    "   ",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_are_cleaned_as_by_the_originals(prompt):
    assert clean([prompt]) == [original_clean(prompt)]


def test_what_the_cleaning_is_for():
    assert clean(PROMPTS[1:6]) == [
        'it\'s "a" b & c',
        "a CAT",
        "a fine flower",
        "bell and red",
        "caf\u00e9 \u2014night",
    ]


def test_the_clip_score_is_a_hundred_times_the_cosine(tmp_path):
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


def test_a_clip_folder_without_the_text_tower_is_refused(tmp_path):
    folder = published.clip_folder(tmp_path / "clip")
    model = CLIPModel.from_pretrained(folder)
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("text_model.")}
    model.save_pretrained(folder, state_dict=kept)
    with pytest.raises(ValueError, match=r"lacks \d+ of a CLIPModel's weights \(text_model"):
        load_scorer(f"clip={folder}", device="cpu")


def test_pickscore_equals_the_model_card(tmp_path):
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


def test_the_logit_scale_of_pickscore_is_the_models_own(tmp_path):
    folder = published.clip_folder(tmp_path / "pickscore")
    images, prompts = published.images(2), published.prompts(2)
    before = load_scorer(f"pickscore={folder}", device="cpu")(images, prompts)
    model = CLIPModel.from_pretrained(folder)
    model.logit_scale.data += 1
    model.save_pretrained(folder)
    after = load_scorer(f"pickscore={folder}", device="cpu")(images, prompts)
    assert after == pytest.approx(before * 2.718281828, rel=1e-6)


def test_aesthetic_equals_the_head_on_normalised_embeddings(tmp_path):
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


def test_an_aesthetic_head_for_other_embeddings_is_refused(tmp_path):
    folder, _ = published.aesthetic_folder(tmp_path / "aesthetic")
    torch.save(LinearHead(25).state_dict(), folder / "sac+logos+ava1-l14-linearMSE.pth")
    with pytest.raises(ValueError, match=r"\(24, 25\), .*must lead from 24 values to 1"):
        load_scorer(f"aesthetic={folder}", device="cpu")
