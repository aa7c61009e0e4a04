from __future__ import annotations

import pytest
import torch

from tests.rewards import published
from tests.rewards.original_preprocessing import letterboxed
from tests.tiny import build_tokenizer
from tglo.rewards import load_scorer
from tglo.rewards.hpsv2 import HPSv2
from tglo.rewards.weights import locate


def tokens(prompts: list[str]) -> torch.Tensor:
    """(B, 77): as open_clip, zeros after the end token."""
    rows = torch.zeros(len(prompts), 77, dtype=torch.long)
    for row, prompt in zip(rows, prompts, strict=True):
        ids = build_tokenizer()(prompt)["input_ids"]
        ids = ids if len(ids) <= 77 else [*ids[:76], ids[-1]]
        row[: len(ids)] = torch.tensor(ids)
    return rows


@pytest.mark.parametrize("antialias", [True, False])
def test_it_equals_open_clip(tmp_path, antialias):
    folder, original = published.hpsv2_folder(tmp_path / "hps")
    images, prompts = published.images(), [*published.prompts(5), "long " * 40]
    pixels = torch.stack([letterboxed(image, 28, antialias) for image in images])
    expected = original.similarity(pixels, tokens(prompts))
    files = locate("hpsv2", {"weights": f"{folder}"}, HPSv2.parts)
    found = HPSv2(files, antialias=antialias)(images, prompts)
    assert found.dtype == "float64" and found.std() > 0.05
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


def test_prompts_are_cleaned_as_open_clip_does(tmp_path):
    folder, _ = published.hpsv2_folder(tmp_path / "hps")
    scorer = load_scorer(f"hpsv2={folder}", device="cpu")
    image = published.images(1)
    plain = scorer(image, ['it\'s "a" b & c'])
    assert scorer(image, [" it\u2019s \u201ca\u201d b &amp;amp; c\n"]) == plain
    assert scorer(image, ["it s a b c"]) != plain


def test_half_precision_weights_and_computation(tmp_path):
    folder, original = published.hpsv2_folder(tmp_path / "hps")
    images, prompts = published.images(), published.prompts()
    exact = load_scorer(f"hpsv2={folder}", device="cpu")(images, prompts)
    half = {"state_dict": {k: v.half() for k, v in original.state_dict().items()}}
    torch.save(half, folder / "HPS_v2.1_compressed.pt")  # as it is published
    stored = load_scorer(f"hpsv2={folder}", device="cpu")(images, prompts)
    assert stored == pytest.approx(exact, abs=5e-3) and (stored != exact).any()
    computed = load_scorer(f"hpsv2={folder}", device="cpu", dtype="bf16")(images, prompts)
    assert computed == pytest.approx(exact, abs=5e-2) and (computed != stored).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.proj"), r"no 'visual_projection\.weight'"),
        (lambda s: s.pop("ln_final.bias"), r"lacks 1 of .*text_model\.final_layer_norm\.bias"),
        (lambda s: s.update({"visual.head": torch.ones(1)}), r"unknown 1 of .*visual\.head"),
        (
            lambda s: s.update({"visual.ln_pre.bias": torch.ones(2)}),
            r"misshapes 1 of .*pre_layrnorm\.bias",
        ),
    ],
)
def test_another_models_file_is_refused(tmp_path, change, message):
    folder, original = published.hpsv2_folder(tmp_path / "hps")
    state = original.state_dict()
    change(state)
    torch.save({"state_dict": state}, folder / "HPS_v2.1_compressed.pt")
    with pytest.raises(ValueError, match=message):
        load_scorer(f"hpsv2={folder}", device="cpu")
