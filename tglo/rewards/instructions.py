"""What a reward model is asked beside the prompt: a part of the model, like its weights.

A model was trained on exact words, which its authors publish in a Python file of their code. They are read
from that file, which is parsed and never run, or from a text file that holds nothing else.
"""

from __future__ import annotations

import ast
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tglo.rewards.weights import Part

log = logging.getLogger("tglo")

PART = "instruction"
PROMPT = "{text_prompt}"  # where the prompt goes
TEXT = "instruction.txt"
_MOST_BYTES = 2**20


@dataclass(frozen=True)
class Instruction:
    """Where the words are published.

    constants: names of the strings in the authors' file `path` of `repository`, joined in this order.
    rewards: the tokens that the model's head reads, in the order of the text.
    digest: SHA-256 of the published text, the beginning of it in hexadecimal digits.
    package: whether the registry's package of the repository's name has the file, too.
    """

    repository: str
    path: str
    constants: Sequence[str]
    rewards: Sequence[str]
    digest: str
    package: bool = False

    @property
    def part(self) -> Part:
        """The part of a model that is this text."""
        page = f"https://github.com/{self.repository}/blob/main/{self.path}"
        files = ((self.path.rpartition("/")[2],), (TEXT,))
        package = self.path if self.package else ""
        return Part(files, None, page, single=True, package=package)

    def read(self, path: Path) -> str:
        """Return the text of a file. ValueError naming what it lacks; a warning for another text."""
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path} has more than {_MOST_BYTES} bytes; {self._remedy}")
        try:
            content = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text in UTF-8; {self._remedy}") from None
        text = self._joined(path, content) if path.suffix == ".py" else content
        self._check(path, text)
        if not hashlib.sha256(text.encode()).hexdigest().startswith(self.digest):
            log.warning(
                "%s is not word for word what %s publishes in %s: scores do not compare with published ones",
                path,
                self.repository,
                self.path,
            )
        return text

    def _joined(self, path: Path, source: str) -> str:
        try:
            body = ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{path} is no Python: {error}; {self._remedy}") from None
        found: dict[str, str] = {}
        for line in body:
            if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
                for target in line.targets:
                    if isinstance(target, ast.Name) and isinstance(line.value.value, str):
                        found[target.id] = line.value.value
        lacking = [name for name in self.constants if name not in found]
        if lacking:
            raise ValueError(f"{path} has no string {' and '.join(lacking)}; {self._remedy}")
        return "".join(found[name] for name in self.constants)

    def _check(self, path: Path, text: str) -> None:
        for mark in (PROMPT, *self.rewards):
            if text.count(mark) != 1:
                raise ValueError(
                    f"{path} has {mark} {text.count(mark)} times, not once; {self._remedy}"
                )
        places = [text.index(token) for token in self.rewards]
        if places != sorted(places) or places[-1] < text.index(PROMPT):
            raise ValueError(
                f"{path} must have {', '.join(self.rewards)} in this order, and {PROMPT} before the last; "
                f"{self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return (
            f"take {self.path} of github.com/{self.repository}, or a text file with "
            f"{' and '.join(self.constants)} of it"
        )
