"""The predicted GPU times: their geometry is csrc's, the model behaves, the page is what it gives."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.predictions import __main__ as command
from benchmarks.predictions import geometry, kernels, model, page
from benchmarks.predictions.gpus import GPUS, gpu_of
from benchmarks.resources import binaries

CSRC = binaries.ROOT / "csrc"
RECORD = kernels.read()
H200, H100, A100, ADA = GPUS
WAN, SDXL = page.SIZES["wan"], page.SIZES["sdxl"]


def codes(sm: int = 90) -> dict[tuple[str, bool], kernels.Code]:
    return kernels.code_of(RECORD["rows"], sm)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_parts_are_cut_as_the_kernels_cut_them(tmp_path: Path) -> None:
    text = (CSRC / "loss/loss.cu").read_text()
    functions = re.findall(r"^int64_t \w*parts?\w*\([^)]*\) \{\n.*?^\}", text, re.M | re.S)
    sizes = [1, 2048, 4097, 16384, 65536, 131072, 131073, 262144, 1048577, WAN, 2**31]
    numbers = ", ".join(f"{size}LL" for size in sizes)
    source, program = tmp_path / "parts.cpp", tmp_path / "parts"
    source.write_text(
        "#include <cstdint>\n#include <cstdio>\n#include <initializer_list>\n"
        "struct Call { int64_t elements; };\nstruct CudaLoss { int64_t rows; Call call; };\n"
        f"constexpr int threads = {geometry.THREADS}, vector_length = {geometry.VECTOR};\n"
        + "\n".join(functions)
        + f"\nint main() {{\n  for (int64_t n : {{{numbers}}})\n    for (int64_t rows : {{1LL, 16LL}})\n"
        '      std::printf("%lld %lld %lld\\n", (long long)part_elements(n),\n'
        "        (long long)parts_of(n, part_elements(n)), (long long)backward_part({rows, {n}}));\n}\n"
    )
    subprocess.run(["g++", "-std=c++20", "-o", str(program), str(source)], check=True)
    lines = subprocess.run([program], capture_output=True, text=True).stdout.splitlines()
    expected = [
        (part, geometry.parts_of(n, part), geometry.backward_part(rows, n))
        for n in sizes
        for part in (geometry.part_elements(n),)
        for rows in (1, 16)
    ]
    assert [tuple(map(int, line.split())) for line in lines] == expected, (
        "csrc/loss/loss.cu cuts rows in another way: change benchmarks/predictions/geometry.py"
    )


def test_constants_are_the_kernels() -> None:
    sources = "".join(path.read_text() for path in sorted((CSRC / "loss").iterdir()))
    for name, value in (
        ("smallest_slice", geometry.SMALLEST_SLICE),
        ("largest_cluster", geometry.LARGEST_CLUSTER),
    ):
        found = re.search(rf"constexpr \w+ {name} = (\d+);", sources)
        assert found and int(found[1]) == value, f"benchmarks/predictions/geometry.py: {name}"


def test_plans_of_one_launch() -> None:
    plan = geometry.plan_one_launch
    assert plan(H100, 16, SDXL, 2, 2) == (True, 8, 16)
    assert plan(H100, 32, SDXL, 2, 2) == (True, 4, 32)
    assert plan(H100, 128, SDXL, 2, 2) == (True, 2, 128)
    assert plan(H100, 8, WAN, 2, 2) == (False, 132, 2)
    assert plan(A100, 8, SDXL, 2, 2) == (False, 27, 8)
    assert plan(ADA, 8, WAN, 2, 2) == (False, 64, 4)
    assert geometry.slice_of(1001, 2) == 504


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_times_grow_with_the_work_and_keep_the_floor(gpu: Any) -> None:
    known = codes(gpu.code)
    for form in page.FORMS:
        for elements in page.SIZES.values():
            several = [form.time(gpu, known, batch, elements).us for batch in page.BATCHES]
            assert several == sorted(several)
            least = 4 if form.one else 6  # what must come from memory where the cache has the rest
            assert several[-1] >= model.floor(gpu, 32, elements, least)
    assert model.noise(gpu, known, 32, WAN).us >= model.floor(gpu, 32, WAN, 4)
    assert model.tokens(gpu, known, 1024, 8192).us < model.tokens(gpu, known, 2048, 8192).us


def test_what_ought_to_help_helps() -> None:
    known = codes()
    backward = known["loss.backward", False]
    narrow = {**known, ("loss.backward", False): backward._replace(store_bytes=4)}
    wide = {**known, ("loss.backward", False): backward._replace(store_bytes=16)}
    slow, fast = (model.backward(H200, c, 8, WAN) for c in (narrow, wide))
    assert fast.us < 0.9 * slow.us and slow.bound == "L2" and fast.bound == "memory"

    forward = known["loss.forward", True]
    shallow = (forward.sums[0]._replace(vectors=1, in_flight=3),)
    less = {**known, ("loss.forward", True): forward._replace(sums=shallow)}
    one = [model.forward(H100, c, 1, SDXL, True).us for c in (known, less)]
    assert one[0] < one[1]
    crowded = forward._replace(sums=shallow, registers=255)
    alone = {**known, ("loss.forward", True): crowded}
    many = [model.forward(H200, c, 8, WAN, True).us for c in (less, alone)]
    assert many[0] < many[1]
    assert (
        model.two_launches(H200, known, 8, WAN, True).us
        < model.two_launches(H100, known, 8, WAN, True).us
    )


def test_the_page_is_what_the_model_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--check"]) == 0, "run: python -m benchmarks.predictions"
    assert "up to date" in capsys.readouterr().out
    text = command.PAGE.read_text()
    assert "Nothing on this page was measured" in text
    for gpu in GPUS:
        assert f"### {gpu.name}" in text
    assert text.count("| wan-8 |") == len(GPUS)


@pytest.mark.skipif(
    binaries.nvcc_version() != RECORD["nvcc"] or not binaries.tool("cuobjdump"),
    reason=f"needs cuobjdump and nvcc {RECORD['nvcc']}",
)
def test_the_record_is_of_these_sources() -> None:
    known = [row for row in RECORD["rows"] if row["sm"] == 90]
    assert kernels.compiled([90]) == known, "run: python -m benchmarks.predictions --compile"


def test_measured_times_come_beside_predicted_ones(tmp_path: Path) -> None:
    expected = model.two_launches(H200, codes(), 8, WAN, True).us
    row = {"size": "wan-8", "shape": [8, 16, 21, 60, 104], "elements": 8 * WAN, "dtype": "bfloat16"}
    rows = [
        row | {"contender": "tglo cuda", "time_us": {"median": 2 * expected}},
        row | {"contender": "tglo loss_and_grad cuda", "time_us": None},
        row | {"contender": "eager", "time_us": {"median": 1.0}},
    ]
    record = {"device": "cuda", "gpu": {"name": "NVIDIA H200"}, "rows": rows}
    text = page.beside(RECORD, record | {"copy_bytes_per_second": 4.2e12})
    (line,) = [line for line in text.splitlines() if line.startswith("| wan-8")]
    assert line.split(" | ")[1] == "tglo cuda" and line.split(" | ")[4] == "2.00"
    assert "4.20 TB/s" in text
    assert "No predictions for the CPU" in page.beside(RECORD, {"device": "cpu", "gpu": None})
    assert gpu_of("NVIDIA GeForce RTX 4090") == ADA and gpu_of("Tesla T4") is None
