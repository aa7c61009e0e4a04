"""docs/gpu-predictions.md: the model in words, its inputs, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.predictions import model
from benchmarks.predictions.geometry import plan_one_launch
from benchmarks.predictions.gpus import COSTS, GPUS, Gpu
from benchmarks.predictions.kernels import Loop, code_of
from tglo.bench.table import markdown, number

SIZES = {
    "sd15": 4 * 64 * 64,
    "sdxl": 4 * 128 * 128,
    "flux": 16 * 128 * 128,
    "qwen-image": 16 * 166 * 166,
    "wan": 16 * 21 * 60 * 104,
}
"""Elements of a sample; SD3 and Z-Image have as many as FLUX."""
BATCHES = (1, 2, 4, 8, 16, 32)

TEXT = """# Predicted GPU times

**Nothing on this page was measured.** It is what a small model expects of the CUDA kernels, so that the first
run on a GPU has something to be held against: `benchmarks/gpu_check.sh` ends with a table of measured times
beside these. `python -m benchmarks.predictions` writes this page from the kernels' machine code (as
`python -m benchmarks.resources` reads it; {nvcc}) and the tables below. All figures are for bfloat16 with the
reference's prediction and without a mask, in microseconds of GPU time inside a CUDA graph, inputs coming from memory.

How far to trust it: above 50 us the bytes decide, and 15% either way is what the bandwidth of copies leaves open.
Below 20 us most of a time is launches, latencies and the reduction's tail, whose costs are guesses; there
expect errors of 1.5 times either way. Differences between two kernels on one GPU are safer than any single figure.

## The model

A launch takes: the launch itself; the head until the first load; a pass over the elements; a tail. A pass
takes the latency of its first load and the longest of

- **memory**: bytes that come from and go to memory, over the bandwidth of a large copy. What a launch before
  read, or an earlier pass of the same launch, is in the second-level cache if it is not larger than half of it;
- **L2**: bytes read and written, over the second-level cache's bandwidth. A vector that is stored in pieces counts
  as often as it has pieces;
- **latency**: waves times trips, less the first, times the latency of a load. A wave is as many blocks as fit on
  the GPU at once; a trip is as many vectors as a thread loads before it uses the first. This is Little's law: at
  no time is more under way than 16 bytes for each load in flight, of each thread that fits;
- **instructions**: those of the loop for every vector and warp, over four a clock and multiprocessor.

The two launches of the loss add the forward's tail: sums over the block, the arrival at a counter, and the last
block's finish of all rows, eight at a time. A cluster adds its synchronisation, and writes the gradient from
shared memory. A cooperative grid takes the samples in rounds of as many groups as half of the second-level cache
holds, and reads two predictions again from there for the gradient; a group's meeting costs what the other groups'
work does not hide.

Guesses, the same for every GPU: {costs}.

{gpus}

Memory bandwidth and cache size are the vendor's figures. Large copies were seen at about 90% of that bandwidth on
H100 and H200; the other two GPUs are given {share}. Bandwidth of the second-level cache and latencies under load are
rounded estimates: published microbenchmarks differ among each other, and few of them are under load.

## The kernels

{kernels}

`blocks` fit on a multiprocessor. A loop is given as vectors at once x instructions for each, 16-byte loads in flight
before the first is used. What is left over of `sums` is taken by two vectors, then by one.

## Times

`two` is `tgo_loss` with its backward, `one` is `loss_and_grad` in the form that is named, `noise` is the noising. In
brackets: the share of the floor, which is 12, 8 and 4 bytes an element over the bandwidth of copies (above 100% where
predictions are read from the second-level cache), and what most of the longest pass is spent on.
"""


class Form(NamedTuple):
    """A contender of `tglo bench` that the model knows."""

    contender: str
    one: bool
    reference: bool

    def time(self, gpu: Gpu, codes: model.Codes, batch: int, elements: int) -> model.Time:
        predict = model.one_launch if self.one else model.two_launches
        return predict(gpu, codes, batch, elements, self.reference)


FORMS = (
    Form("tglo cuda", False, True),
    Form("tglo cuda, cached", False, False),
    Form("tglo loss_and_grad cuda", True, True),
    Form("tglo loss_and_grad cuda, cached", True, False),
)


def cell(time: model.Time, floor: float) -> str:
    """Format a time with its share of the floor and what bounds it."""
    return (
        f"{number(time.us, 2 if time.us < 10 else 3)} ({100 * floor / time.us:.0f}%, {time.bound})"
    )


def times(gpu: Gpu, codes: model.Codes) -> str:
    """Tabulate a GPU's times, a line for each size and batch."""
    lines = []
    for name, elements in SIZES.items():
        for batch in BATCHES:
            resident = codes["cooperative.loss_and_grad", True].resident(gpu.capability)
            plan = plan_one_launch(gpu, batch, elements, model.HALF, resident)
            made = (
                (model.two_launches(gpu, codes, batch, elements, True), 12),
                (model.one_launch(gpu, codes, batch, elements, True), 8),
                (model.noise(gpu, codes, batch, elements), 4),
            )
            cells = [cell(t, model.floor(gpu, batch, elements, n)) for t, n in made]
            lines.append([f"{name}-{batch}", cells[0], cells[1], plan.name, cells[2]])
    return markdown(["size", "two", "one", "form of one", "noise"], lines)


