"""The CPU kernel of the noising: the bits of the reference, whatever the size, dtype and threads."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.foundations.test_philox import KNOWN
from tglo import ops, philox
from tglo.ops import noise as operators  # noqa: F401  (defines diffuse)
from tglo.reference import noised

pytestmark = pytest.mark.skipif(
    not ops.EXTENSION.loaded, reason=f"no CPU kernels: {ops.EXTENSION.problem}"
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Below, at and above a block, a vector of either instruction set and one part of a row (16384).
SIZES = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 100, 16383, 16384, 16385, 40003)


def make_arguments(count: int, dtype: torch.dtype, rows: int = 3) -> tuple:
    """Arguments of tglo::diffuse with ids and draws over their whole ranges."""
    generator = torch.Generator().manual_seed(count)
    latents = torch.randn(rows, count, generator=generator).to(dtype)
    scale, noise_scale = torch.rand(2, rows, generator=generator)
    ids = torch.tensor([0, 2**32 + 5, 2**63 - 1, 7])[:rows]
    draws = torch.tensor([2**32 - 1, 0, 1, 3])[:rows]
    return latents, scale, noise_scale, ids, draws, 2**32 - 2, philox.POSTERIOR


def run(*arguments: object) -> Tensor:
    return torch.ops.tglo.diffuse(*arguments)


def expected(
    latents: Tensor,
    scale: Tensor,
    noise_scale: Tensor,
    ids: Tensor,
    draws: Tensor,
    seed: int,
    purpose: int,
) -> Tensor:
    noise = philox.normal(seed, ids, draws, latents.shape[1:], purpose)
    return noised(latents, noise, scale, noise_scale)


def test_known_answers_of_the_header() -> None:
    for counter, key, words in KNOWN:
        found = torch.ops.tglo._philox(torch.tensor([counter, [1, 2, 3, 4]]), *key)
        assert found[0].tolist() == words
        assert found[1].tolist() == philox.philox(torch.tensor([1, 2, 3, 4]), key).tolist()
    assert torch.ops.tglo._philox(torch.empty(0, 4, dtype=torch.int64), 0, 0).shape == (0, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", SIZES)
def test_bits_of_the_reference(count: int, dtype: torch.dtype) -> None:
    arguments = make_arguments(count, dtype)
    found = run(*arguments)
    assert found.dtype == dtype and torch.equal(found, expected(*arguments))


def test_four_million_normals() -> None:
    """Their words meet a fifth of the 2^23 values of u as a radius, and a fifth as an angle."""
    zero, one, ids = torch.zeros(1), torch.ones(1), torch.tensor([9])
    noise = run(torch.zeros(1, 2**22), zero, one, ids, torch.tensor([0]), 5, philox.NOISE)
    assert torch.equal(noise, philox.normal(5, ids, 0, (2**22,)))


def test_every_half_and_bfloat16_survives_the_kernel() -> None:
    """1 times a number plus 0 times noise is the number, subnormal, infinite or not."""
    for dtype in (torch.bfloat16, torch.float16):
        numbers = torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.int16)).view(dtype)
        arguments = make_arguments(1, torch.float32, rows=1)[3:]
        found = run(numbers[None], torch.ones(1), torch.zeros(1), *arguments)[0]
        zero = numbers == 0  # the noise's sign decides on that of 0 + 0 * noise
        same = found.view(torch.int16) == numbers.view(torch.int16)
        assert (same | zero | (found.isnan() & numbers.isnan())).all()
        assert (found[zero] == 0).all()


def test_a_row_does_not_depend_on_the_batch() -> None:
    arguments = make_arguments(1001, torch.bfloat16)
    together = run(*arguments)
    for row in range(3):
        alone = (tensor[row : row + 1] for tensor in arguments[:5])
        assert torch.equal(run(*alone, *arguments[5:])[0], together[row])


def test_more_dimensions_and_empty_batches() -> None:
    latents, *others = make_arguments(105, torch.float32)
    assert torch.equal(run(latents.view(3, 3, 5, 7), *others).flatten(1), run(latents, *others))
    for shape in ((0, 4), (3, 0)):
        vectors = (vector[: shape[0]] for vector in others[:4])
        assert run(torch.empty(shape), *vectors, *others[4:]).shape == shape


def test_same_bits_whatever_the_threads() -> None:
    arguments = make_arguments(70001, torch.float16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(*arguments)
        torch.set_num_threads(2)
        two = run(*arguments)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


def test_block_counter_far_into_a_row() -> None:
    """Elements past 2^22, that is blocks past 2^20."""
    count = 2**22 + 2**14 + 5
    latents = torch.zeros(1, count, dtype=torch.bfloat16)
    key = (torch.tensor([2**40]), torch.tensor([1]), 3, philox.NOISE)
    found = run(latents, torch.zeros(1), torch.ones(1), *key)[0, 2**22 :]
    block = torch.arange(2**20, 2**20 + 2**12 + 2)
    counter = torch.stack((block, *(torch.full_like(block, n) for n in (1, 0, 2**8))), dim=-1)
    words = torch.ops.tglo._philox(counter, 3, philox.NOISE)
    cosine, sine = philox._direction(words[:, 1::2])
    radius = philox._radius(words[:, ::2])
    noise = torch.stack((radius * cosine, radius * sine), dim=-1).flatten()[: len(found)]
    assert torch.equal(found, noise.bfloat16())


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.tglo.diffuse.default, make_arguments(37, torch.bfloat16))


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, torch.zeros(3, 8, dtype=torch.float64), "latents must be bfloat16"),
        (0, torch.zeros(3, 16)[:, ::2], "latents must be contiguous"),
        (1, torch.zeros(2), r"scale must be float32.*\(3,\)"),
        (2, torch.zeros(3, dtype=torch.float64), "noise_scale must be float32"),
        (3, torch.zeros(3, dtype=torch.int32), "sample_ids must be int64"),
        (4, torch.zeros(3, 1, dtype=torch.int64), "draws must be int64"),
        (5, 2**32, "seed.*4294967296"),
        (6, -1, "purpose.*-1"),
    ],
)
def test_bad_input_is_named(index: int, value: object, message: str) -> None:
    arguments = list(make_arguments(8, torch.float32))
    arguments[index] = value
    with pytest.raises(RuntimeError, match=message):
        run(*arguments)


def test_bad_counter_is_named() -> None:
    for counter in (torch.zeros(4, dtype=torch.int64), torch.zeros(1, 4)):
        with pytest.raises(RuntimeError, match="counter must be"):
            torch.ops.tglo._philox(counter, 0, 0)


BASELINE = """
from tests.csrc import test_noise_cpu as t
assert t.ops.EXTENSION.instructions == "baseline", t.ops.EXTENSION
for dtype in t.DTYPES:
    for count in t.SIZES:
        t.test_bits_of_the_reference(count, dtype)
