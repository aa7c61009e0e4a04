"""The study: its jobs, one of each method for real, and its tables from numbers made by hand."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.page import fill
from examples.study import (
    ablations,
    made,
    pictures,
    plan,
    record,
    reference,
    report,
    results,
    runs,
    stages,
)
from examples.study.data import Pool
from examples.study.methods import Method
from examples.study.plan import Job
from examples.study.results import Bases, Gain
from examples.study.workers import Workers
from examples.study.world import SHAPES, WORLDS, World
from tglo.data.manifest import read_manifest
from tglo.files import read_json, write_json
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config
from tglo.train.recipes import RECIPES

ROOT = Path(__file__).parents[2]
METHODS, REWARDS, SETS = SHAPES.methods, tuple(SHAPES.rewards), SHAPES.sets
QUICK = SHAPES.of_size("quick")
TUNED = {name: method.grid[3] for name, method in METHODS.items()}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_methods_are_tuned_with_one_budget_on_data_of_their_own(world: World) -> None:
    for name, method in world.methods.items():
        assert len(method.grid) == 6 and len({str(setting) for setting in method.grid}) == 6
        jobs = [j for s in method.grid for j in plan.tuning_jobs(world, name, s, plan.TUNING_SEEDS)]
        assert len({job.name for job in jobs}) == len(jobs) == 6 * 3 * len(world.tuning_rewards)
        assert all(job.prompts == "validation" and job.seed >= 100 for job in jobs)


def test_best_setting_is_the_best_finalist() -> None:
    assert stages.best([[0.9], [0.5, 0.1, 0.2], [0.4, 0.4, 0.3], [0.1]]) == 2


def test_main_jobs_are_every_method_reward_and_seed() -> None:
    jobs = plan.main_jobs(SHAPES, TUNED, 3)
    assert len({job.name for job in jobs}) == len(METHODS) * len(REWARDS) * 3
    assert {(j.method, j.reward, j.seed) for j in jobs} == {
        (m, r, s) for m in METHODS for r in REWARDS for s in range(3)
    }


def test_ablations_change_one_thing_and_share_the_tuned_run() -> None:
    found = ablations.ablation_jobs(SHAPES, TUNED, 2)
    tuned = {j.name: j for j in plan.main_jobs(SHAPES, TUNED, 1) if j.method.startswith("TGO")}
    shared = 0
    for name, values in found.items():
        first, *others = [jobs[0] for jobs in values.values()]
        assert len({job.name for job in (first, *others)}) == len(values) >= 2, name
        shared += first.name in tuned
        for job in others:
            differ = {key for key, value in asdict(job).items() if value != asdict(first)[key]}
            assert len(differ) == 1, (name, differ)
            if differ == {"changes"}:
                settings = {**SHAPES.defaults, "data.per_prompt": False, "data.kappa": None}
                settings |= {f"objective.{key}": None for key in ("share_draws", "tgo.safeguard")}
                settings |= {"objective.group": 1}
                before, after = settings | first.changes, settings | job.changes
                keys = {key for key in after if before[key] != after[key]} - {"data.kappa"}
                # A percentile belongs to the baseline, and drawing together to groups.
                belong = {"data.percentile", "data.per_prompt", "objective.group"}
                assert len(keys - belong) <= 1, (name, keys)
                assert keys, name
        assert all([job.seed for job in jobs] == [0, 1] for jobs in values.values())
    assert shared >= len(ablations.PUBLISHED) - 1 + len(ablations.BASELINES) // 2 + 1


@pytest.mark.parametrize("name", list(SHAPES.sizes))
@pytest.mark.parametrize("of", WORLDS.values(), ids=WORLDS)
def test_every_job_of_every_size_has_a_valid_configuration(
    of: World, name: str, tmp_path: Path
) -> None:
    world = of.of_size(name)
    size = world.size
    ablated = []
    if world.tuning_rewards:
        found = ablations.ablation_jobs(world, TUNED, 1)
        ablated = [job for values in found.values() for jobs in values.values() for job in jobs]
    for job in (*plan.grid_jobs(world, list(world.methods), [0]), *ablated):
        pool = Pool.of(tmp_path, job, world)
        pool.path(job).parent.mkdir(parents=True, exist_ok=True)
        pool.path(job).touch()
        config = parse_config(runs.settings(pool, job, tmp_path / "out"))
        check(config)
        draws = size.draws if job.draws is None else job.draws
        assert config.data.draws == draws and config.optimizer.steps == size.steps
        alone = ("SFT", "CSFT", "DPO", "DSPO", "SDPO", "LAIR")
        cached = job.method not in alone and draws > 0 and not config.objective.shared_draws
        assert (config.objective.reference == "cached") == cached


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of three methods with a rater of another error, done."""
    folder = tmp_path_factory.mktemp("study")
    jobs = [
        Job(name, "stars", 0, METHODS[name].changes | TUNED[name], rater_error=1.5)
        for name in ("TGO oracle", "CSFT", "DPO")
    ]
    Pool(folder, 0, QUICK).make(jobs)
    for job in jobs:
        runs.run(folder, job, QUICK)
    return folder


