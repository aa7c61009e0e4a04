"""pyproject.toml, CITATION.cff and tglo/__init__.py say the same of the project."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml

from tglo import __version__

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_is_of_this_version_and_place() -> None:
    assert CITATION["cff-version"] == "1.2.0" and CITATION["message"] and CITATION["title"]
    assert CITATION["version"] == __version__
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["repository-code"] == PROJECT["urls"]["Repository"]
    paper = CITATION["preferred-citation"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert all(person["given-names"] and person["family-names"] for person in paper["authors"])


def test_addresses_share_their_host() -> None:
    urls = PROJECT["urls"]
    assert urls.keys() >= {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    ours = {name: url for name, url in urls.items() if name != "Paper"}
    assert all(url.startswith(urls["Repository"]) for url in ours.values())
    for name in ("Documentation", "Changelog"):
        assert (ROOT / urls[name].partition("/main/")[2]).exists()


def test_what_an_index_shows() -> None:
    assert PROJECT["license-files"] == ["LICENSE"] and (ROOT / "LICENSE").is_file()
    assert (ROOT / "tglo/py.typed").exists() == ("Typing :: Typed" in PROJECT["classifiers"])
    assert not [line for line in PROJECT["classifiers"] if line.startswith("License ::")]  # PEP 639
    assert len(PROJECT["keywords"]) >= 5 and PROJECT["authors"]


def test_weights_have_their_attribution_beside_them() -> None:
    for folder in ("tglo/demo", "tglo/shapes", "examples/moving_digits"):
        text = (ROOT / folder / "WEIGHTS.md").read_text()
        assert "Apache-2.0" in text
        top = {path.relative_to(ROOT / folder).parts[0] for path in weights(ROOT / folder)}
        assert top and all(f"`{name}" in text for name in top)
    assert "CC BY 4.0" in (ROOT / "tglo/demo/WEIGHTS.md").read_text()


def test_weights_lie_in_these_folders_alone() -> None:
    found = weights(ROOT / "tglo") + weights(ROOT / "examples")
    assert found
    folders = ("tglo/demo/", "tglo/shapes/", "examples/moving_digits/")
    assert all(path.relative_to(ROOT).as_posix().startswith(folders) for path in found)


def weights(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))
