"""The report: one HTML page with its images inside and nothing to run or to load."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from tglo.evaluate.tables import NOTE, Table


def page(
    facts: Sequence[str],
    tables: Sequence[Table],
    figures: Mapping[str, bytes],
    samples: Mapping[str, tuple[bytes, Sequence[str]]],
) -> str:
    """HTML. figures: title -> PNG; samples: title -> (PNG, the prompts of its columns)."""
    parts = [f"<ul>{''.join(f'<li>{_text(fact)}</li>' for fact in facts)}</ul>"]
    parts += [_figure(title, data) for title, data in figures.items()]
    for title, (data, prompts) in samples.items():
        listed = "".join(f"<li>{_text(prompt)}</li>" for prompt in prompts)
        parts.append(f"{_figure(title, data)}\n<ol>{listed}</ol>")
    parts += [_table(table) for table in tables]
    return _PAGE.format(note=_text(NOTE), body="\n".join(parts))


def _figure(title: str, data: bytes) -> str:
    encoded = base64.b64encode(data).decode()
    return (
        f'<h2>{_text(title)}</h2>\n<img alt="{_text(title)}" src="data:image/png;base64,{encoded}">'
    )


def _table(table: Table) -> str:
    header = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return f"<h2>{_text(table.title)}</h2>\n<table><tr>{header}</tr>\n{rows}\n</table>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Evaluation</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222 }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
h2 {{ font-size: 1.1rem; margin-top: 2rem }} img {{ max-width: 100% }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
</style>
<h1>Evaluation</h1>
<p>All models have the same prompts and seeds. {note} A win rate is the share of images that score
above the other model's of the same prompt and seed; a tie is half a win. Diversity is the mean
distance between the images of one prompt, as the root mean square colour difference (CIE L*a*b*) of
the images at 16 x 16 pixels: 0 when they are all equal.</p>
{body}
</html>
"""
