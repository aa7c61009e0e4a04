"""The noising on a CUDA device, bit by bit what the reference gives on the CPU; skipped without one.

Tests named test_small... are those that compute-sanitizer runs.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from tglo import noise, ops, philox
from tglo.noise import Key, Schedule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BACKENDS = (
    ["reference"]
    + (["triton"] if importlib.util.find_spec("triton") else [])
    + (["cuda"] if not ops.backends()["cuda"] else [])
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Off and on every vector and block, one element, more than a program or a thread block takes.
SHAPES = (
    (1, 1),
    (3, 7),
    (2, 3, 5, 7),
    (4, 1000),
    (3, 2048),
    (2, 2049),
    (2, 4, 128, 128),
    (5, 40003),
)


def make_schedule(prediction_type: str = "v_prediction") -> Schedule:
    s = torch.linspace(0.01, 1, 1000, dtype=torch.float64)
    return Schedule(prediction_type, torch.arange(1000.0), (1 - s**2).sqrt(), s)


def make_case(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Key]:
    generator = torch.Generator().manual_seed(shape[-1])
    latents = torch.randn(shape, generator=generator).to(dtype)
    rows = shape[0]
    ids = torch.tensor([0, 2**32 + 5, 2**63 - 1, 7, 2**40])[:rows]
    draws = torch.tensor([2**32 - 1, 0, 1, 3, 2])[:rows]
    index = torch.arange(999, 999 - 200 * rows, -200)
    return latents, index, Key(2**32 - 2, ids, draws)


def on_gpu(key: Key) -> Key:
    draws = key.draw_index.cuda() if isinstance(key.draw_index, Tensor) else key.draw_index
    return Key(key.seed, key.sample_ids.cuda(), draws, key.purpose)


def diffuse(latents: Tensor, index: Tensor, key: Key, backend: str) -> Tensor:
    """On the device of `latents`."""
    schedule = make_schedule().to(latents.device)
    return noise.diffuse(latents, index.to(latents.device), key, schedule, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_of_the_cpu(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    latents, index, key = make_case(shape, dtype)
    expected = diffuse(latents, index, key, "reference")
    for given in (key, on_gpu(key)):
        there = latents.cuda()
        found = diffuse(there, index, given, backend)
        assert found.device == there.device and found.dtype == dtype
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prediction_type", noise.PREDICTION_TYPES)
def test_small_targets(prediction_type: str, backend: str) -> None:
    latents, index, key = make_case((4, 3, 33), torch.bfloat16)
    schedule = make_schedule(prediction_type)
    expected = noise.target(latents, index, key, schedule, backend="reference")
    found = noise.target(latents.cuda(), index.cuda(), key, schedule.to("cuda"), backend=backend)
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sixteen_million_normals(backend: str) -> None:
    """Their words meet 0.63 of the 2^23 values of u as a radius, and as many as an angle."""
    key = Key(1, torch.arange(4), 5)
    found = noise.normal(key, (2**22,), device="cuda", backend=backend)
    assert torch.equal(found.cpu(), philox.normal(1, key.sample_ids, 5, (2**22,)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_rows_than_a_grid_has(backend: str) -> None:
    rows = 70_001
    latents, key = torch.zeros(rows, 5), Key(3, torch.arange(rows) * 2**33)
    index = torch.arange(rows) % 1000
    expected = diffuse(latents, index, key, "reference")
    assert torch.equal(diffuse(latents.cuda(), index, key, backend).cpu(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_unaligned_latents(backend: str) -> None:
    latents, index, key = make_case((2, 2048), torch.bfloat16)
    shifted = torch.empty(2 * 2048 + 1, dtype=torch.bfloat16, device="cuda")[1:].view(2, 2048)
    shifted.copy_(latents)
    expected = diffuse(latents, index, key, "reference")
    assert torch.equal(diffuse(shifted, index, key, backend).cpu(), expected)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_offsets_pass_32_bits(backend: str) -> None:
    """Two rows of 2^30 + 8 elements: the second begins past 2^30, and ends past 2^31."""
    count = 2**30 + 8
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of GPU memory")
    latents = torch.zeros(2, count, dtype=torch.bfloat16, device="cuda")
    key = Key(3, torch.tensor([1, 2]))
    found = diffuse(latents, torch.tensor([999, 999]), key, backend)[1, -8:].float().cpu()
    block = torch.arange(2**28, 2**28 + 2)
    counter = torch.stack((block, *(torch.full_like(block, n) for n in (0, 2, 0))), dim=-1)
    words = philox.philox(counter, (3, philox.NOISE))
    radius, (cosine, sine) = philox._radius(words[:, ::2]), philox._direction(words[:, 1::2])
    expected = torch.stack((radius * cosine, radius * sine), dim=-1).flatten()
    assert torch.equal(found, expected.bfloat16().float())  # the last index has a = 0, s = 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_stream(backend: str) -> None:
    latents, index, key = make_case((4, 4, 64, 64), torch.bfloat16)
    expected = diffuse(latents, index, key, "reference")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # a kernel on the wrong stream would read before the copy
        found = diffuse(latents.cuda(), index, key, backend)
    stream.synchronize()
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inside_a_cuda_graph(backend: str) -> None:
    """The sample ids are read at each replay."""
    latents, index, key = make_case((4, 4, 64, 64), torch.bfloat16)
    x, i, k = latents.cuda(), index.cuda(), on_gpu(key)
    schedule = make_schedule().to("cuda")
    noise.diffuse(x, i, k, schedule, backend=backend)  # compiled outside
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = noise.diffuse(x, i, k, schedule, backend=backend)
    for ids in (key.sample_ids, key.sample_ids.flip(0)):
        k.sample_ids.copy_(ids)
        graph.replay()
        again = Key(key.seed, ids, key.draw_index)
        assert torch.equal(captured.cpu(), diffuse(latents, index, again, "reference"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_device(backend: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    latents, index, key = make_case((3, 1001), torch.float16)
    found = diffuse(latents.to("cuda:1"), index, key, backend)
    assert torch.cuda.current_device() == 0 and found.get_device() == 1
    assert torch.equal(found.cpu(), diffuse(latents, index, key, "reference"))
