from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tglo.noise import Key
from tglo.noise.density import LogitNormal, Resolution, Shift, name_of, parse, uniform
from tglo.noise.noising import draw_index
from tglo.noise.schedule import Schedule


def units(count: int = 999) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64) / (count + 1)


def flow_schedule(density: object) -> Schedule:
    sigmas = torch.arange(1, 1001, dtype=torch.float64) / 1000
    return Schedule("flow", (sigmas * 1000).float(), 1 - sigmas, sigmas, density)  # type: ignore[arg-type]


def test_names_and_what_they_stand_for() -> None:
    assert parse("default") is None and parse("resolution") is None
    assert parse("uniform") is uniform
    assert parse("logit_normal(0, 1)") == LogitNormal() == parse("logit_normal( 0.0,1e0 )")
    assert parse("shift(3)") == Shift(3.0)
    named = {name_of(d) for d in (uniform, LogitNormal(), LogitNormal(0.5), Shift(3.0), Shift(2.0))}
    assert len(named) == 5


@pytest.mark.parametrize(
    "text",
    ["", "Uniform", "shift", "shift()", "shift(a)", "shift(1, 2)", "logit_normal(0)", "shift(nan)"],
)
def test_other_names_are_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="use one of default, uniform, logit_normal"):
        parse(text)


@pytest.mark.parametrize("text", ["shift(0)", "shift(-1)", "logit_normal(0, 0)"])
def test_what_is_not_positive_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        parse(text)


def test_densities_keep_order_and_stay_inside() -> None:
    for density in (
        uniform,
        LogitNormal(0.3, 0.8),
        Shift(3.0),
        Resolution(0.1, 1e-4, 2).at((4, 8)),
    ):
        places = density(units())
        assert ((places > 0) & (places < 1)).all() and (places.diff() > 0).all()


def test_known_quantiles() -> None:
    half = torch.tensor([0.5], dtype=torch.float64)
    assert LogitNormal(1.0, 2.0)(half).item() == pytest.approx(1 / (1 + torch.e**-1))
    assert Shift(3.0)(half).item() == pytest.approx(0.75)
    # FLUX at 1024 x 1024: 4,096 patches, exp(1.15)
    slope = (1.15 - 0.5) / (4096 - 256)
    flux = Resolution(0.5 - slope * 256, slope, 2)
    assert flux.at((16, 128, 128)).factor == pytest.approx(torch.e**1.15)
    assert flux.at((16, 32, 32)).factor == pytest.approx(torch.e**0.5)
    with pytest.raises(TypeError, match="needs the latents' shape"):
        flux(half)


def test_draws_follow_the_density_and_stay_stratified() -> None:
    ids = torch.arange(2000)
    schedule = flow_schedule(Shift(3.0))
    draws = torch.stack([draw_index(Key(0, ids, k), schedule, 4) for k in range(4)])
    places = draws.double().add(0.5) / 1000
    back = places / (3 - 2 * places)  # the inverse of the shift
    strata = (back * 4).long().sort(0).values
    at_an_edge = ((back * 4) - (back * 4).round()).abs() < 0.01  # an index stands for a small range
    assert ((strata == torch.arange(4)[:, None]) | at_an_edge.any(0)).all()
    assert places.mean().item() == pytest.approx(0.676, abs=0.005)  # 3/2 - 3/4 ln 3


def test_a_shift_by_resolution_asks_for_the_size() -> None:
    schedule = flow_schedule(Resolution(0.0, 1e-3, 2))
    key = Key(0, torch.arange(500), 0)
    few, many = (draw_index(key, schedule, shape=(4, side, side)) for side in (8, 64))
    assert (many >= few).all() and (many > few).any()
    assert schedule.fingerprint() != flow_schedule(uniform).fingerprint()
    assert schedule.fingerprint() != flow_schedule(Resolution(0.0, 2e-3, 2)).fingerprint()