t.test_every_half_and_bfloat16_survives_the_kernel()
t.test_same_bits_whatever_the_threads()
t.test_block_counter_far_into_a_row()
"""


SCALAR = r"""
#include "noise/philox.h"
extern "C" void normals(uint32_t draw, uint64_t id, uint32_t seed, uint32_t purpose, int64_t blocks, float* out) {
  using namespace tglo;
  for (int64_t block = 0; block < blocks; ++block) {
    const FourWords<Scalar> words = philox4x32<Scalar>(
        {{uint32_t(block), draw, uint32_t(id), uint32_t(id >> 32)}}, {seed, purpose});
    for (int pair = 0; pair < 2; ++pair) {
      const Pair<Scalar> noise = normal_pair<Scalar>(words.at[2 * pair], words.at[2 * pair + 1]);
      out[4 * block + 2 * pair] = noise.first;
      out[4 * block + 2 * pair + 1] = noise.second;
    }
  }
}
"""
CSRC = Path(__file__).parents[2] / "csrc"


@pytest.mark.skipif(
    shutil.which("c++") is None or not CSRC.is_dir(), reason="needs a compiler and csrc/"
)
def test_arithmetic_of_the_cuda_kernel(tmp_path: Path) -> None:
    """What a CUDA thread does, which the CPU kernel does with vectors, compiled for the host."""
    library = tmp_path / "scalar.so"
    options = [
        "-std=c++20",
        "-O2",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        f"-I{CSRC}",
        "-xc++",
        "-",
    ]
    subprocess.run(["c++", *options, "-o", library], input=SCALAR, text=True, check=True)
    function = ctypes.CDLL(str(library)).normals
    word, wide = ctypes.c_uint32, ctypes.c_uint64
    function.argtypes = (word, wide, word, word, ctypes.c_int64, ctypes.c_void_p)
    found = torch.empty(2**20)
    function(2**32 - 1, 2**33 + 1, 2**31, philox.POSTERIOR, 2**18, found.data_ptr())
    ids, draws = torch.tensor([2**33 + 1]), 2**32 - 1
    assert torch.equal(found, philox.normal(2**31, ids, draws, (2**20,), philox.POSTERIOR)[0])


def test_baseline_instruction_set() -> None:
    """The kernel for CPUs without AVX2 is in the same binary; it gets a process of its own."""
    environment = {**os.environ, "TGLO_CPU_INSTRUCTIONS": "baseline", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", BASELINE], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