def test_job_for_real(study: Path) -> None:
    for path in study.glob("runs/*stars*/result.json"):
        job = Job(**read_json(path)["job"])
        assert path.parent.name == job.name and not (path.parent / "train").exists()
        gains = results.gains(study, job, Bases(study, "evaluation", [0], QUICK))
        assert {(g.set, g.scorer) for g in gains} == {
            (name, scorer) for name in SETS for scorer in (*REWARDS, "accuracy")
        }
        assert all(np.isfinite([g.value, g.mean, g.base]).all() for g in gains)
        done = path.stat().st_mtime_ns
        assert runs.run(study, job, QUICK) == read_json(path)
        assert path.stat().st_mtime_ns == done


def test_harm_is_measured_beside_the_bases_own(study: Path) -> None:
    base = runs.base_harm(Pool(study, 0, QUICK))
    assert base.keys() == {"error", "diversity"} and min(base.values()) > 0
    assert runs.base_harm(Pool(study, 0, QUICK)) == base
    for path in study.glob("runs/*-stars-*/result.json"):
        harm = read_json(path)["harm"]
        assert harm["error"] == pytest.approx(base["error"], rel=0.2) and harm != base, path


def test_one_image_of_a_prompt_trains_without_pairs_and_says_what_it_fell_back_to(
    study: Path,
) -> None:
    job = Job(
        "TGO oracle",
        "stars",
        0,
        METHODS["TGO oracle"].changes | TUNED["TGO oracle"],
        each=1,
        used=8,
    )
    pool = Pool.of(study, job, QUICK)
    pool.make([job])
    listed = list(csv.DictReader(pool.path(job).read_text().splitlines()))
    assert len({row["prompt"] for row in listed}) == len(listed) == 8
    # Eight prompts are too few for a regression.
    assert "Use baseline mean" in runs.run(study, job, QUICK)["unexplained"]
    refused = replace(job, changes=job.changes | {"data.baseline": "ridge"})
    assert "Use baseline mean" in runs.run(study, refused, QUICK)["refused"]
    assert results.gains(study, refused, Bases(study, "evaluation", [0], QUICK)) == []
    more = replace(job, each=8, used=None)
    other = Pool.of(study, more, QUICK)
    assert other.folder != pool.folder and (other.size.prompts, other.size.images) == (4, 8)


def test_training_data_is_the_first_prompts_all_images(study: Path) -> None:
    whole = (study / "seed-0/data/scored.csv").read_text().splitlines()
    part = (study / "seed-0/data/stars-1.5-16.csv").read_text().splitlines()
    rows, chosen = (list(csv.DictReader(lines)) for lines in (whole, part))
    assert len(rows) == QUICK.size.prompts * QUICK.size.images and len(chosen) == QUICK.size.used
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))[
        : QUICK.size.used // QUICK.size.images
    ]
    assert {row["prompt"] for row in chosen} == set(prompts)
    assert all(float(row["score"]) == float(row["stars-1.5"]) for row in chosen)


