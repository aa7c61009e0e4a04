"""The study's front of gain against harm, from numbers made by hand and from the kept record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.page import fill
from examples.study import front, plan, record, runs, stages
from examples.study.ablations import ABLATIONS
from examples.study.front import Setting, best, holm
from examples.study.world import DIGITS, SHAPES, WORLDS, World
from tglo.files import write_json

ROOT = Path(__file__).parents[2]
METHODS, REWARDS = SHAPES.methods, tuple(SHAPES.rewards)
QUICK = SHAPES.of_size("quick")


def setting(method: str, gains: list[float], harms: list[float], number: int = 0) -> Setting:
    changes = METHODS[method].grid[number]
    return Setting(method, changes, dict(enumerate(gains)), dict(enumerate(harms)))


def test_no_seed_chooses_its_own_setting() -> None:
    careful = setting("DPO", [0.5, 0.6, 0.4], [1.0, 1.0, 1.0])
    bold = setting("DPO", [2.0, 1.0, 1.0], [3.0, 9.0, 9.0], 1)
    found = best([careful, bold], 5.0)
    # Seeds 1 and 2 see bold at (3 + 9) / 2 = 6 points, seed 0 at 9: it is over the limit for all.
    assert found.gain.tolist() == [0.5, 0.6, 0.4] and found.harm.tolist() == [1.0] * 3
    found = best([careful, bold], 6.0)
    assert found.gain.tolist() == [0.5, 1.0, 1.0] and found.harm.tolist() == [1.0, 9.0, 9.0]


def test_base_stays_where_nothing_is_within_the_limit() -> None:
    found = best(
        [setting("DPO", [1.0, 1.0], [20.0, 20.0]), setting("DPO", [-0.1, -0.2], [0.0, 0.0], 1)], 2.0
    )
    assert found.gain.tolist() == found.harm.tolist() == [0.0, 0.0]


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]).tolist() == [1.0, 1.0]
    assert np.isnan(holm([float("nan"), 0.02])).tolist() == [True, False]
    assert holm([float("nan"), 0.02])[1] == 0.02


def test_table_marks_what_differs_and_tells_how_much_was_run() -> None:
    settings = [
        setting("TGO oracle", [1.0, 1.02, 0.98], [1.0, 1.2, 0.8]),
        *(setting(n, [0.1] * 3, [0.0] * 3, i) for n in ("TGO oracle", "DPO") for i in range(2, 6)),
        setting("TGO oracle", [0.2, 0.1, 0.0], [0.0, 0.0, 0.0], 1),
        setting("DPO", [0.5, 0.53, 0.47], [1.5, 1.0, 0.5]),
        setting("DPO", [1.5, 1.5, 1.5], [8.0, 9.0, 8.5], 1),
        setting("KTO", [0.3, 0.33, 0.27], [1.0, 1.0, 1.0]),
    ]
    lines = front.table(settings, METHODS).splitlines()
    assert lines[2].startswith("| TGO oracle | 6 of 6 | 3 | +1.00 ± 0.05 at 1.0 |")
    dpo = next(line for line in lines if line.startswith("| DPO"))
    assert "6 of 6" in dpo and "+0.50 ± 0.07 at 1.0 \\*" in dpo and "+1.50 ± 0.00 at 8.5 \\*" in dpo
    kto = next(line for line in lines if line.startswith("| KTO"))
    assert "1 of 6" in kto and "\\*" not in kto
    assert "\\*" not in front.table(
        settings[1:], METHODS
    )  # a grid of five is compared with nothing
    assert front.picture(settings, METHODS).startswith(b"\x89PNG")
    assert "| DPO | 2e-05 | 0.02 | 3 | +0.50 ± 0.07 | -1.0 ± 1.2 |" in front.settings_table(
        settings, METHODS
    )


def test_what_is_done_is_measured_and_the_rest_left_out(tmp_path: Path) -> None:
    def keep(name: str, accuracy: float, gain: float, **more: object) -> None:
        scores = dict.fromkeys(REWARDS, gain) | {"accuracy": accuracy}
        content = {"means": dict.fromkeys(SHAPES.sets, scores), **more}
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_json(tmp_path / "runs" / name / runs.RESULT, content)

    unit = {s: dict.fromkeys((*REWARDS, "accuracy"), 2.0) for s in SHAPES.sets}
    for seed in (0, 1):
        keep(runs.base_name("evaluation", seed), 0.5, 1.0, deviations=unit)
        (tmp_path / "runs" / runs.base_name("harm", seed)).mkdir()
        write_json(
            tmp_path / "runs" / runs.base_name("harm", seed) / runs.RESULT,
            {"error": 0.1, "diversity": 20.0},
        )
        jobs = plan.grid_jobs(SHAPES, ["DPO"], [seed], settings=METHODS["DPO"].grid[:1])
        for job in jobs:
            keep(job.name, 0.47, 2.0 + seed, harm={"error": 0.12, "diversity": 10.0})
    keep(plan.grid_jobs(SHAPES, ["KTO"], [0])[0].name, 0.4, 3.0)  # one reward of five
    (found,) = front.measured(tmp_path, range(5), SHAPES)
    assert found.method == "DPO" and found.gain == {0: 0.5, 1: 1.0}
    assert found.harm == pytest.approx({0: 3.0, 1: 3.0})
    assert found.error == pytest.approx({0: 20.0, 1: 20.0})
    assert found.diversity == pytest.approx({0: -50.0, 1: -50.0})


def test_whole_study_has_so_many_jobs() -> None:
    assert stages.count(SHAPES, 5, ("p",)) == {
        "tuning": 12 * (6 * 2 + 2 * 2 * 2),
        "grids": 8 * 6 * 5 * 5,
        "methods": 4 * 5 * 5,
        "ablations": 3 * plan.ABLATION_SEEDS,
        "other rewards": 5 * 2 * plan.ABLATION_SEEDS,
    }
    assert stages.count(DIGITS, 5, ()) == {"grids": 9 * 6 * 3 * 5}


def test_both_worlds_take_less_than_six_hours_on_two_cores() -> None:
    seconds = sum(
        number * world.seconds[stage]
        for world in WORLDS.values()
        for stage, number in stages.count(world, world.size.seeds, ABLATIONS).items()
        if number
    )
    assert seconds / 2 / 3600 <= 6.0


def test_folder_of_fewer_methods_is_gone_on_with(tmp_path: Path) -> None:
    fewer = {name: method for name, method in METHODS.items() if name not in ("SDPO", "LAIR")}
    record.claim(tmp_path, replace(QUICK, methods=fewer))
    record.claim(tmp_path, QUICK)
    assert record.read_json(tmp_path / "study.json") == record.fingerprint(QUICK)
    with pytest.raises(ValueError, match="belongs to other settings: objectives is"):
        record.claim(tmp_path, replace(QUICK, methods=fewer))
    other = {**METHODS, "SDPO": METHODS["DPO"]}
    with pytest.raises(ValueError, match="belongs to other settings: objectives is"):
        record.claim(tmp_path, replace(QUICK, methods=other))
    with pytest.raises(ValueError, match="belongs to other settings: prompts is"):
        record.claim(tmp_path, SHAPES)


def test_record_of_fewer_methods_is_gone_on_from(tmp_path: Path) -> None:
    record.save(tmp_path, tmp_path / "record.json", QUICK)
    content = record.read_json(tmp_path / "record.json")
    content["fingerprint"]["objectives"] = '{"TGO": "tgo"}'
    write_json(tmp_path / "record.json", content)
    assert record.restore(tmp_path / "record.json", tmp_path, QUICK) == 0
    content["fingerprint"]["objectives"] = '{"TGO": "kto"}'
    write_json(tmp_path / "record.json", content)
    with pytest.raises(ValueError, match="objectives is"):
        record.restore(tmp_path / "record.json", tmp_path, QUICK)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_page_says_what_the_record_says(world: World, tmp_path: Path) -> None:
    page = (ROOT / "docs/study.md").read_text()
    if not world.record.is_file():
        for name in front.blocks([], world):
            assert f"<!-- measured: {name} -->\nNot measured yet.\n<!-- end: {name} -->" in page
        return
    record.restore(world.record, tmp_path, world)
    found = front.measured(tmp_path, range(world.size.seeds), world)
    assert fill(page, front.blocks(found, world)) == page
