from __future__ import annotations

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
    torch.testing.assert_close(P.normal(3, ids, 2, (8,)).double(), expected, atol=3e-6, rtol=0)


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
        ((0, torch.tensor([0]), -1), "draws"),
        ((0, torch.tensor([0]), 2**32), "draws"),
        ((0, torch.tensor([0, 1]), torch.tensor([0, 1, 2])), "draws"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        P.bits(*arguments, P.NOISE, 4)
    with pytest.raises(ValueError, match="counter"):
        P.philox(torch.zeros(3), (0, 0))
