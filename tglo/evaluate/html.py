"""Reports: an HTML page with its images inside and nothing to run or to load."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from tglo.evaluate.diversity import FRAMES
from tglo.evaluate.tables import NOTE, Table


def page(
    facts: Sequence[str],
    tables: Sequence[Table],
    figures: Mapping[str, bytes],
    samples: Mapping[str, tuple[bytes, Sequence[str]]],
    videos: Sequence[str] = (),
) -> str:
    """Return the page of an evaluation. figures: title -> PNG; samples: title -> (PNG, the prompts of
    its columns); videos: HTML of tglo.evaluate.videos in place of samples.
    """
    parts = [bullets(facts), *(figure(title, data) for title, data in figures.items())]
    for title, (data, prompts) in samples.items():
        listed = "".join(f"<li>{text(prompt)}</li>" for prompt in prompts)
        parts.append(f"{figure(title, data)}\n<ol>{listed}</ol>")
    parts += videos
    parts += [f"<h2>{text(table.title)}</h2>\n{grid(table)}" for table in tables]
    words = _OF_VIDEOS if videos else _OF_IMAGES
    introduction = _INTRODUCTION.format(note=text(NOTE), **words)
    return document("Evaluation", introduction, parts, videos=bool(videos))


def document(title: str, introduction: str, parts: Sequence[str], videos: bool = False) -> str:
    """Return a whole page; all but the title is HTML. videos: it plays some, of its own or beside it."""
    return _PAGE.format(
        title=text(title),
        introduction=introduction,
        body="\n".join(parts),
        media=" media-src data: 'self' file:;" if videos else "",
        style=_VIDEO_STYLE if videos else "",
    )


def bullets(facts: Sequence[str]) -> str:
    """Return a list of texts."""
    return f"<ul>{''.join(f'<li>{text(fact)}</li>' for fact in facts)}</ul>"


def figure(title: str, data: bytes) -> str:
    """Return a picture, PNG bytes, under its title."""
    encoded = base64.b64encode(data).decode()
    source = f"data:image/png;base64,{encoded}"
    return f'<h2>{text(title)}</h2>\n<img alt="{text(title)}" src="{source}">'


def grid(table: Table) -> str:
    """Return a table without its title."""
    header = "".join(f"<th>{text(cell)}</th>" for cell in table.header)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return f"<table><tr>{header}</tr>\n{rows}\n</table>"


def text(plain: str) -> str:
    """Return text as HTML shows it."""
    return html.escape(plain, quote=True)


_INTRODUCTION = """<p>All models have the same prompts and seeds. {note} A win rate is the share of {noun} that score
above the other model's of the same prompt and seed; a tie is half a win. Diversity is the mean
distance between the {noun} of one prompt, as the root mean square colour difference (CIE L*a*b*) of
{measured} at 16 x 16 pixels: 0 when they are all equal.</p>"""
_OF_IMAGES = {"noun": "images", "measured": "the images"}
_OF_VIDEOS = {"noun": "videos", "measured": f"{FRAMES} frames of each, evenly from first to last,"}
_VIDEO_STYLE = """h3 { font-size: 1rem; margin-bottom: .4rem; overflow-wrap: anywhere }
.videos { display: grid; gap: .8rem }
.videos { grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)) }
figure { margin: 0; max-width: 30rem } video { width: 100%; height: auto; background: #eee }
.strip { overflow-x: auto } .strip img { max-width: none }
"""
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:;{media} style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222 }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
h2 {{ font-size: 1.1rem; margin-top: 2rem; overflow-wrap: anywhere }} img {{ max-width: 100% }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
pre {{ background: #f5f5f5; padding: 1rem; overflow-x: auto }}
{style}</style>
<h1>{title}</h1>
{introduction}
{body}
</html>
"""
