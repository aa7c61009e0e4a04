"""The reader of machine code, occupancy, and the judgement of a kernel, on a kernel made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.resources import binaries, sass
from benchmarks.resources.judge import faults
from benchmarks.resources.kernels import cuda_row, parse_name
from benchmarks.resources.occupancy import occupancy

CODE = """
        Function : some_kernel
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR8][R22.64] ;
        /*0020*/                   IADD3 R22, P0, R22, 0x10, RZ ;
        /*0030*/              @!P0 LDG.E.128.CONSTANT R8, desc[UR8][R24.64+0x10] ;
        /*0040*/                   FADD R2, R5, -R9 ;
        /*0050*/                   LDG.E.EF.128.CONSTANT R12, desc[UR8][R24.64] ;
        /*0060*/                   STG.E desc[UR8][R6.64], R11 ;
        /*0070*/                   STG.E desc[UR8][R6.64+0x8], R11 ;
        /*0080*/                   STG.E desc[UR8][R6.64+0x4], R10 ;
        /*0090*/                   STG.E desc[UR8][R6.64+0xc], R11 ;
        /*00a0*/              @!P1 BRA 0x10 ;
        /*00b0*/                   STG.E.U16 desc[UR8][R6.64+0x2], R11 ;
        /*00c0*/                   RED.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R5 ;
        /*00d0*/                   STL [R1], R5 ;
        /*00e0*/                   EXIT ;
"""

KERNEL = """
#include <cuda_bf16.h>
#include <stdint.h>
namespace {
template <bool whole>
__global__ void __launch_bounds__(128) copy(__nv_bfloat16* to, const float4* from) {
  const float4 x = from[threadIdx.x], y = from[threadIdx.x + 128];
  const __nv_bfloat162 pairs[4] = {
      __floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w),
      __floats2bfloat162_rn(y.x, y.y), __floats2bfloat162_rn(y.z, y.w)};
  uint32_t words[4];
  for (int k = 0; k < 4; ++k) words[k] = *reinterpret_cast<const uint32_t*>(&pairs[k]);
  uint32_t* out = reinterpret_cast<uint32_t*>(to + threadIdx.x * 8);
  if (whole) {
    *reinterpret_cast<uint4*>(out) = make_uint4(words[0], words[1], words[2], words[3]);
  } else {
    for (int k = 0; k < 4; ++k) out[k] = words[k];
  }
}
}
void launch(__nv_bfloat16* to, const float4* from) {
  copy<true><<<1, 128>>>(to, from);
  copy<false><<<1, 128>>>(to, from);
}
"""


def test_machine_code_is_read() -> None:
    (code,) = sass.functions(CODE).values()
    assert len(code) == 15
    assert sass.widths(code, "LDG") == {16: 3} and sass.widths(code, "STG") == {4: 4, 2: 1}
    assert sass.split_vectors(code, "STG", (4, 8)) == 1
    assert sass.split_vectors(code, "STG", (8,)) == sass.split_vectors(code, "LDG", (4,)) == 0
    assert sass.float_atomics(code) == 1 and sass.local_accesses(code) == 1
    (loop,) = sass.loops(code)
    # The third load stays under way while the loop starts again with the other two.
    assert loop == sass.Loop(loads=3, stores=0, instructions=10, in_flight=3)
    assert sass.in_flight(code[:5]) == 2


def test_occupancy_as_the_vendor_s_calculator_has_it() -> None:
    assert occupancy(90, 256, 32, 0)[:2] == (8, 64)
    assert occupancy(90, 256, 104, 65) == (2, 16, "registers")
    assert occupancy(80, 256, 128, 0) == (2, 16, "registers")
    assert occupancy(89, 256, 32, 0) == (6, 48, "threads")
    assert occupancy(90, 512, 64, 100 * 1024) == (2, 32, "registers")
    assert occupancy(90, 128, 32, 56 * 1024) == (4, 16, "shared")
    assert occupancy(80, 32, 16, 0) == (32, 32, "blocks")


def test_names_say_element_and_flags() -> None:
    start = "_ZN4tglo39_GLOBAL__N__2d169bbb_7_loss_cu_ce3ac2ed"
    name = start + "7forwardI13__nv_bfloat16Lb1ELb0EEEvNS_8CudaLossEllb"
    assert parse_name(name) == ("loss.forward", "bf16", ("reference",))
    assert parse_name(start + "8backwardI6__halfLb1EEEvNS_8CudaLossE") == (
        *("loss.backward", "fp16"),
        ("masked",),
    )
    assert parse_name(start + "5otherIfLb1EEEvPf") == ("loss.other", "fp32", ("flag 0",))
    assert parse_name(start + "5plainEPf") == ("loss.plain", "", ())
    assert parse_name("kernel") == ("kernel", "", ())


def test_the_odd_path_is_no_fault_and_a_narrow_store_is_one() -> None:
    row: dict[str, Any] = {"kernel": "CUDA loss.backward", "element": "bf16", "flags": [], "sm": 90}
    row |= {"stack": 0, "local": 0, "float_atomics": 0, "split_loads": 0, "split_stores": 0}
    row |= {"loads": {"128": 4, "16": 32}, "stores": {"128": 2, "16": 16}}
    assert faults(row) == []
    assert faults(row | {"stores": {"32": 8, "16": 16}, "split_stores": 2}) == [
        "2 vectors are stored in pieces",
        "no store is 16 bytes wide",
    ]
    assert faults(row | {"loads": {"128": 1}}) == ["1 loads are 16 bytes wide, 2 are needed"]
    assert faults(row | {"stack": 8, "element": "fp32"}) == ["stack: 8"]
    noise = row | {"kernel": "CUDA noise.diffuse_rows", "loads": {"16": 8}, "stores": {"16": 8}}
    assert faults(noise) == []
    assert faults(noise | {"flags": ["aligned"]})[-1] == "an aligned kernel moves single elements"
    assert faults(row | {"kernel": "CUDA cluster.loss_and_grad", "sm": 80, "stores": {}}) == []


@pytest.mark.skipif(
    not binaries.nvcc_version() or not binaries.tool("cuobjdump"), reason="needs nvcc and cuobjdump"
)
def test_a_compiled_kernel_that_stores_in_pieces_is_found(tmp_path: Path) -> None:
    source, cubin = tmp_path / "made.cu", tmp_path / "made.sm_90.cubin"
    source.write_text(KERNEL)
    command = ["nvcc", "-cubin", "-arch=sm_90", "-std=c++20", "-o", str(cubin), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    rows = {row["flags"] == ["flag 0"]: row for row in map(cuda_row, binaries.read_cubin(cubin))}
    assert rows[True]["kernel"] == rows[False]["kernel"] == "CUDA made.copy"
    assert rows[True]["threads"] == 128 and rows[True]["blocks"] == 16
    assert rows[True]["stores"] == {"128": 1} and rows[False]["stores"] == {"32": 4}
    for row in rows.values():
        row["element"] = "bf16"
    assert faults(rows[True]) == []
    assert faults(rows[False]) == ["1 vectors are stored in pieces"]


def test_a_digest_of_digits_is_no_part_of_a_kernels_name() -> None:
    file = "47_GLOBAL__N__20475511_14_cooperative_cu_2988c8a5"
    name = f"_ZN4tglo{file}13loss_and_gradIfLb0ELb1EEEvNS_8CudaLossEiilb"
    assert parse_name(name) == ("cooperative.loss_and_grad", "fp32", ("masked",))