def gpus() -> str:
    """Tabulate the figures of the GPUs."""
    header = [
        *("GPU", "multiprocessors", "GHz", "memory TB/s", "copy TB/s", "L2 MB", "L2 TB/s"),
        *("latency us", "of L2 us"),
    ]
    lines = [
        [
            *(gpu.name, str(gpu.multiprocessors), f"{gpu.clock:g}", f"{gpu.peak:.2f}"),
            *(f"{gpu.copy:.2f}", str(gpu.cache // 2**20), f"{gpu.cache_bandwidth:.1f}"),
            *(f"{gpu.latency:.2f}", f"{gpu.cache_latency:.2f}"),
        ]
        for gpu in GPUS
    ]
    return markdown(header, lines)


def _loop(loop: Loop | None) -> str:
    return f"{loop.vectors} x {loop.instructions:.0f}, {loop.in_flight}" if loop else ""


def kernels(rows: Sequence[dict[str, Any]]) -> str:
    """Tabulate what the model takes from the machine code."""
    lines = []
    for sm in (80, 90):
        for (name, reference), code in code_of(rows, sm).items():
            title = name + (" with reference" if reference else "")
            sizes = [str(code.registers), str(code.resident(sm))]
            sums = code.sums[0] if code.sums else None
            width = f"{code.store_bytes} bytes" if code.gradient else ""
            lines.append([f"{title}, sm_{sm}", *sizes, _loop(sums), _loop(code.gradient), width])
    header = ["kernel", "registers", "blocks", "sums", "gradient", "its stores"]
    return markdown(header, lines)


def compose(record: dict[str, Any]) -> str:
    """Return the page."""
    costs = ", ".join(
        f"{name.replace('_', ' ')} {value:g} us" for name, value in COSTS._asdict().items()
    )
    share = " and ".join(f"{100 * gpu.copy / gpu.peak:.0f}%" for gpu in GPUS[2:])
    opening = TEXT.format(
        nvcc=f"nvcc {record['nvcc'].split(',')[0]}", costs=costs, gpus=gpus(), share=share,
        kernels=kernels(record["rows"]),
    )  # fmt: skip
    parts = [opening.rstrip()]
    for gpu in GPUS:
        codes = code_of(record["rows"], gpu.code)
        chunk = model.tokens(gpu, codes, 1024, 8192)
        parts.append(
            f"### {gpu.name}\n\n{times(gpu, codes)}\n\nThe row kernels of 1,024 rows of 8,192 logits, "
            f"values and gradient: {number(chunk.us)} us."
        )
    return "\n\n".join(parts) + "\n"


def beside(record: dict[str, Any], measured: dict[str, Any]) -> str:
    """Tabulate measured times beside the predicted ones, for a record of `tglo bench` on a known GPU."""
    from benchmarks.predictions.gpus import gpu_of

    name = (measured.get("gpu") or {}).get("name", "")
    gpu = gpu_of(name)
    if measured["device"] != "cuda" or gpu is None:
        known = ", ".join(g.name for g in GPUS)
        return f"No predictions for {name or 'the CPU'}; there are some for {known}.\n"
    codes = code_of(record["rows"], gpu.code)
    forms = {form.contender: form for form in FORMS}
    lines = []
    for row in measured["rows"]:
        form, time = forms.get(row["contender"]), row["time_us"]
        if form is None or time is None or row["dtype"] != "bfloat16":
            continue
        batch = row["shape"][0]
        expected = form.time(gpu, codes, batch, row["elements"] // batch)
        ratio = f"{time['median'] / expected.us:.2f}"
        lines.append(
            [
                row["size"],
                row["contender"],
                number(expected.us),
                number(time["median"]),
                ratio,
                expected.bound,
            ]
        )
    header = [
        "size",
        "contender",
        "predicted us",
        "measured us",
        "measured / predicted",
        "expected bound",
    ]
    copies = measured["copy_bytes_per_second"] / 1e12
    return (
        f"{name}: copies moved {copies:.2f} TB/s, {gpu.copy:.2f} were expected.\n\n"
        f"{markdown(header, lines)}\n"
    )
