"""`tglo rate`: the server over a folder of ratings, one at a time."""

from __future__ import annotations

import logging
from pathlib import Path

from tglo.data.manifest import Manifest
from tglo.files import locked
from tglo.pages.serve import check_address, serve
from tglo.rate.app import application
from tglo.rate.desk import Desk
from tglo.rate.events import clean_name
from tglo.rate.folder import aside, check_book
from tglo.rate.log import FILE, RatingLog

log = logging.getLogger("tglo")


def rate(
    manifest: Manifest,
    folder: Path,
    *,
    rater: str = "",
    overlap: int = 0,
    seed: int = 0,
    host: str,
    port: int,
    token: str | None,
) -> None:
    """Serve the page until Ctrl-C. manifest: its rows are all different. folder: of the ratings; made if need be.

    ValueError for another server on the folder, ratings of another manifest, and an address that cannot be served.
    """
    rater = clean_name(rater) if rater else ""
    token = check_address(host, token)
    busy = f"another `tglo rate` takes ratings into {folder}: rate on its page, or give another --output"
    with locked(folder / ".lock", busy):
        ratings = RatingLog(folder / FILE)
        desk = Desk(manifest, ratings, overlap=overlap, seed=seed)
        check_book(desk.book, folder)
        if desk.book.set_aside:
            log.warning("%s", aside(desk.book.set_aside))
        for known in desk.book.raters.values():
            log.info("%s: %d of %d images rated", known.name, known.rated, len(manifest))
        what = f"{len(manifest)} images to rate, ratings in {folder}"
        serve(application(desk, rater), host=host, port=port, token=token, what=what)
