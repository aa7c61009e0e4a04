from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tglo import philox as P

# Known answers of Random123 1.14 (tests/kat_vectors, philox4x32 10).
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    assert P.philox(torch.tensor(counter), key).tolist() == expected


def test_known_answers_in_one_batch_with_different_counters() -> None:
    counter = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]])
    words = P.philox(counter, (0, 0))
    assert words[0].tolist() == words[2].tolist() == KNOWN[0][2]
    assert words[1].tolist() == P.philox(counter[1], (0, 0)).tolist() != KNOWN[0][2]


def test_bits_state_the_counter_layout() -> None:
    sample, draw, seed = (5 << 32) + 7, 3, 11
    words = P.bits(seed, torch.tensor([sample]), draw, P.POSTERIOR, 10)
    blocks = torch.tensor([[block, draw, 7, 5] for block in range(3)])
    assert words.tolist() == P.philox(blocks, (seed, P.POSTERIOR)).reshape(1, 12)[:, :10].tolist()


def test_a_row_does_not_depend_on_the_batch() -> None:
    ids = torch.tensor([3, 2**62 + 1, 9, 0])
    draws = torch.tensor([0, 1, 2, 2**32 - 1])
    together = P.normal(1, ids, draws, (3, 5, 7))
    for row in range(4):
        alone = P.normal(1, ids[row : row + 1], draws[row : row + 1], (3, 5, 7))
        assert torch.equal(alone[0], together[row])
    assert torch.equal(P.normal(1, ids, draws, (105,)).reshape(4, 3, 5, 7), together)


def test_streams_differ_in_every_word() -> None:
    base = P.bits(1, torch.tensor([5]), 0, P.NOISE, 8)
    others = [
        P.bits(2, torch.tensor([5]), 0, P.NOISE, 8),
        P.bits(1, torch.tensor([6]), 0, P.NOISE, 8),
        P.bits(1, torch.tensor([5 + (1 << 32)]), 0, P.NOISE, 8),
        P.bits(1, torch.tensor([5]), 1, P.NOISE, 8),
        P.bits(1, torch.tensor([5]), 0, P.TIMESTEP, 8),
    ]
    for other in others:
        assert not (base == other).any()


def test_uniform_is_the_exact_number_inside_the_open_interval() -> None:
    ids = torch.arange(64)
    words = P.bits(9, ids, 0, P.TIMESTEP, 101)
    values = P.uniform(9, ids, 0, P.TIMESTEP, 101)
    assert values.dtype == torch.float32
    assert torch.equal(values.double(), ((words >> 9).double() + 0.5) * 2.0**-23)
    extremes = P._to_unit(torch.tensor([0, 0xFFFFFFFF]))
    assert extremes.tolist() == [2.0**-24, 1.0 - 2.0**-24]


def test_normal_is_box_muller_of_the_words() -> None:
    ids = torch.tensor([4, 5])
    u = P.uniform(3, ids, 2, P.NOISE, 8).double().reshape(2, 2, 2, 2)  # (row, block, pair, word)
    radius, angle = (-2 * u[..., 0].log()).sqrt(), 2 * torch.pi * u[..., 1]
    expected = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).reshape(2, 8)
    torch.testing.assert_close(P.normal(3, ids, 2, (8,)).double(), expected, atol=1e-6, rtol=0)


