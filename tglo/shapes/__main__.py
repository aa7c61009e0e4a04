"""Writes the shapes world's base model and prompt sets: ``python -m tglo.shapes FOLDER``.

FOLDER/base is the model, FOLDER/prompts/SET.txt have a prompt in each line: train, validation, seen,
unseen, paraphrases (see tglo.shapes.scenes.prompt_set). Their rewards are in tglo.shapes.rewards.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tglo.shapes import BASE, scenes
from tglo.shapes.weights import shipped

SETS = {"train": 128, "validation": 64, "seen": 64, "unseen": 64, "paraphrases": 64}


def write_world(folder: Path, sets: dict[str, int] | None = None) -> None:
    """Copy the base model and write the prompt sets of these sizes; a folder of this world is made
    anew, what else is in it stays. ValueError for a folder of something else.
    FileNotFoundError where the base model was left out.
    """
    base = shipped(BASE)
    ours = (folder / "prompts" / "train.txt").exists()
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something else; give another folder")
    (folder / "prompts").mkdir(parents=True, exist_ok=True)
    for name, count in (SETS if sets is None else sets).items():
        text = "\n".join(scenes.prompt_set(name, count))
        (folder / "prompts" / f"{name}.txt").write_text(f"{text}\n")
    shutil.copytree(base, folder / "base", dirs_exist_ok=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tglo.shapes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder to make")
    folder = parser.parse_args().folder
    try:
        write_world(folder)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(f"wrote {folder}/base and {folder}/prompts/ ({', '.join(SETS)})")


if __name__ == "__main__":
    main()
