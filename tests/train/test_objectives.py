"""Every objective trains by its name: full and LoRA, each reference mode, resumed, two processes."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.conftest import write_toml
from tests.train.test_distributed import WORKER, finish, losses, start
from tests.train.test_loop import assert_same, final_weights, metrics
from tglo.cache.drawer import DrawRule
from tglo.cache.latents import LatentCache
from tglo.cache.make import build, build_reference
from tglo.objectives import OBJECTIVES
from tglo.threshold.frozen import Threshold
from tglo.train import TrainConfig, train
from tglo.train.checkpoint import newest
from tglo.train.config_checks import check
from tglo.train.run import Run, prepare

Make = Callable[..., TrainConfig]
SCORED = [name for name, kind in OBJECTIVES.items() if kind.group_size("default") == 1]
PAIRED = [name for name, kind in OBJECTIVES.items() if kind.takes_pairs]
TWO = {"lair": {"group": 2}}  # of a prompt and a size there are two rows
MARKERS = ("good image: ", "bad image: ")


@pytest.fixture(scope="session")
def marked_cache(tmp_path_factory: pytest.TempPathFactory, manifest: Path, sd15: Path) -> Path:
    """The cache of the manifest with the embeddings that CSFT needs."""
    output = tmp_path_factory.mktemp("caches") / "marked"
    build(str(sd15), manifest, output, resolution=16, device="cpu", markers=MARKERS)
    return output


def prepared(config: TrainConfig) -> Run:
    config.output.folder.mkdir(parents=True, exist_ok=True)
    return prepare(config, torch.device("cpu"))


@pytest.mark.parametrize("what", ["full", "lora"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_trains_by_name(name: str, what: str, make_config: Make, marked_cache: Path) -> None:
    data = {"cache": str(marked_cache)} if name == "csft" else {}
    config = make_config(
        model={"train": what},
        objective={"name": name, **TWO.get(name, {})},
        optimizer={"steps": 3},
        data=data,
        output={"export": False},  # which knows of no objective
    )
    result = train(config)
    lines = metrics(result.folder)
    assert result.finished and len(lines) == 3
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert all(line["gradient_norm"] > 0 for line in lines)
    # Policy and reference are equal before the first update.
    assert lines[0]["r_positive"] == lines[0]["r_negative"] == 0.0
    if OBJECTIVES[name].needs_reference:
        assert lines[-1]["policy_error"] != lines[-1]["reference_error"]
    expected = {"kto": 0.5, "bco": np.log(2), "dpo": np.log(2), "sdpo": np.log(2), "lair": 0.0}
    if name in expected:
        assert lines[0]["loss"] == pytest.approx(expected[name], rel=1e-6)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if OBJECTIVES[n].needs_reference])
def test_reference_modes_give_the_same_losses(
    name: str, make_config: Make, sd15: Path, caches: dict[Path, Path], tmp_path: Path
) -> None:
    modes = ["copy", "adapter-off"]
    data: dict[str, object] = {"draws": 2, "stratified": True}
    if name in SCORED:
        modes.append("cached")
        rule = DrawRule(seed=0, caption_dropout=0.1, draws=2, stratified=True)
        errors = tmp_path / "errors"
        build_reference(str(sd15), caches[sd15], errors, rule, device="cpu", progress=False)
        data["reference_cache"] = str(errors)
    found = []
    for mode in modes:
        objective = {"name": name, "reference": mode, **TWO.get(name, {})}
        config = make_config(
            folder=mode,
            objective=objective,
            data=data,
            optimizer={"steps": 3},
            output={"export": False},
        )
        found.append(losses(train(config).folder))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("name", PAIRED)
def test_a_pair_shares_its_draw(name: str, make_config: Make) -> None:
    config = make_config(
        objective={"name": name}, optimizer={"micro_batch": 4}, data={"caption_dropout": 0.5}
    )
    run = prepared(config)
    try:
        keys = set()
        for step in range(6):
            batch = run.batches.get(step, 0)
            winner, loser = (torch.tensor(batch.ids.samples).view(2, 2)).tolist()
            assert not set(winner) & set(loser)
            assert (batch.labels.scores[:2] > batch.labels.scores[2:]).all()
            assert torch.equal(batch.draw.index[:2], batch.draw.index[2:])
            assert torch.equal(
                batch.draw.target[:2], batch.draw.target[2:]
            )  # epsilon-prediction: the noise
            assert not torch.equal(batch.draw.noisy[:2], batch.draw.noisy[2:])
            text = batch.draw.conditions["prompt_embeds"]
            assert torch.equal(text[:2], text[2:])  # one prompt, dropped together
            keys |= set(zip(winner, loser, strict=True))
        assert len(keys) == 6  # two prompts in three sizes, two rows of each
    finally:
        run.batches.close()


def test_sft_sees_positives_only(make_config: Make) -> None:
    run = prepared(make_config(objective={"name": "sft"}))
    try:
        batches = [run.batches.get(step, 0) for step in range(6)]
        assert all((batch.labels.scores >= batch.labels.thresholds).all() for batch in batches)
        assert (
            len({sample for batch in batches for sample in batch.ids.samples}) == 6
        )  # p = 50 of 12 rows
    finally:
        run.batches.close()


def test_csft_marks_prompts_by_label(make_config: Make, marked_cache: Path) -> None:
    config = make_config(
        objective={"name": "csft"},
        data={"cache": str(marked_cache), "caption_dropout": 0.0},
        optimizer={"micro_batch": 1},
    )
    run = prepared(config)
    prompts = ["a temple", "a flower"]
    cache = LatentCache(marked_cache)
    try:
        seen = set()
        for step in range(12):
            batch = run.batches.get(step, 0)
            good = bool(batch.labels.scores >= batch.labels.thresholds)
            text = batch.draw.conditions["prompt_embeds"][0]
            wanted = cache.text([MARKERS[not good] + prompt for prompt in prompts])
            (embedding,) = wanted.values()
            assert any(torch.equal(text, row) for row in embedding)
            seen.add(good)
        assert seen == {True, False}
    finally:
        run.batches.close()


def test_csft_samples_behind_the_good_marker(
    make_config: Make, marked_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    config = make_config(
        objective={"name": "csft"},
        data={"cache": str(marked_cache)},
        optimizer={"steps": 1},
        output={"validation_prompts": ["a temple"], "validation_every": 1, "validation_steps": 1},
    )
    from tglo.models.families.stable_diffusion import StableDiffusion

    generate = StableDiffusion.generate

    def spy(
        self: StableDiffusion, prompts: list[str], *arguments: object, **more: object
    ) -> object:
        asked.extend(prompts)
        return generate(self, prompts, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(StableDiffusion, "generate", spy)
    train(config)
    assert "good image: a temple" in asked


def test_resume_keeps_the_delta_of_bco(make_config: Make) -> None:
    options = {"objective": {"name": "bco"}, "model": {"train": "full"}, "optimizer": {"steps": 6}}
    straight = make_config(folder="straight", **options)
    train(straight)
    parted = make_config(folder="parted", **options, output={"save_every": 2})
    train(parted)
    checkpoints = parted.output.folder / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000006")  # as if killed after step 4
    train(parted)
    assert losses(straight.output.folder) == losses(parted.output.folder)
    assert_same(final_weights(straight.output.folder), final_weights(parted.output.folder))
    states = [newest(c.output.folder / "checkpoints")[1]["objective"] for c in (straight, parted)]
    assert states[0] == states[1] and states[0]["count"] == 6 and states[0]["sum"] != 0


@pytest.mark.timeout(300)
def test_two_processes_share_the_baselines(
    make_config: Make, square_cache: Path, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    files, folders = [], {}
    common = {"model": {"train": "full"}, "data": {"cache": str(square_cache)}}
    # KTO's baseline is cut off at 0, where every r is soon at a small T.
    runs = (("kto", 0.02), ("bco", 0.005), ("dpo", 0.005), ("lair", 0.005))
    for name, temperature in runs:
        objective = {"name": name, "temperature": temperature, **TWO.get(name, {})}
        alone = make_config(
            folder=f"{name}-1",
            **common,
            objective=objective,
            optimizer={"micro_batch": 4, "steps": 3},
        )
        train(alone)
        two = make_config(
            folder=f"{name}-2",
            **common,
            objective=objective,
            optimizer={"micro_batch": 2, "steps": 3},
            engine={"kind": "deepspeed"},
        )
        folders[name] = (alone.output.folder, two.output.folder)
        files.append(str(write_toml(two, tmp_path / f"{name}.toml")))
    process = start(str(WORKER), *files)
    output = finish(process)
    assert process.returncode == 0, output[-3000:]
    for name, pair in folders.items():
        alone, two = map(losses, pair)
        # The ranks' rows differ, so without a shared baseline the losses would.
        assert two == pytest.approx(alone, rel=2e-5), name


def test_thresholds_per_prompt_from_the_config(make_config: Make) -> None:
    config = make_config(data={"per_prompt": True, "kappa": 2.0}, optimizer={"steps": 1})
    train(config)
    threshold = Threshold.load(config.output.folder / "threshold.json")
    assert set(threshold.per_prompt) == {"a temple", "a flower"} and threshold.kappa == 2.0
    both = make_config(
        data={"per_prompt": True, "threshold": str(config.output.folder / "threshold.json")}
    )
    with pytest.raises(ValueError, match="data.per_prompt estimates a threshold, but"):
        check(both)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"objective": {"name": "dpo"}, "optimizer": {"micro_batch": 3}},
            "micro_batch is 3, but objective dpo takes pairs: it must be even",
        ),
        (
            {"objective": {"name": "dspo", "reference": "cached"}},
            "reference is cached, but objective dspo takes pairs.*use copy",
        ),
        (
            {"objective": {"name": "csft", "bad_marker": "good image: "}},
            "bad_marker are both 'good image: '",
        ),
        ({"objective": {"name": "kto", "positive_weight": -1.0}}, "positive_weight is -1"),
    ],
)
def test_what_an_objective_rules_out(
    sections: dict[str, dict[str, object]], message: str, make_config: Make
) -> None:
    with pytest.raises(ValueError, match=message):
        check(make_config(**sections))


def test_missing_embeddings_and_pairs_are_explained(
    make_config: Make, manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no embedding of '.* image: a .*tglo cache .*--markers"):
        train(make_config(objective={"name": "csft"}))

    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    one = manifest.with_name("one-each.csv")
    with one.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows[:2])
    config = make_config(objective={"name": "dpo"}, data={"manifest": str(one)})
    with pytest.raises(ValueError, match="no pairs: of 2 prompts 0 have two rows or more"):
        train(config)
    config = make_config(objective={"name": "dpo"}, optimizer={"micro_batch": 16})
    with pytest.raises(ValueError, match="6 pairs are fewer than the global batch of 8"):
        train(config)


def test_a_cache_with_markers_is_another_one(
    marked_cache: Path, manifest: Path, sd15: Path
) -> None:
    with pytest.raises(ValueError, match=r"markers is '\[.*' there and 'nothing' here"):
        build(str(sd15), manifest, marked_cache, resolution=16, device="cpu")
    assert LatentCache(marked_cache).fingerprint["markers"] == '["bad image: ", "good image: "]'