def _every_so_many(stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Words over the whole range with both end points and the places where a polynomial ends, and
    their u in float64."""
    seams = [0, 2**20, 2**21, 3 * 2**20, 2**22, 5 * 2**20, 2**23 - 1, int(2**22.5)]
    near = (torch.tensor(seams)[:, None] + torch.arange(-64, 65)).flatten().clamp(0, 2**23 - 1)
    high = torch.cat((torch.arange(0, 2**23, stride), near))
    return high << 9, (high.double() + 0.5) * 2.0**-23


def _units(value: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest error in units of float32's last place."""
    _, exponent = torch.frexp(truth)
    return float(
        ((value.double() - truth).abs() / torch.ldexp(torch.ones_like(truth), exponent - 24)).max()
    )


def _box_muller(words: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Radius, cosine and sine in float64; the angle is reduced first, so that they are good to the
    last place near their zeros, too."""
    odd = (words >> 8) | 1
    quadrant = (odd + 2**21) >> 22
    angle = (odd - (quadrant << 22)).double() * (2.0**-22 * math.pi / 2)
    turned = torch.stack((angle.cos(), -angle.sin(), -angle.cos(), angle.sin()))
    cosine = turned.gather(0, (quadrant % 4)[None])[0]
    sine = turned.gather(0, ((quadrant + 3) % 4)[None])[0]
    return (-2 * u.log()).sqrt(), cosine, sine


def test_polynomials_against_float64() -> None:
    """Measured over all 2^23 values of u: 1.02 units for the radius, 1.57 for cosine and sine;
    7.7e-7 for the normals of 72 x 2^23 pairs, among them those of the 64 largest radii with all
    angles."""
    words, u = _every_so_many(97)
    exact_radius, exact_cosine, exact_sine = _box_muller(words, u)
    radius, (cosine, sine) = P._radius(words), P._direction(words)
    torch.testing.assert_close(exact_cosine, (2 * torch.pi * u).cos(), atol=1e-14, rtol=0)
    torch.testing.assert_close(exact_sine, (2 * torch.pi * u).sin(), atol=1e-14, rtol=0)
    assert _units(radius, exact_radius) <= 1.02
    assert max(_units(cosine, exact_cosine), _units(sine, exact_sine)) <= 1.57
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0))
    for value, exact in ((cosine, exact_cosine), (sine, exact_sine)):
        for picked in (order, torch.zeros_like(order)):  # the first word has the largest radius
            normals, truth = radius[picked] * value, exact_radius[picked] * exact
            assert (normals.double() - truth).abs().max() < 1e-6


def test_polynomials_are_single_operations_in_float32() -> None:
    """The same in NumPy, which fuses nothing: no step of PyTorch's is fused or rounded otherwise."""
    words, _ = _every_so_many(997)
    single = np.float32

    def horner(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
        value = x * single(coefficients[-1])
        for coefficient in coefficients[-2:0:-1]:
            value = (value + single(coefficient)) * x
        return value + single(coefficients[0])

    unit = P._to_unit(words).numpy()
    offset = unit.view(np.int32) - np.int32(P.SQRT_HALF)
    exponent = (offset >> 23).astype(single)
    f = ((offset & 0x7FFFFF) + np.int32(P.SQRT_HALF)).view(single) - single(1)
    log = (horner(P.LOG, f) * f - single(0.5)) * (f * f)
    log = ((log + exponent * single(P.LN2[1])) + f) + exponent * single(P.LN2[0])
    assert np.array_equal(P._radius(words).numpy(), np.sqrt(log * single(-2)))

    odd = (words.numpy() >> 8) | 1
    quadrant = (odd + 2**21) >> 22
    r = (odd - (quadrant << 22)).astype(single) * single(2.0**-22)
    sine, cosine = horner(P.SIN, r * r) * r, horner(P.COS, r * r)
    turns = [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)]
    for found, index in zip(P._direction(words), (0, 1), strict=True):
        assert np.array_equal(found.numpy(), np.choose(quadrant % 4, [t[index] for t in turns]))


def test_normal_has_the_moments_of_a_standard_normal() -> None:
    values = P.normal(0, torch.arange(64), 0, (4096,)).double().flatten()
    n = values.numel()
    assert abs(values.mean()) < 4 / n**0.5
    assert abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((values**4).mean() - 3) < 4 * (96 / n) ** 0.5
    pairs = values.reshape(-1, 2)
    assert abs((pairs[:, 0] * pairs[:, 1]).mean()) < 4 / pairs.shape[0] ** 0.5
    assert values.isfinite().all() and values.abs().max() < 5.78


def test_empty_batch_and_odd_counts() -> None:
    assert P.normal(0, torch.empty(0, dtype=torch.int64), 0, (4, 2)).shape == (0, 4, 2)
    assert P.bits(0, torch.tensor([1]), 0, P.ORDER, 1).shape == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, torch.tensor([0]), 0), "seed"),
        ((2**32, torch.tensor([0]), 0), "seed"),
        ((0, torch.tensor([-4]), 0), "sample ids.*-4"),
        ((0, torch.tensor([0.0]), 0), "int64"),
        ((0, torch.tensor([0]), -1), "draw_index"),
        ((0, torch.tensor([0]), 2**32), "draw_index"),
        ((0, torch.tensor([0]), torch.tensor([2**32])), "draw_index"),
        ((0, torch.tensor([0, 1]), torch.tensor([0, 1, 2])), "draw_index"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        P.bits(*arguments, P.NOISE, 4)
    with pytest.raises(ValueError, match="counter"):
        P.philox(torch.zeros(3), (0, 0))
    with pytest.raises(ValueError, match="purpose.*-1"):
        P.bits(0, torch.tensor([0]), 0, -1, 4)
    with pytest.raises(ValueError, match=r"2\^34"):
        P.normal(0, torch.tensor([0]), 0, (2**17, 2**17 + 1))