def test_rewards_made_from_others_are_trained_on(study: Path) -> None:
    pool = Pool(study, 0, QUICK)
    rows = read_manifest(study / "seed-0/data/scored.csv")
    found = {name: made.scores(name, rows, 0) for name in SHAPES.other_rewards}
    parts = [made.column(rows, part) for part in SHAPES.other_rewards["mixture"]]
    wanted = np.sum([(part - part.mean()) / part.std() for part in parts], axis=0)
    assert found["mixture"] == pytest.approx(wanted)
    assert (made.learned(rows, 0) == found["learned"]).all()
    assert (made.learned(rows, 1) != found["learned"]).any()
    given = made.ratings(rows, np.random.default_rng(0))
    assert set(given) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert np.corrcoef(found["learned"], made.column(rows, "vividness"))[0, 1] > 0.3
    for job in plan.other_jobs(SHAPES, TUNED, 1):
        listed = list(csv.DictReader(pool.manifest(job).read_text().splitlines()))
        assert len(listed) == QUICK.size.used
        by_image = dict(zip([r.image for r in rows], found[job.reward], strict=True))
        assert all(float(r["score"]) == pytest.approx(by_image[r["image"]]) for r in listed)


def test_marked_prompts_are_sampled_behind_the_good_marker(study: Path) -> None:
    (csft,) = study.glob("runs/CSFT*")
    (dpo,) = study.glob("runs/DPO*")
    assert read_json(csft / "samples/generation.json")["prefix"] == "there "
    assert "prefix" not in read_json(dpo / "samples/generation.json")
    names = [sorted(p.name for p in (f / "samples/images").iterdir()) for f in (csft, dpo)]
    assert names[0] == names[1]  # paired: named and seeded by the prompt alone


def test_record_keeps_results(study: Path, tmp_path: Path) -> None:
    record.save(study, tmp_path / "record.json", QUICK)
    done = {path.parent.name: read_json(path) for path in study.glob("runs/*/result.json")}
    assert record.restore(tmp_path / "record.json", tmp_path / "again", QUICK) == len(done) >= 3
    again = (tmp_path / "again/runs").glob("*/result.json")
    assert {path.parent.name: read_json(path) for path in again} == done
    assert record.restore(tmp_path / "record.json", tmp_path / "again", QUICK) == 0
    with pytest.raises(ValueError, match="steps is '2' there and '80' here"):
        record.restore(tmp_path / "record.json", tmp_path / "again", SHAPES)


def test_workers_run_what_is_missing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = [
        Job(**read_json(path)["job"]) for path in sorted(study.glob("runs/*stars*/result.json"))
    ]
    job = Job("SFT", "vividness", 1, TUNED["SFT"])
    with Workers(study, QUICK, 1) as workers:
        workers.run("some", [*done, job, job], [0, 1])
    assert (study / "runs" / job.name / "result.json").is_file()
    assert (study / "runs/base-evaluation-1/result.json").is_file()
    assert "some: 1 of 1" in capsys.readouterr().out


