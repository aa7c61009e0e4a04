from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cache.fake_encoder import make_manifest
from tests.rewards import published, published_qwen2vl
from tests.rewards.original_qwen2vl import MEAN, STD
from tests.rewards.published_qwen2vl import JUDGE, NORM
from tests.rewards.test_hpsv3 import tokens
from tglo.rewards import Video, load_scorer, score_manifest
from tglo.rewards.qwen2_vl import resized
from tglo.rewards.videoreward import REWARDS, prepare, sampled
from tglo.rewards.videoreward_files import settings_of


def video(seed: int, count: int, rate: float, size=(60, 40)) -> Video:
    random = np.random.default_rng(seed)
    still = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    frames = []
    for shift in range(count):
        image = Image.fromarray(np.roll(still, shift, 1)).resize(size, Image.Resampling.BICUBIC)
        frames.append(image)
    return Video(frames, rate)


VIDEOS = [(0, 9, 4.0), (1, 6, 8.0, (31, 90)), (2, 5, 2.0), (3, 30, 10.0, (200, 28))]


def original_rewards(original, videos, prompts, rows, instruction):
    """(B, 3): frames by numpy and torchvision's rule, the head at each token, normalised."""
    found = []
    for clip, prompt in zip(videos, prompts, strict=True):
        count = len(clip.frames)
        wanted = min(max(count / clip.rate * 2, 4), min(768, count) // 2 * 2)
        wanted = round(wanted / 2) * 2
        chosen = [clip.frames[int(np.round(n))] for n in np.linspace(0, count - 1, wanted)]
        raw = torch.tensor(np.stack([np.asarray(f) for f in chosen])).permute(0, 3, 1, 2)
        size = resized(raw.shape[2], raw.shape[3], 128 * 28 * 28, 200704)
        raw = torch.nn.functional.interpolate(raw, size=size, mode="bicubic", antialias=True)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        pixels = (raw.float() / 255 - mean) / std
        count = wanted // 2 * size[0] * size[1] // 28**2
        ids = tokens(prompt, count, 261, instruction, REWARDS)
        logits = original(pixels, ids, 261, [262, 263, 264])
        raw = logits[:, 0] if rows == 1 else logits.diagonal()
        found.append([(float(r) - m) / s for r, (m, s) in zip(raw, NORM.values(), strict=True)])
    return np.array(found)


@pytest.mark.parametrize(("rows", "full"), [(1, True), (3, True), (1, False)])
def test_it_equals_qwen2_vl_with_the_head(tmp_path, rows, full):
    folder, original = published_qwen2vl.videoreward_folder(tmp_path / "vr", rows, full=full)
    videos, prompts = [video(*v) for v in VIDEOS], ["a cat", "", "é {text_prompt}", "long " * 50]
    truth = original_rewards(original, videos, prompts, rows, JUDGE)
    scorer = load_scorer(f"videoreward={folder}", device="cpu")
    found = scorer(videos, prompts)
    assert found.dtype == "float64" and found.std() > 0.01
    assert found == pytest.approx(truth.sum(1), abs=3e-5)
    with torch.inference_mode():
        assert scorer.network.score(videos, prompts).numpy() == pytest.approx(truth, abs=1e-5)
    for column, name in enumerate(("vq", "mq", "ta")):
        alone = load_scorer(f"videoreward_{name}={folder}", device="cpu")
        assert alone(videos, prompts) == pytest.approx(truth[:, column], abs=1e-5)
    assert abs(scorer(videos[::-1], prompts) - found).max() > 1e-3  # the video is seen


def test_a_batch_of_one_and_of_eight(tmp_path):
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr")
    scorer = load_scorer(f"videoreward={folder}", device="cpu")
    videos, prompts = [video(n, 3 + n, 4.0, (40 + n, 30)) for n in range(8)], published.prompts(8)
    alone = [scorer([v], [p])[0] for v, p in zip(videos, prompts, strict=True)]
    assert scorer(videos, prompts) == pytest.approx(alone, abs=3e-5)
    assert scorer([], []).shape == (0,)
    with pytest.raises(ValueError, match="1 videos but 2 prompts"):
        scorer(videos[:1], prompts[:2])


@pytest.mark.parametrize(
    ("count", "rate", "seen"),
    [
        (81, 16.0, [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]),
        (3, 24.0, [0, 2]),
        (2, 1.0, [0, 1]),
        (1, 24.0, [0, 0]),
        (24, 24.0, [0, 8, 15, 23]),
    ],
)
def test_frames_that_are_seen(count, rate, seen):
    assert sampled(count, rate, 2.0) == seen


def test_a_long_video_is_bounded():
    assert len(sampled(100_000, 24.0, 2.0)) == 768 and len(sampled(1001, 1.0, 2.0)) == 768


def test_videos_that_cannot_be_scored():
    for count, rate in ((0, 24.0), (5, 0.0), (5, float("nan"))):
        with pytest.raises(ValueError, match="it needs one and a rate"):
            sampled(count, rate, 2.0)
    mixed = Video([Image.new("RGB", (30, 30)), Image.new("RGB", (30, 31))], 2.0)
    with pytest.raises(ValueError, match="frames of 2 sizes"):
        prepare(mixed, 2.0, 200704)
    odd = prepare(Video([Image.new("L", (1, 300))] * 3, 2.0), 2.0, 200704)
    assert odd.shape[0] == 2 and odd.shape[2] % 28 == odd.shape[3] % 28 == 0


def test_a_manifest_of_images_is_not_scored_by_it(tmp_path):
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr")
    scorer = load_scorer(f"videoreward={folder}", device="cpu")
    with pytest.raises(ValueError, match="the scorer score takes videos"):
        score_manifest(make_manifest(tmp_path, 2), scorer, progress=False)


def test_other_weights_are_another_identity_and_wrong_files_are_refused(tmp_path):
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr")
    first = load_scorer(f"videoreward={folder}", device="cpu").identity
    path = folder / "checkpoint-7" / "model.pth"
    state = torch.load(path, weights_only=True)
    head = "base_model.model.rm_head.weight"
    torch.save({**state, head: state[head] + 1}, path)
    assert load_scorer(f"videoreward={folder}", device="cpu").identity != first
    lora = next(name for name in state if ".lora_B." in name)
    for changed, message in (
        ({**state, head: torch.zeros(2, 32)}, r"rm_head\.weight is \(2, 32\)"),
        ({k: v for k, v in state.items() if k != lora}, "without its other half"),
        ({k: v for k, v in state.items() if "norm1" not in k}, "lacks 4 of the model's weights"),
    ):
        torch.save(changed, path)
        with pytest.raises(ValueError, match=message):
            load_scorer(f"videoreward={folder}", device="cpu")
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"model\.pth is torn"):
        load_scorer(f"videoreward={folder}", device="cpu")
    path.unlink()
    with pytest.raises(ValueError, match="has no checkpoint-N folder with model.pth, or"):
        load_scorer(f"videoreward={folder}", device="cpu")
    torch.save(state, path)
    config = json.loads((folder / "model_config.json").read_text())
    config["data_config"]["sample_type"] = "multi_pts"
    (folder / "model_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="sample_type is 'multi_pts'; known is 'uniform'"):
        load_scorer(f"videoreward={folder}", device="cpu")
    del config["inference_config"]
    (folder / "model_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lacks 'inference_config'; give the published"):
        load_scorer(f"videoreward={folder}", device="cpu")


def test_a_lora_needs_the_whole_base(tmp_path):
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr", full=False)
    next((folder / "base").glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"holds a LoRA, and .*base no model\*\.safetensors"):
        load_scorer(f"videoreward={folder}", device="cpu")


@pytest.mark.parametrize("fps", [2.0, 1.0, 3.0, 8.0])
def test_frames_that_were_seen_are_seen_again(fps):
    """What `choose` took of a file has another number and rate, and the model still sees all of it."""
    for rate in (2.0, 8.0, 16.0, 24.0, 25.0, 30000 / 1001, 120.0):
        for count in (*range(1, 130), 1000, 12345, 864_000):
            seen = len(sampled(count, rate, fps))
            assert sampled(seen, seen * rate / count, fps) == list(range(seen)), (count, rate)


@pytest.mark.parametrize("size", [(60, 40), (31, 90), (640, 360), (1, 300), (28, 28), (448, 448)])
def test_a_frame_that_is_shrunk_first_is_the_same(tmp_path, size):
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr")
    scorer = load_scorer(f"videoreward={folder}", device="cpu")
    whole = video(3, 5, 2.0, size)
    small = Video([scorer.shrink(frame) for frame in whole.frames], whole.rate)
    assert torch.equal(prepare(small, 2.0, 200704), prepare(whole, 2.0, 200704))


def test_bf16_is_close_and_built_as_such(tmp_path):
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr")
    videos, prompts = [video(*v) for v in VIDEOS], published.prompts(4)
    exact = load_scorer(f"videoreward={folder}", device="cpu")(videos, prompts)
    half = load_scorer(f"videoreward={folder}", device="cpu", dtype="bf16")
    assert half.network.model.dtype == torch.bfloat16 and half.network.head.dtype == torch.float32
    assert half(videos, prompts) == pytest.approx(exact, abs=0.15)
    alone = [half([v], [p])[0] for v, p in zip(videos, prompts, strict=True)]
    assert half(videos, prompts) == pytest.approx(alone, abs=0.1)


def test_a_long_prompt_is_read_to_its_end(tmp_path):
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr")
    scorer = load_scorer(f"videoreward={folder}", device="cpu")
    clip, words = video(*VIDEOS[0]), "word " * 1000
    first, second = (scorer([clip], [words + end])[0] for end in ("a cat", "a dog"))
    assert np.isfinite([first, second]).all() and abs(first - second) > 1e-6


def test_the_four_names_share_one_network_and_its_answer(tmp_path, monkeypatch):
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr")
    names = ["videoreward", "videoreward_vq", "videoreward_mq", "videoreward_ta"]
    scorers = [load_scorer(f"{name}={folder}", device="cpu") for name in names]
    network, calls = scorers[0].network, []
    assert all(scorer.network is network for scorer in scorers)
    assert load_scorer(f"{names[0]}={folder}", device="cpu", dtype="bf16").network is not network
    whole = network.hidden
    monkeypatch.setattr(network, "hidden", lambda *given: calls.append(1) or whole(*given))
    videos, prompts = [video(*v) for v in VIDEOS[:2]], ["a", "b"]
    found = [scorer(videos, prompts) for scorer in scorers]
    assert len(calls) == 1 and found[0] == pytest.approx(np.sum(found[1:], 0), abs=1e-12)
    assert len({scorer.identity for scorer in scorers}) == 4
    assert scorers[0](videos, ["a", "c"])[1] != found[0][1] and len(calls) == 2
    assert scorers[1](videos[::-1], ["a", "c"])[0] != found[1][0] and len(calls) == 3


@pytest.mark.parametrize(("fps", "rank"), [("x", 4), (2, 0), (0, 4)])
def test_a_number_of_the_settings_that_cannot_be_names_the_file(tmp_path, fps, rank):
    norm = {f"{name}_{key}": 1 for name in ("VQ", "MQ", "TA") for key in ("mean", "std")}
    data = {"prompt_template_type": "detailed_special", "sample_type": "uniform", "fps": fps}
    lora = {"lora_alpha": 1, "lora_r": rank, "use_rslora": True}
    content = {"data_config": {**data, "max_frame_pixels": 9}, "peft_lora_config": lora}
    path = tmp_path / "model_config.json"
    path.write_text(json.dumps({**content, "inference_config": norm}))
    with pytest.raises(ValueError, match=r"model_config\.json has a number that cannot be"):
        settings_of(path)
