"""Peak memory: of the process on the CPU, of torch's allocator on a GPU."""

from __future__ import annotations

from pathlib import Path

import torch


class Peak:
    """The most memory in use since this was made, above what was in use then, in bytes."""

    def __init__(self, *, cuda: bool) -> None:
        self.cuda = cuda
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before = _status("VmRSS:")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew

    def read(self) -> int:
        """Return the peak so far."""
        if self.cuda:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - self.before
        return _status("VmHWM:") - self.before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
