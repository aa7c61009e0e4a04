"""TensorBoard, wandb and trackio behind one small interface; none of them can stop a run."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tglo.redaction import redacted
from tglo.train.config import OutputConfig

log = logging.getLogger("tglo")
PATIENCE = 20.0  # seconds
Writer = tuple[Callable[..., None], Callable[[], None]]


class Trackers:
    """A queue in front of the chosen trackers: they may raise or hang, training goes on."""

    def __init__(self, config: OutputConfig, settings: dict[str, Any]) -> None:
        self._queue: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(maxsize=1000)
        self._thread: threading.Thread | None = None
        if config.trackers:
            self._thread = threading.Thread(
                target=self._work, args=(config, settings), daemon=True, name="tglo-trackers"
            )
            self._thread.start()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Hand over one line; it is dropped if the trackers are 1,000 lines behind."""
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
            with _survived(chosen, "did not start; training goes on without it"):
                writers[chosen] = TRACKERS[chosen](config, settings)
        while (entry := self._queue.get()) is not None:
            for name, (write, _) in list(writers.items()):
                with _survived(name, "failed and is switched off") as worked:
                    write(*entry)
                if not worked:
                    del writers[name]
        for name, (_, close) in writers.items():
            with _survived(name, "did not close"):
                close()


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
    from torch.utils.tensorboard import SummaryWriter

    board = SummaryWriter(str(config.folder / "tensorboard"))  # type: ignore[no-untyped-call]

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        board.flush()  # type: ignore[no-untyped-call]

    return write, board.close


def _wandb(config: OutputConfig, settings: dict[str, Any]) -> Writer:
    import wandb

    run = wandb.init(project=redacted(config.project), config=settings, dir=str(config.folder))
    return (lambda step, values: run.log(values, step=step)), run.finish


def _trackio(config: OutputConfig, settings: dict[str, Any]) -> Writer:
    import trackio

    trackio.init(project=redacted(config.project), name=config.folder.name, config=settings)
    return (lambda step, values: trackio.log(values, step=step)), trackio.finish


TRACKERS: dict[str, Callable[[OutputConfig, dict[str, Any]], Writer]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
