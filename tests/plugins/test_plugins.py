"""A package of another's, found by its entry points: a family, objectives, a reward and a command, and what
is wrong with one of them.

In processes of their own: what is installed is looked up once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import preloaded, tiny
from tests.models.families.test_toy import manifest

OBJECTIVE = '''
from dataclasses import dataclass
from tglo.objectives import Objective, mean_loss
from tglo.objectives.base import statistics_of_error

@dataclass(frozen=True)
class Constants:
    scale: float = 1.0
    """What the error is multiplied by."""

    def __post_init__(self):
        if self.scale <= 0:
            raise ValueError(f"objective.scaled.scale is {self.scale}; it must be positive")

class Scaled(Objective):
    """The error times a constant."""

    needs_reference = False
    constants_type = Constants

    def __call__(self, batch, temperature):
        error = self.error(batch)
        return mean_loss(self.constants.scale * error, batch), statistics_of_error(batch, error)
'''
REWARD = """
import numpy as np

def darkness(images, prompts):
    return [255.0 - np.asarray(image).mean() for image in images]
"""
COMMAND = '''
def count(start: int, by: int = 1) -> dict[str, int]:
    """Count on.

    Args:
        start: Where to start.
        by: How far to go.
    """
    print(f"counted to {start + by}")
    return {"end": start + by}
'''
FAMILY = """
from tglo.models import StableDiffusion

class Toy(StableDiffusion):
    name = "toy"
"""
ENTRY_POINTS = """
[tglo.objectives]
huber = toy.huber:Huber
scaled = toy.objective:Scaled
broken = toy.broken:Broken
tgo = toy.objective:Scaled
beta = toy.objective:Scaled
no_class = toy.reward:darkness

[tglo.rewards]
darkness = toy.reward:darkness
ink = toy.reward:darkness
not_there = toy.absent:function

[tglo.commands]
count = toy.command:count
broken = toy.broken:command

[tglo.families]
ToyPipeline = toy.family:Toy
"""
CONFIG = """
[model]
path = "{work}/model"
train = "full"
[data]
manifest = "{work}/data/dark.csv"
cache = "{work}/cache"
[objective]
name = "{name}"
[objective.scaled]
scale = {scale}
[optimizer]
steps = 1
micro_batch = 3
[engine]
device = "cpu"
kind = "plain"
[output]
folder = "{work}/run"
export = false
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip leaves of an installed package."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "toy").mkdir()
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    huber = page.split("```python\n")[1].split("```")[0]  # as documented
    files = {
        "huber": huber,
        "objective": OBJECTIVE,
        "reward": REWARD,
        "command": COMMAND,
        "family": FAMILY,
    }
    for name, code in (files | {"__init__": "", "broken": "import no_such_module\n"}).items():
        (folder / "toy" / f"{name}.py").write_text(code)
    info = folder / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says it is a toy's, and scored images."""
    folder = tmp_path_factory.mktemp("work")
    tiny.build_sd15(folder / "model")
    index = folder / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "ToyPipeline"}))
    manifest(folder / "data")
    return folder


