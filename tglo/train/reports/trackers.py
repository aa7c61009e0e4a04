"""TensorBoard, wandb and trackio behind one small interface; none of them can stop a run."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tglo.train.config import OutputConfig

log = logging.getLogger("tglo")
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

    def close(self, patience: float = 20.0) -> None:
        """Wait for what is queued, but no longer than `patience` seconds."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._queue.put(None, timeout=patience)
            self._thread.join(patience)
            if self._thread.is_alive():
                log.warning("a tracker hangs; metrics.jsonl is complete")

    def _work(self, config: OutputConfig, settings: dict[str, Any]) -> None:
        writers: dict[str, Writer] = {}
        for chosen in config.trackers:
            try:
                writers[chosen] = TRACKERS[chosen](config, settings)
            except Exception as error:
                log.warning("tracker %s did not start (%s); training goes on", chosen, error)
        while (entry := self._queue.get()) is not None:
            for name, (write, _) in list(writers.items()):
                try:
                    write(*entry)
                except Exception as error:
                    log.warning("tracker %s failed (%s) and is switched off", name, error)
                    del writers[name]
        for name, (_, close) in writers.items():
            try:
                close()
            except Exception as error:
                log.warning("tracker %s did not close (%s)", name, error)


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

    run = wandb.init(project=config.project, config=settings, dir=str(config.folder))
    return (lambda step, values: run.log(values, step=step)), run.finish


def _trackio(config: OutputConfig, settings: dict[str, Any]) -> Writer:
    import trackio

    trackio.init(project=config.project, name=config.folder.name, config=settings)
    return (lambda step, values: trackio.log(values, step=step)), trackio.finish


TRACKERS: dict[str, Callable[[OutputConfig, dict[str, Any]], Writer]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
