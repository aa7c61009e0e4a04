"""TensorBoard, wandb and trackio behind one small interface; none of them can stop a run."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tglo.redaction import redacted
from tglo.train.config import OutputConfig

log = logging.getLogger("tglo")
PATIENCE = 20.0  # seconds
Writer = tuple[Callable[..., None], Callable[[], None]]


@dataclass(frozen=True)
class Picture:
    """A validation image in a file, or the sheet of a video's frames beside the video."""

    image: Path
    prompt: str
    video: Path | None = None


Values = Mapping[str, "float | Picture"]


class Trackers:
    """A queue in front of the chosen trackers: they may raise or hang, training continues."""

    def __init__(self, config: OutputConfig, settings: dict[str, Any]) -> None:
        self._queue: queue.Queue[tuple[int, Values] | None] = queue.Queue(maxsize=1000)
        self._thread: threading.Thread | None = None
        if config.trackers:
            self._thread = threading.Thread(
                target=self._work, args=(config, settings), daemon=True, name="tglo-trackers"
            )
            self._thread.start()

    def write(self, step: int, values: Values) -> None:
        """Hand over one line, or pictures; it is dropped if the trackers are 1,000 lines behind."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._queue.put_nowait((step, values))

    def close(self, patience: float | None = None) -> None:
        """Wait for what is queued, but no longer than `patience` seconds (PATIENCE)."""
        if self._thread is not None:
            patience = PATIENCE if patience is None else patience
            with suppress(queue.Full):
                self._queue.put(None, timeout=patience)
            self._thread.join(patience)
            if self._thread.is_alive():
                log.warning("a tracker hangs; metrics.jsonl is complete")

    def _work(self, config: OutputConfig, settings: dict[str, Any]) -> None:
        writers: dict[str, Writer] = {}
        for chosen in config.trackers:
            with _survived(chosen, "did not start; training continues without it"):
                writers[chosen] = TRACKERS[chosen](config, settings)
        while (entry := self._queue.get()) is not None:
            step, values = entry[0], _there(entry[1])
            for name, (write, _) in list(writers.items()):
                with _survived(name, "failed and is switched off") as worked:
                    write(step, values)
                if not worked:
                    del writers[name]
        for name, (_, close) in writers.items():
            with _survived(name, "did not close"):
                close()


def _there(values: Values) -> dict[str, float | Picture]:
    """Leave out pictures that were removed while they waited."""
    return {
        name: value
        for name, value in values.items()
        if not isinstance(value, Picture) or value.image.is_file()
    }


@contextmanager
def _survived(name: str, what: str) -> Iterator[list[bool]]:
    """Log whatever a tracker raises, SystemExit too; the list that is yielded is empty then."""
    worked = [True]
    try:
        yield worked
    except BaseException as error:
        worked.clear()
        text = redacted(f"{type(error).__name__}: {error}")
        log.warning("tracker %s %s (%s)", name, what, text)


def _tensorboard(config: OutputConfig, _: dict[str, Any]) -> Writer:
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    board = SummaryWriter(str(config.folder / "tensorboard"))  # type: ignore[no-untyped-call]
    told: set[str] = set()

    def show(name: str, picture: Picture, step: int) -> None:
        with Image.open(picture.image) as image:  # a video would need moviepy: its sheet
            pixels = np.asarray(image.convert("RGB"))
        board.add_image(name, pixels, step, dataformats="HWC")  # type: ignore[no-untyped-call]
        if name not in told:
            told.add(name)
            board.add_text(f"{name}/prompt", picture.prompt, step)  # type: ignore[no-untyped-call]

    def write(step: int, values: Values) -> None:
        for name, value in values.items():
            if isinstance(value, Picture):
                show(name, value, step)
            else:
                board.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        board.flush()  # type: ignore[no-untyped-call]

    return write, board.close


def _wandb(config: OutputConfig, settings: dict[str, Any]) -> Writer:
    import wandb

    run = wandb.init(project=redacted(config.project), config=settings, dir=str(config.folder))
    return (lambda step, values: run.log(_media(wandb, values), step=step)), run.finish


def _trackio(config: OutputConfig, settings: dict[str, Any]) -> Writer:
    import trackio

    trackio.init(project=redacted(config.project), name=config.folder.name, config=settings)
    return (lambda step, values: trackio.log(_media(trackio, values), step=step)), trackio.finish


def _media(tracker: Any, values: Values) -> dict[str, Any]:
    """Return the values with pictures as wandb and trackio, which share these classes' names, have them."""

    def medium(picture: Picture) -> Any:
        if picture.video is not None:
            return tracker.Video(str(picture.video), caption=picture.prompt, format="mp4")
        return tracker.Image(str(picture.image), caption=picture.prompt)

    return {n: medium(v) if isinstance(v, Picture) else v for n, v in values.items()}


TRACKERS: dict[str, Callable[[OutputConfig, dict[str, Any]], Writer]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