class Run:
    def __init__(self, site: Path) -> None:
        paths = os.pathsep.join([str(site), *(path for path in sys.path if path)])
        self.environment = {**os.environ, "PYTHONPATH": paths}

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return preloaded.run(
            [sys.executable, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=110,
        )

    def tglo(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        done = self.python("-m", "tglo", *arguments)
        assert done.returncode == status, done.stderr
        return done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(toy: Path) -> Run:
    return Run(toy)


def test_a_packages_reward_family_and_objective_make_a_run(run: Run, work: Path) -> None:
    scored = str(work / "data" / "dark.csv")
    run.tglo("score", str(work / "data/scored.csv"), "--scorer", "darkness", "--output", scored)
    config = work / "run.toml"
    config.write_text(CONFIG.format(work=work, name="scaled", scale=2.0))
    run.tglo("cache", str(config), "--resolution", "16")
    run.tglo("train", str(config))
    kept = json.loads((work / "run" / "config.json").read_text())["objective"]
    assert kept["name"] == "scaled" and kept["scaled"] == {"scale": 2.0}
    # Chosen by a flag, where the file names one of tglo's own; the constant is a flag, too.
    config.write_text(CONFIG.format(work=work, name="sft", scale=3.0))
    run.tglo("train", str(config), "--objective.name=scaled", "--objective.scaled.scale", "4.0",
             "--output.folder", str(work / "flag"))  # fmt: skip
    kept = json.loads((work / "flag" / "config.json").read_text())["objective"]
    assert kept["name"] == "scaled" and kept["scaled"] == {"scale": 4.0}
    first, second = (
        json.loads((work / name / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for name in ("run", "flag")
    )
    assert second == pytest.approx(2 * first)


def test_the_documented_objective_trains(run: Run, work: Path) -> None:
    config = work / "huber.toml"
    config.write_text(CONFIG.format(work=work, name="sft", scale=1.0).replace("dark", "scored"))
    run.tglo("cache", str(config), "--resolution", "16", "--output", str(work / "huber-cache"))
    losses = []
    for delta in ("0.5", "0.05"):
        folder = work / f"huber-{delta}"
        run.tglo("train", str(config), "--objective.name", "huber", "--objective.huber.delta", delta,
                 "--data.cache", str(work / "huber-cache"), "--output.folder", str(folder))  # fmt: skip
        losses.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["loss"])
    assert losses[0] > losses[1] > 0
    _, error = run.tglo("train", str(config), "--objective.huber.delta", "0", status=2)
    assert "objective.huber.delta is 0.0; it must be positive" in " ".join(
        error.replace("│", " ").split()
    )


@pytest.mark.parametrize(
    ("name", "scale", "flags", "said"),
    [
        ("broken", 1.0, (), "objective 'broken' of package toy cannot be imported: ModuleNotFoundError: No module"),
        ("no_class", 1.0, (), "objective 'no_class' of package toy cannot be used: <function darkness"),
        ("beta", 1.0, (), "objective 'beta' has the name of a key of [objective]"),
        ("scalde", 1.0, (), "objective.name is 'scalde'; nearest: scaled"),
        ("scaled", -1.0, (), "objective.scaled.scale is -1.0; it must be positive"),
        ("toy.objective:Scaled", 1.0, (), "objective.name is 'toy.objective:Scaled'"),
        ("tgo", 1.0, ("--objective.name", "broken"), "objective 'broken' of package toy cannot be imp"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_objective_is_named(
    name: str, scale: float, flags: tuple[str, ...], said: str, run: Run, work: Path
) -> None:
    config = work / "wrong.toml"
    config.write_text(CONFIG.format(work=work, name=name, scale=scale))
    _, error = run.tglo("train", str(config), *flags, status=1)
    assert said in error and "Traceback" not in error, error


def test_a_command_has_flags_help_and_json(run: Run) -> None:
    assert run.tglo("count", "--start", "3")[0] == "counted to 4\n"
    out, error = run.tglo("count", "--start", "3", "--by", "2", "--json")
    assert json.loads(out) == {"end": 5} and error == "counted to 5\n"
    assert "did you mean --start?" in run.tglo("count", "--strat", "3", status=2)[1]
    assert "did you mean count?" in run.tglo("cont", status=2)[1]
    out, error = run.tglo("--help")
    assert "count" in out and "Count on." in out
    assert "command 'broken' of package toy cannot be imported" in error
    assert "cannot be imported: ModuleNotFoundError" in run.tglo("broken", status=1)[1]


def test_tglos_own_names_stay_its_own(run: Run, work: Path) -> None:
    (work / "ink").mkdir(exist_ok=True)
    _, error = run.tglo("score", str(work / "data/scored.csv"), "--scorer", "ink", "--scorer",
                        "darkness", "--output", str(work / "ink" / "ink.csv"))  # fmt: skip
    assert "reward 'ink' of package toy is refused: tglo has one of that name" in error
    rows = (work / "ink" / "ink.csv").read_text().splitlines()
    assert ",ink,darkness" in rows[0] and rows[1].split(",")[-1] == "255.0"
    found = json.loads(run.tglo("doctor", "--json")[0])["findings"]
    status = {one["name"]: one["status"] for one in found}
    assert (
        status["objective scaled"] == status["reward darkness"] == status["command count"] == "ok"
    )
    assert status["family ToyPipeline"] == "ok"
    for name in ("objective tgo", "objective broken", "reward ink", "reward not_there"):
        assert status[name] == "problem"


def test_nothing_is_looked_up_for_names_of_tglos_own(run: Run) -> None:
    done = run.python(
        "-c",
        "import sys, importlib.metadata as m\n"
        "look_up = m.entry_points\n"
        "def entry_points(**options):  # torch asks for backends\n"
        "    assert not options.get('group', '').startswith('tglo'), options\n"
        "    return look_up(**options)\n"
        "m.entry_points = entry_points\n"
        "from tglo import cli\n"
        "from tglo.rewards import load_scorer\n"
        "from tglo.train.config_files import parse_config\n"
        "load_scorer('ink')\n"
        "parse_config({'objective': {'name': 'kto', 'csft': {}}})\n"
        "assert cli.main(['plan', '--model', 'sd15']) == 0\n"
        "assert 'toy' not in sys.modules\n",
    )
    assert done.returncode == 0, done.stderr


def test_a_configuration_is_built_in_python(run: Run) -> None:
    done = run.python(
        "-c",
        "from toy.objective import Constants\n"
        "from tglo.train import TrainConfig, objective_config\n"
        "from tglo.train.config_files import parse_config, to_plain\n"
        "config = TrainConfig(objective=objective_config('scaled', scaled=Constants(5.0)))\n"
        "again = parse_config(to_plain(config))\n"
        "assert isinstance(again, TrainConfig) and again.objective.constants == Constants(5.0)\n"
        "try:\n"
        "    objective_config('none')\n"
        "except ValueError as error:\n"
        "    assert \"no objective 'none'\" in str(error) and 'scaled' in str(error)\n",
    )
    assert done.returncode == 0, done.stderr


def test_two_packages_with_one_name_are_refused(toy: Path, work: Path, tmp_path: Path) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tglo.rewards]\ndarkness = other:darkness\n")
    both = Run(toy)
    both.environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    _, error = both.tglo("score", str(work / "data/scored.csv"), "--scorer", "darkness", status=1)
    assert "reward 'darkness' of package toy and other is offered more than once" in error
