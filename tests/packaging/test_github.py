"""The release workflow, the issue forms and the Dockerfile, as far as they can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
TEXT = (GITHUB / "workflows/release.yml").read_text()
RELEASE: dict[Any, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, dict[str, Any]] = RELEASE["jobs"]
PLACEHOLDER = "Project-URL: Issues, https://github.example.org/tglo/tglo/issues"


def test_only_a_tag_is_published_and_nothing_is_secret() -> None:
    assert "secrets." not in TEXT and "password" not in TEXT
    assert RELEASE[True] == {"push": {"tags": ["v*"]}, "workflow_dispatch": None}  # "on", to YAML
    assert RELEASE["permissions"] == {"contents": "read"}
    allowed = {name: job.get("permissions") for name, job in JOBS.items()}
    assert allowed == {"sdist": None, "wheels": None, "publish": {"id-token": "write"}}
    assert JOBS["publish"]["if"] == "github.ref_type == 'tag'"
    assert JOBS["publish"]["environment"] == "pypi"


def test_wheels_are_made_from_the_sdist() -> None:
    assert JOBS["wheels"]["needs"] == "sdist"
    assert JOBS["publish"]["needs"] == ["sdist", "wheels"]
    steps = [step.get("run", "") for step in JOBS["wheels"]["steps"]]
    assert any("cibuildwheel" in step and "dist/*.tar.gz" in step for step in steps)


@pytest.mark.parametrize("job", JOBS)
def test_steps_are_shell(job: str) -> None:
    for step in JOBS[job]["steps"]:
        assert ("run" in step) != ("uses" in step)
        done = subprocess.run(["bash", "-n"], input=step.get("run", ""), text=True)
        assert done.returncode == 0, step


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
@pytest.mark.parametrize(
    ("line", "status"), [(PLACEHOLDER, 1), (PLACEHOLDER.replace(".example.org", ".com"), 0)]
)
def test_placeholders_are_not_published(line: str, status: int, tmp_path: Path) -> None:
    (guard,) = [step["run"] for step in JOBS["publish"]["steps"] if "run" in step]
    (tmp_path / "tglo-1").mkdir()
    (tmp_path / "tglo-1/PKG-INFO").write_text(f"Name: tglo\n{line}\n")
    (tmp_path / "dist").mkdir()
    subprocess.run(["tar", "czf", "dist/tglo-1.tar.gz", "tglo-1"], cwd=tmp_path, check=True)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", guard], cwd=tmp_path)
    assert done.returncode == status


def test_issue_forms_can_be_filled_in() -> None:
    forms = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert form["name"] and form["description"]
            fields = [field["id"] for field in form["body"]]
            assert len(fields) == len(set(fields)) > 1
            assert all(field["attributes"]["label"] for field in form["body"])


def test_the_dockerfile_has_both_targets_and_installs_what_was_tested_together() -> None:
    text = (ROOT / "examples/launch/Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)
    assert stages == ["cpu", "cuda"]
    for stage in text.split("\nFROM ")[1:]:
        assert stage.count("pip install") == stage.count("-c constraints.txt") == 2
        assert "COPY . ." in stage and 'ENTRYPOINT ["tglo"]' in stage
    left_out = (ROOT / "examples/launch/Dockerfile.dockerignore").read_text().split()
    assert not {"tglo", "csrc", "kernels", "examples", "README.md", "LICENSE"} & set(left_out)
