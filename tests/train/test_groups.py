"""Units of G samples of a prompt: whole in a micro batch, with one draw or their own, resumed bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.conftest import without_export
from tests.train.test_loop import assert_same, final_weights, metrics
from tests.train.test_objectives import losses, prepared
from tglo.cache.drawer import DrawRule
from tglo.cache.make import build_reference
from tglo.train import TrainConfig, train
from tglo.train.config_checks import check

Make = Callable[..., TrainConfig]


@pytest.fixture
def make_config(make_config: Make) -> Make:
    return without_export(make_config)


@pytest.fixture
def make(make_config: Make, square_cache: Path) -> Make:
    """Runs on six rows of each of two prompts, in one bucket."""

    def grouped(folder: str = "run", **sections: dict[str, object]) -> TrainConfig:
        sections["data"] = {"cache": str(square_cache)} | sections.get("data", {})
        return make_config(folder=folder, **sections)

    return grouped


@pytest.mark.parametrize(("name", "group"), [("lair", 3), ("lair", 2), ("tgo", 3), ("kto", 2)])
def test_a_group_comes_whole_and_shares_its_draw(name: str, group: int, make: Make) -> None:
    config = make(
        objective={"name": name, "group": group},
        optimizer={"micro_batch": 2 * group},
        data={"caption_dropout": 0.5},
    )
    run = prepared(config)
    try:
        seen, units = [], set()
        for step in range(12 // (2 * group)):
            batch = run.batches.get(step, 0)
            assert batch.group == group
            by_unit = torch.tensor(batch.ids.samples).view(group, 2).T.tolist()
            units |= {tuple(unit) for unit in by_unit}
            seen += [sample for unit in by_unit for sample in unit]
            index, target, scores = batch.draw.index, batch.draw.target, batch.labels.scores
            text = batch.draw.conditions["prompt_embeds"]
            for values in (index, target, text):
                shared = values.unflatten(0, (group, 2))
                assert torch.equal(shared, shared[:1].expand_as(shared))
            assert (scores.view(group, 2).diff(dim=0) <= 0).all()  # the best first
            assert not torch.equal(batch.draw.noisy[:2], batch.draw.noisy[2:4])
        assert len(seen) == len(set(seen)) == 12 and len(units) == 12 // group  # an epoch
    finally:
        run.batches.close()


def test_without_shared_draws_each_sample_has_its_own(make: Make, tmp_path: Path) -> None:
    """The draw of a sample is then the same with and without groups."""

    def draws(folder: str, **objective: object) -> dict[int, torch.Tensor]:
        run = prepared(make(folder, objective=objective, optimizer={"micro_batch": 6}))
        try:
            batches = [run.batches.get(step, 0) for step in range(2)]
        finally:
            run.batches.close()
        return {
            sample: target
            for batch in batches
            for sample, target in zip(batch.ids.samples, batch.draw.target, strict=True)
        }

    alone = draws("alone", name="tgo")
    for name, group in (("tgo", 3), ("lair", 2), ("dpo", "default")):
        found = draws(name, name=name, group=group, share_draws=False)
        assert len(found) == 12 and all(torch.equal(alone[key], found[key]) for key in found)


@pytest.mark.parametrize("draws_of", ["sample", "prompt"])
@pytest.mark.parametrize("name", ["lair", "dpo", "sdpo", "tgo"])
def test_a_cached_reference_serves_units_whose_draws_it_knows(
    name: str, draws_of: str, make: Make, sd15: Path, square_cache: Path, tmp_path: Path
) -> None:
    """Draws of each sample's own, or of its prompt's, which the samples of a unit share."""
    errors = tmp_path / "errors"
    rule = DrawRule(seed=0, caption_dropout=0.1, draws=2, stratified=True, draws_of=draws_of)
    build_reference(str(sd15), square_cache, errors, rule, device="cpu", progress=False)
    found = []
    for mode in ("copy", "cached"):
        config = make(
            mode,
            objective={
                "name": name,
                "reference": mode,
                "share_draws": draws_of == "prompt",
                **({"group": 2} if name in ("lair", "tgo") else {}),
            },
            data={
                "draws": 2,
                "stratified": True,
                "reference_cache": str(errors),
                "draws_of": draws_of,
            },
            optimizer={"steps": 3},
            output={"export": False},
        )
        found.append(losses(train(config).folder))
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-7)


def test_draws_of_prompts_are_shared_and_another_reference_is_refused(
    make: Make, sd15: Path, square_cache: Path, tmp_path: Path
) -> None:
    run = prepared(make(data={"draws_of": "prompt"}, optimizer={"micro_batch": 12}))
    try:
        batch = run.batches.get(0, 0)
    finally:
        run.batches.close()
    keys = run.batches.drawer.cache.prompt_keys(batch.ids.samples)
    assert len(np.unique(keys)) == 2 and (keys >= 0).all()
    for key in np.unique(keys):
        rows = batch.draw.target[torch.from_numpy(keys == key)]
        assert len(rows) == 6 and torch.equal(rows, rows[:1].expand_as(rows))
    assert not torch.equal(*(batch.draw.target[list(keys).index(key)] for key in np.unique(keys)))

    errors = tmp_path / "errors"
    rule = DrawRule(seed=0, caption_dropout=0.1, draws=2)
    assert "draws_of" not in rule.fingerprint()
    build_reference(str(sd15), square_cache, errors, rule, device="cpu", progress=False)
    config = make(
        "other",
        objective={"name": "dpo", "reference": "cached"},
        data={"draws_of": "prompt", "draws": 2, "reference_cache": str(errors)},
    )
    with pytest.raises(ValueError, match="draws_of"):
        train(config)


@pytest.mark.parametrize(
    "objective",
    [{"name": "lair", "group": 3}, {"name": "tgo", "group": 3, "tgo": {"safeguard": 0.5}}],
)
def test_resumed_bit_for_bit(objective: dict[str, object], make: Make) -> None:
    options = {
        "objective": objective,
        "model": {"train": "full"},
        "optimizer": {"steps": 6, "micro_batch": 6},
    }
    straight, parted = (
        make("straight", **options),
        make("parted", **options, output={"save_every": 2}),
    )
    train(straight)
    train(parted)
    shutil.rmtree(
        parted.output.folder / "checkpoints" / "step-00000006"
    )  # as if killed after step 4
    train(parted)
    assert losses(straight.output.folder) == losses(parted.output.folder)
    assert_same(final_weights(straight.output.folder), final_weights(parted.output.folder))


def test_lair_learns_its_advantages(make: Make) -> None:
    """On fixed draws r comes to have the sign of the advantage, and the loss falls below that at r = 0."""
    config = make(
        objective={
            "name": "lair",
            "group": 3,
            "temperature": 0.05,
            "lair": {"score_temperature": 0.1},
        },
        model={"train": "full"},
        data={"draws": 1, "caption_dropout": 0.0},
        optimizer={"steps": 40, "micro_batch": 12, "learning_rate": 2e-3, "schedule": "constant"},
        output={"export": False},
    )
    lines = metrics(train(config).folder)
    assert lines[0]["loss"] == 0.0 and lines[-1]["loss"] < -0.01
    assert lines[-1]["r_positive"] > 0.1 > -0.1 > lines[-1]["r_negative"]
    assert lines[-1]["implicit_accuracy"] > 0.8
    assert 0 < lines[0]["positive_share"] < 1 and lines[0]["weight"] > 0.05


def test_weights_are_normalised_over_the_rows_of_groups(make: Make) -> None:
    """Of six rows a prompt, four are in a group of four; the weights of those have a mean of 1."""
    config = make(
        objective={"name": "tgo", "group": 4, "confidence": "inf", "weight_normalisation": True},
        optimizer={"micro_batch": 8},
    )
    run = prepared(config)
    try:
        samples = run.batches.samples
    finally:
        run.batches.close()
    assert len(samples.ids) == len(samples.labels) == 8 and samples.units.shape == (2, 4)
    assert sorted(samples.units.flatten().tolist()) == list(range(8))
    assert samples.labels.weights is not None
    assert float(samples.labels.weights.mean()) == pytest.approx(1.0)
    scores = samples.labels.scores.numpy()[samples.units]
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"objective": {"name": "lair"}, "optimizer": {"micro_batch": 6}},
            "micro_batch is 6, but objective lair takes groups of 4 .*multiple of 4",
        ),
        (
            {"objective": {"name": "tgo", "group": 3}, "optimizer": {"micro_batch": 4}},
            "micro_batch is 4, but objective tgo takes groups of 3",
        ),
        (
            {"objective": {"name": "lair", "group": 1}},
            "group is 1, but objective lair .*at least 2",
        ),
        ({"objective": {"name": "tgo", "group": 0}}, "objective.group is 0"),
        ({"objective": {"name": "dpo", "group": 4}}, "group is 4, but objective dpo takes pairs"),
        (
            {"objective": {"name": "kto", "group": 2, "reference": "cached"}},
            "reference is cached, but objective kto takes groups of 2.*draws_of = prompt",
        ),
        (
            {"objective": {"name": "sdpo", "reference": "cached"}},
            "reference is cached, but objective sdpo takes pairs.*share_draws = false",
        ),
        (
            {"objective": {"name": "dspo", "reference": "cached", "share_draws": False}},
            "reference is cached, but objective dspo needs the reference's prediction.*use copy",
        ),
        (
            {"objective": {"tgo": {"safeguard": 0.5}}},
            "safeguard is 0.5, but objective.group is default .*set objective.group to 2",
        ),
        (
            {"objective": {"group": 2, "share_draws": False, "tgo": {"safeguard": 0.5}}},
            "safeguard is 0.5.*share_draws is false",
        ),
        ({"objective": {"lair": {"penalty": 0.0}}}, "objective.lair.penalty is 0"),
        ({"objective": {"sdpo": {"mu": 2.0}}}, "objective.sdpo.mu is 2"),
    ],
)
def test_what_cannot_be_grouped(
    sections: dict[str, dict[str, object]], message: str, make: Make
) -> None:
    with pytest.raises(ValueError, match=message):
        check(make(**sections))


def test_prompts_with_too_few_rows(make: Make, make_config: Make) -> None:
    with pytest.raises(
        ValueError, match="no groups of 4: of 2 prompts none .* has 2"
    ):  # three sizes
        train(make_config(objective={"name": "lair"}, optimizer={"micro_batch": 4}))
    config = make(objective={"name": "lair", "group": 3}, optimizer={"micro_batch": 15})
    with pytest.raises(ValueError, match="4 groups are fewer than the global batch of 5"):
        train(config)
