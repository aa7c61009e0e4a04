"""The tables of an evaluation as LaTeX, which needs no package."""

from __future__ import annotations

from collections.abc import Sequence

from tglo.evaluate.tables import MARK, SIGNS, Table, note


def latex(found: Sequence[Table]) -> str:
    """Return a tabular for each table."""
    blocks = [f"% {_ascii(note(found))}"]
    for table in found:
        header, *rows = (
            " & ".join(escape(str(cell)) for cell in cells) + r" \\"
            for cells in (table.header, *table.rows)
        )
        columns = "l" + "r" * (len(table.header) - 1)
        title = f"% {' '.join(table.title.split())}"
        begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
        lines = [title, begin, r"\hline", header, r"\hline", *rows, r"\hline", end]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    MARK: r"$^\dagger$",
    SIGNS["better"]: r"$\bigtriangleup$",
    SIGNS["worse"]: r"$\bigtriangledown$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _ascii(text: str) -> str:
    """Return a note for a comment, which no engine must be able to print."""
    return (
        text.replace(MARK, "dagger")
        .replace(SIGNS["better"], "up:")
        .replace(SIGNS["worse"], "down:")
    )


def escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)