def test_front_is_run_where_it_was_stopped(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = METHODS["SFT"].grid[3:4]
    world = replace(QUICK, methods={"SFT": Method("sft", grid)})
    Pool(study, 0, QUICK).make([])
    runs.run(study, Job("SFT", "stars", 0, grid[0]), QUICK)
    with Workers(study, world, 1) as workers:
        stages.fronts(workers, 2, ["SFT"], ["stars"], None, run=True)
    printed = capsys.readouterr().out
    assert "grids: 1 of 1" in printed  # the other seed
    assert "| SFT | 1 of 1 | 2 |" in printed and "| SFT | 0.0004 |  | 2 |" in printed
    assert (study / "front.md").read_text() in printed
    assert (study / "study-front.png").read_bytes().startswith(b"\x89PNG")


def test_unfinished_jobs_are_named(study: Path) -> None:
    bases = Bases(study, "evaluation", [0], QUICK)
    with pytest.raises(FileNotFoundError, match="SFT-stars-0-.* is not done"):
        results.gains(study, Job("SFT", "stars", 0, {}), bases)


def test_gain_is_in_one_unit_for_all_seeds(tmp_path: Path) -> None:
    def keep(name: str, mean: float, **more: float) -> None:
        content = {"means": mean, **more}
        every = {k: {s: {"stars": v} for s in SETS} for k, v in content.items()}
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_json(tmp_path / "runs" / name / "result.json", every)

    jobs = [Job("SFT", "stars", seed, {}) for seed in (0, 1)]
    for job, mean, deviation in zip(jobs, (2.0, 3.0), (6.0, 8.0), strict=True):
        keep(runs.base_name("evaluation", job.seed), mean, deviations=deviation)
        keep(job.name, mean + 5.0)
    bases = Bases(tmp_path, "evaluation", [0, 1], QUICK)
    gains = [gain for job in jobs for gain in results.gains(tmp_path, job, bases)]
    assert [g.unit for g in gains] == pytest.approx([np.sqrt(50.0)] * 6)
    assert [g.value for g in gains] == pytest.approx([5.0 / np.sqrt(50.0)] * 6)
    lines = results.as_csv(gains).splitlines()
    assert len(lines) == 7 and lines[0].startswith("method,trained_on,seed,changes,")
    assert lines[-1] == "SFT,stars,1,,evaluation,unseen,stars,3,8,7.07107,0.707107"


def test_interval_is_students() -> None:
    found = results.interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    with pytest.raises(ValueError, match="1 seeds have no interval"):
        results.interval([1.0])


def made_up(job: Job, gain: float) -> list[Gain]:
    return [
        Gain(job, name, scorer, 1.0, 1.0 + 2.0 * (gain + 0.1 * job.seed), 2.0)
        for name in SETS
        for scorer in (*REWARDS, "accuracy")
    ]


def test_tables_say_what_was_measured() -> None:
    jobs = plan.main_jobs(SHAPES, TUNED, 2)
    worth = {name: 0.1 * number for number, name in enumerate(METHODS)}
    found = [gain for job in jobs for gain in made_up(job, worth[job.method])]
    table = report.Table(found, 2, SHAPES)
    ablated: dict[str, Any] = {
        name: {value: [g for job in values[value] for g in made_up(job, 0.3)] for value in values}
        for name, values in ablations.ablation_jobs(SHAPES, TUNED, 2).items()
    }
    ablated["baseline, faithfulness"]["ridge"] = made_up(plan.main_jobs(SHAPES, TUNED, 1)[0], 0.3)
    trials = {name: [[0.0], [0.2, 0.1, 0.3], [0.1], [0.5, 0.4, 0.6], [0.3]] for name in METHODS}
    blocks = report.blocks(table, TUNED, trials, ablated)
    overall = list(csv.reader(io.StringIO(blocks["overall"].replace(" | ", ",").strip("| "))))
    assert overall[2][0].strip("| ") == "DSPO"  # the last has the most
    # Seeds at +1.10 and +1.20: mean 1.15, half of the interval 12.706 * 0.0707 / sqrt(2).
    assert "+1.15 ± 0.64" in blocks["overall"]
    # TGO is 1.1 below in both seeds: the difference has no spread.
    assert "-1.10 ± 0.00" in blocks["overall"]
    assert "**+1.15 ± 0.64**" in blocks["unseen"]
    assert "+0.10; **+0.50 +0.40 +0.60**; +0.30" in blocks["tuning"]
    assert "| TGO | 5e-05 | 0.1 |" in blocks["tuning"]
    assert "| rater's error, stars | 0.7 | +0.35 ± 0.64 |  | +0.35" in blocks["ablations"]
    assert "|  | 3 | +0.35 ± 0.64 | +0.00 ± 0.00 |" in blocks["ablations"]
    assert "|  | ridge | refused on 1 of 2 seeds |  |  |  |  |" in blocks["ablations"]
    other = [g for job in plan.other_jobs(SHAPES, TUNED, 2) for g in made_up(job, 0.2)]
    # Accuracy is 2 * (0.2 + 0.05) above the base's: 50 points.
    assert "| DPO | +0.25 ± 0.64 | +50.0 ± 127.1 | +0.25" in report.others(SHAPES, other)
    assert pictures.bars(table).startswith(b"\x89PNG")


def test_settings_of_the_recipe_are_the_recipes(tmp_path: Path) -> None:
    job = plan.grid_jobs(SHAPES, ["TGO oracle"], [0])[0]
    pool = Pool(tmp_path, 0, QUICK)
    pool.path(job).parent.mkdir(parents=True)
    pool.path(job).touch()
    changed = {k: v for k, v in RECIPES["tglo"].items() if v}
    settings = runs.settings(pool, job, tmp_path)
    for key, value in changed.items():
        section, name = key.split(".")
        assert settings[section][name] == value
    assert "percentile" not in settings["data"]


def test_docs_have_a_place_for_every_table() -> None:
    page = (ROOT / "docs" / "study.md").read_text()
    for name in ("tuning", "overall", *SETS, "accuracy", "transfer", "others", "ablations"):
        assert f"<!-- measured: {name} -->" in page and f"<!-- end: {name} -->" in page


def test_cached_reference_page_says_what_the_records_say() -> None:
    kept = ROOT / "benchmarks" / "results" / "study"
    draws, modes = read_json(kept / "draws.json"), read_json(kept / "modes.json")
    page = (ROOT / "docs" / "cached-reference.md").read_text()
    assert fill(page, reference.blocks(draws, modes)) == page
    assert draws["gains"].keys() == reference.draws_jobs(TUNED["TGO"], 0, QUICK.size).keys()
    for picture in (reference.draw_draws(draws), reference.draw_modes(modes)):
        assert picture.startswith(b"\x89PNG")


def test_draws_of_the_reference_differ_in_nothing_else(tmp_path: Path) -> None:
    pool = Pool(tmp_path, 0, QUICK)
    (pool.folder / "data").mkdir(parents=True)
    (pool.folder / "data" / "stars-4.csv").touch()
    found = {
        mode: runs.settings(pool, job, tmp_path / "out")
        for mode, job in reference.draws_jobs(TUNED["TGO"], 0, QUICK.size).items()
    }
    for mode, settings in found.items():
        check(parse_config(settings))
        kind, _, count = mode.partition(" ")
        cached = kind != "copy"
        assert settings["objective"].get("reference", "copy") == ("cached" if cached else "copy")
        assert settings["data"]["draws"] == (int(count) if cached else 0)
        assert settings["data"].get("stratified", False) == (kind == "stratified")
    caches = [s["data"]["reference_cache"] for m, s in found.items() if not m.startswith("copy")]
    assert len(set(caches)) == len(caches)
    for settings in found.values():
        for key in ("draws", "stratified", "reference_cache", "draw_seed"):
            settings["data"].pop(key, None)
        settings["objective"].pop("reference", None)
    assert all(settings == found["copy"] for settings in found.values())


def test_modes_of_the_reference_are_one_run(study: Path) -> None:
    lines = reference.run_modes(study, TUNED["TGO"], QUICK)
    assert lines.keys() == set(reference.MODES)
    for mode in reference.MODES:
        assert [line["step"] for line in lines[mode]] == [1, 2]
        for name in reference.CLASSES:
            found = [line[name] for line in lines[mode]]
            assert found == pytest.approx([line[name] for line in lines["copy"]], abs=1e-5)
    assert "Over 2 steps" in reference.summary(lines)


def test_bars_have_one_scale_and_a_legend_beside_the_panels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gains of seen prompts ten times those of the others."""

    def gains(method: str, reward: str, name: str) -> np.ndarray[Any, Any]:
        return np.array([0.1, 0.2, 0.3]) * (10 if name == SETS[0] else 1)

    drawn: list[Any] = []
    monkeypatch.setattr(pictures, "png", drawn.append)
    table = report.Table([], 3, SHAPES)
    monkeypatch.setattr(table, "gains", gains)
    pictures.bars(table)
    figure = drawn[0]
    figure.draw_without_rendering()
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    legend = figure.legends[0].get_window_extent()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(METHODS)
    assert not any(legend.overlaps(axes.get_window_extent()) for axes in figure.axes)
