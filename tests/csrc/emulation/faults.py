"""Faults to plant into csrc/: what is replaced, and where it should show.

All are planted into one tree, in which each stays without effect until the environment names its number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    name: str
    file: str
    old: str  # a regular expression, found at least once
    new: str  # as `old` where PLANTED is false, which is true for the fault that the environment names
    cases: str = "loss"
    device: str = "small90"
    sanitizer: str = ""
    explained: str = ""  # why nothing here can show it; empty: it has to be caught

    def plant(self, name: str, text: str, number: int) -> str:
        if name != self.file:
            return text
        new = self.new.replace("PLANTED", f"::emulation::planted({number})")
        changed, count = re.subn(self.old, new, text, flags=re.DOTALL)
        if count == 0 or changed == text:
            raise ValueError(
                f"{self.file} has no {self.old!r} to plant {self.name!r} at: renew tests/csrc/emulation/faults.py"
            )
        return changed


BARRIER = r"(__syncthreads\(\);)"
FAULTS = [
    Fault(
        "no barrier before the warps' sums of a row are added",
        "loss/rows.cuh",
        rf"(scratch\[threadIdx\.x / threads_per_warp\] = warp;\n  ){BARRIER}",
        r"\1if (!PLANTED) \2",
    ),
    Fault(
        "no barrier before the warps' sums are added",
        "common/device.cuh",
        rf"(scratch\[threadIdx\.x / threads_per_warp\] = value;\n  ){BARRIER}",
        r"\1if (!PLANTED) \2",
        cases="tokens",
    ),
    Fault(
        "no barrier before the scratch is written again",
        "loss/rows.cuh",
        rf"{BARRIER}(  // the scratch may still be read)",
        r"if (!PLANTED) \1\2",
        device="narrow90",
        sanitizer="thread",
    ),
    Fault(
        "arrivals without order",
        "common/device.cuh",
        r"(asm volatile\(\"atom\.)acq_rel(\.gpu.*?\"memory\"\);)",
        r"if (PLANTED) \1relaxed\2\n    else \1acq_rel\2",
        device="narrow90",
        sanitizer="thread",
    ),
    Fault(
        "waiting without order",
        "common/device.cuh",
        r"(asm volatile\(\"ld\.)acquire(\.gpu.*?\"memory\"\);)",
        r"if (PLANTED) \1relaxed\2\n    else \1acquire\2",
        device="small80",
        sanitizer="thread",
    ),
    Fault(
        "one buffer fewer where groups meet",
        "common/arrival.h",
        r"static constexpr int64_t buffers = (\d);",
        r"static inline const int64_t buffers = \1 - PLANTED;",
        device="small80",
    ),
    Fault(
        "a workspace that is too short",
        "loss/loss.cu",
        r"\(3 \* ([\w.]+(?:\(elements\))?) \+ 2\)",
        r"(3 * \1 + 2 - PLANTED)",
    ),
    Fault(
        "a counter that is not put back to 0",
        "loss/loss.cu",
        r"if \(threadIdx\.x == 0\) \*loss\.counters = 0;",
        "if (threadIdx.x == 0 && !PLANTED) *loss.counters = 0;",
    ),
    Fault(
        "some counters that are not put back to 0",
        "loss/cooperative.cu",
        r"k < 1 \+ groups \*",
        "k < !PLANTED + groups *",
        device="single80",
    ),
    Fault(
        "the wrong lane in a shuffle",
        "common/device.cuh",
        r"(value \+= __shfl_xor_sync\(0xffffffffu, value, )offset\)",
        r"\1PLANTED && offset == 1 ? 2 : offset)",
    ),
    Fault(
        "a lane that takes no part in a shuffle",
        "common/device.cuh",
        r"(value \+= __shfl_xor_sync\()0xffffffffu",
        r"\1PLANTED ? 0x7fffffffu : 0xffffffffu",
    ),
    Fault(
        "the end of a slice off by one",
        "loss/rows.cuh",
        r"end = to < loss\.call\.elements \? to :",
        "end = to < loss.call.elements ? to + PLANTED :",
    ),
    Fault(
        "a row's end off by one, reading",
        "common/device.cuh",
        r"i \+ k < end \? to_float",
        "i + k < end + PLANTED ? to_float",
    ),
    Fault(
        "a row's end off by one, writing",
        "common/device.cuh",
        r"if \(i \+ k < end\) row",
        "if (i + k < end + PLANTED) row",
    ),
    Fault(
        "the mask of another row",
        "loss/mask.cuh",
        r"row \* mask\.row_stride",
        "(PLANTED ? row / 2 : row) * mask.row_stride",
    ),
    Fault(
        "the coefficient of another draw, in a cluster",
        "loss/cluster.cu",
        r"shared\.coefficients\[draw\]",
        "shared.coefficients[PLANTED ? 0 : draw]",
    ),
    Fault(
        "the coefficient of another draw, in a cooperative grid",
        "loss/cooperative.cu",
        r"shared\.coefficients\[draw\]",
        "shared.coefficients[PLANTED ? 0 : draw]",
        device="small80",
    ),
    Fault(
        "blocks without work leave before the others meet",
        "loss/cluster.cu",
        r"  cluster\.sync\(\);",
        "  if (PLANTED && (first >= call.elements || rank == 1)) return;\n  cluster.sync();",
    ),
    Fault(
        "threads leave before a barrier",
        "loss/cooperative.cu",
        r"(  for \(int64_t draw = warp;)",
        r"  if (PLANTED && lane == 31 && warp == 1) return;\n\1",
        device="small80",
    ),
    Fault(
        "blocks of a cluster leave while they are read",
        "loss/cluster.cu",
        r"  cluster\.barrier_wait\(std::move\(leaving\)\);",
        "  if (!PLANTED) cluster.barrier_wait(std::move(leaving));",
    ),
    Fault(
        "blocks of a cluster read before the others have written",
        "loss/cluster.cu",
        r"  cluster\.sync\(\);",
        "  if (!PLANTED) cluster.sync();",
    ),
    Fault(
        "no barrier before the coefficients are read",
        "loss/cooperative.cu",
        rf"(rank == 0 \? loss\.workspace : nullptr\);\n    ){BARRIER}",
        r"\1if (!PLANTED) \2",
        device="small80",
    ),
    Fault(
        "no barrier after the coefficients are read",
        "loss/cooperative.cu",
        rf"{BARRIER}(  // the coefficients have been read)",
        r"if (!PLANTED) \1\2",
        device="single80",
        explained="other barriers lie between these reads and the next sample's writes: it is one too many",
    ),
    Fault(
        "the same noise for neighbours",
        "noise/noise.cu",
        r"vector \* vector_blocks \+ block",
        "vector * vector_blocks + (PLANTED ? 0 : block)",
        cases="noise",
    ),
    Fault(
        "a row that stands for no position",
        "tokens/tokens.cu",
        r"if \(place < \*chunk\.count\)",
        "if (place < *chunk.count + PLANTED)",
        cases="tokens",
    ),
    Fault(
        "no barrier before the largest logit is known",
        "tokens/tokens.cu",
        rf"{BARRIER}(\n#pragma unroll\n  for \(int warp)",
        r"if (!PLANTED) \1\2",
        cases="tokens",
    ),
    Fault(
        "other blocks' sums through the first-level cache",
        "loss/rows.cuh",
        r"__ldcg\((from[^()]*)\)",
        r"(PLANTED ? __ldg(\1) : __ldcg(\1))",
        explained="memory is one here; on a GPU a stale line of the first-level cache could be read",
    ),
]
