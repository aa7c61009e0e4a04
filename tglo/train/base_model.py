"""The digest of the base model, where a run needs more of it than its checkpoints hold."""

from __future__ import annotations

import hashlib
import json
import logging
import threading

from tglo.models import fingerprint
from tglo.models.families.base import Family
from tglo.train import processes
from tglo.train.config import TrainConfig, reference_mode

log = logging.getLogger("tglo")


class BaseModel:
    """Reads the untrained denoiser's files in the background, on rank 0: some 1.2 GB/s on one core.

    Only where it counts: below a LoRA, and as a frozen reference. Elsewhere a checkpoint has all.
    """

    def __init__(self, config: TrainConfig, family: Family) -> None:
        self._family = family
        self._result: dict[str, str] | BaseException = {}
        self._thread = threading.Thread(target=self._read, name="tglo-base", daemon=True)
        self._counts = config.model.train == "lora" or (
            reference_mode(config) == "copy" and not config.objective.update_reference_every_epoch
        )
        if self._counts and processes.rank() == 0:
            self._thread.start()

    def digests(self) -> dict[str, str]:
        """Return its digest as `same_data.changes` takes it, {} where it does not count; collective."""
        if not self._counts:
            return {}
        return processes.from_main(self._wait)

    def _wait(self) -> dict[str, str]:
        if self._thread.is_alive():
            log.info("waiting until the base model's files have been read")
        self._thread.join()
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def _read(self) -> None:
        try:
            text = json.dumps(fingerprint.denoiser(self._family), sort_keys=True)
            self._result = {"base": hashlib.sha256(text.encode()).hexdigest()}
        except BaseException as error:
            self._result = error
