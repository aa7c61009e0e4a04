"""The kinds of fault, by name, in the order in which they take turns."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.faults.storm import changes, damage, inputs
from tests.faults.storm.disks import full_disk
from tests.faults.storm.interruptions import interrupted, twice
from tests.faults.storm.trial import Trial
from tests.faults.storm.world import COMMANDS

KINDS: dict[str, Callable[[Trial], None]] = {
    **{f"kill {name}": interrupted(name, signal.SIGKILL) for name in COMMANDS},
    **{f"stop {name}": interrupted(name, signal.SIGTERM) for name in COMMANDS},
    **{f"two {name}": twice(name) for name in COMMANDS},
    "damaged checkpoint": damage.checkpoint,
    "damaged run folder": damage.run_folder,
    "damaged cache": damage.cache,
    "damaged model": damage.model,
    "damaged manifest": damage.manifest,
    "damaged manifest format": damage.manifest_format,
    "damaged config": damage.config,
    "damaged threshold": damage.threshold,
    "damaged images": damage.images,
    "damaged scores": damage.scores,
    "damaged evaluation": damage.evaluation,
    **{f"full disk {name}": full_disk(name) for name in COMMANDS},
    "bad config": inputs.config,
    "bad manifest": inputs.manifest,
    "bad image": inputs.image,
    "bad prompts": inputs.prompts,
    "changed data, cache again": changes.cache_again,
    "changed data, resume": changes.resume,
}

SHORT_SEEDS = {
    "kill score": 5,
    "damaged run folder": 37,
    "damaged cache": 16,
    "damaged model": 5,
    "damaged config": 10,
    "damaged threshold": 17,
    "damaged scores": 14,
    "damaged evaluation": 19,
    "full disk train": 2,
    "full disk generate": 6,
    "bad prompts": 20,
    "changed data, cache again": 2,
}
"""Seeds of the short form, 1 for other kinds: faults that were not survived when the storm was new."""
