"""The flags of `tglo rate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from tglo.console.verbosity import note, show
from tglo.settings import ManifestOptions


def rate(
    manifest: Positional[Path],
    output: Path | None = None,
    export: Path | None = None,
    rater: str = "",
    overlap: int = 0,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int = 8421,
    token: str | None = None,
    reading: OmitArgPrefixes[ManifestOptions] = ManifestOptions(),
) -> dict[str, Any]:
    """Rate images or videos with one to five stars, on a page in the browser; or write the ratings as a manifest.

    For example: tglo rate data/manifest.csv, and in the browser the keys 1 to 5; then
    tglo rate data/manifest.csv --export data/rated.csv

    Each rating is on the disk before the page says so. The same command resumes where it was stopped. Several
    people rate at once, each under a name of their own that the page asks for, and in an order of their own.

    Args:
        manifest: Images or videos with prompts, with or without scores: whatever `tglo score` takes.
        output: Folder of the ratings; beside the manifest, its name with -ratings, by default.
        export: Write the ratings so far to this file (.csv, .tsv, .jsonl, .parquet), as `tglo threshold` and
            training read it, and how far raters agree, instead of opening the page.
        rater: Name of the rater, which the page asks for otherwise.
        overlap: So many people rate each image, those with fewest ratings first; 1 shares the images out.
            0: everybody rates all.
        seed: Of the orders in which raters see the images.
        host: Address that is served; other machines reach 0.0.0.0, with a token.
        port: Its port; 0 takes a free one.
        token: What the address must show: a word, or random.
        reading: How the manifest is read; its scores do not matter.
    """
    from dataclasses import asdict

    from tglo.data.manifest import read_manifest
    from tglo.rate.folder import distinct_rows, folder_of
    from tglo.settings import SEED, Limit, check_limits

    check_limits({"overlap": overlap, "seed": seed}, {"overlap": Limit(0, 1000), "seed": SEED})
    folder = output or folder_of(manifest)
    rows = distinct_rows(read_manifest(manifest, **asdict(reading), require_scores=False))
    if export is not None:
        from tglo.rate.export import export as write

        summary = write(rows, manifest, folder, export)
        show(str(summary))
        note(f"wrote {export}")
        return {"output": export, **asdict(summary)}
    from tglo.rate.run import rate as run

    run(
        rows,
        folder,
        rater=rater,
        overlap=overlap,
        seed=seed,
        host=host,
        port=port,
        token=token,
    )
    return {"output": folder}
