from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tglo import philox
from tglo.noise import Draw, Schedule, make_draw

diffusers = pytest.importorskip("diffusers")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 4, 5, 3, generator=generator)
    noise = torch.randn(6, 4, 5, 3, generator=generator)
    return latents, noise, torch.tensor([0, 1, 500, 998, 999, 37])


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_agrees_with_diffusers_ddpm(prediction_type: str, zero_snr: bool) -> None:
    scheduler = diffusers.DDPMScheduler(
        prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr, **SD
    )
    schedule = Schedule.from_scheduler(scheduler)
    latents, noise, index = _example()
    torch.testing.assert_close(
        schedule.diffuse(latents, noise, index),
        scheduler.add_noise(latents, noise, index),
        atol=2e-6,
        rtol=2e-6,
    )
    targets = {
        "epsilon": noise,
        "sample": latents,
        "v_prediction": scheduler.get_velocity(latents, noise, index),
    }
    torch.testing.assert_close(
        schedule.target(latents, noise, index), targets[prediction_type], atol=2e-6, rtol=2e-6
    )
    assert torch.equal(schedule.model_timestep(index).long(), index)
    assert schedule.a.dtype == schedule.s.dtype == torch.float64
    torch.testing.assert_close(schedule.a**2 + schedule.s**2, torch.ones_like(schedule.a))
    assert (schedule.a[-1] == 0) == zero_snr


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
def test_every_scheduler_of_one_config_gives_one_schedule(name: str) -> None:
    expected = Schedule.from_scheduler(diffusers.DDPMScheduler(**SD))
    schedule = Schedule.from_scheduler(getattr(diffusers, name)(**SD))
    assert schedule.prediction_type == "epsilon"
    assert torch.equal(schedule.a, expected.a) and torch.equal(schedule.s, expected.s)


def test_zero_terminal_snr_of_euler_is_zero() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, **SD
    )
    schedule = Schedule.from_scheduler(scheduler)
    assert schedule.a[-1] == 0 and schedule.s[-1] == 1


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_agrees_with_diffusers(shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = Schedule.from_scheduler(scheduler)
    assert schedule.prediction_type == "flow"
    torch.testing.assert_close(schedule.s.float(), scheduler.sigmas.flip(0), rtol=3e-7, atol=0)
    torch.testing.assert_close(schedule.timesteps, scheduler.timesteps.flip(0), rtol=3e-7, atol=0)
    latents, noise, index = _example()
    timesteps = scheduler.timesteps.flip(0)[index]
    torch.testing.assert_close(
        schedule.diffuse(latents, noise, index), scheduler.scale_noise(latents, timesteps, noise)
    )
    torch.testing.assert_close(schedule.target(latents, noise, index), noise - latents)


def test_flow_of_other_schedulers() -> None:
    wan = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert torch.equal(Schedule.from_scheduler(wan).s, Schedule.from_scheduler(euler).s)
    dynamic = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    assert Schedule.from_scheduler(dynamic).s[499] == 0.5


def test_half_precision_is_combined_in_float32_and_rounded_once() -> None:
    schedule = Schedule.from_scheduler(
        diffusers.DDPMScheduler(prediction_type="v_prediction", **SD)
    )
    latents, noise, index = (x.bfloat16() if x.is_floating_point() else x for x in _example())
    for function in (schedule.diffuse, schedule.target):
        exact = function(latents.float(), noise.float(), index)
        assert torch.equal(function(latents, noise, index), exact.bfloat16())


def test_min_snr_weights_are_the_x0_loss_clipped() -> None:
    """omega_t times the target's square error is min(snr, gamma) times the x0 error, always."""
    index = torch.arange(1000)
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        schedule = Schedule.from_scheduler(
            diffusers.DDPMScheduler(prediction_type=prediction_type, **SD)
        )
        snr = (schedule.a / schedule.s) ** 2
        torch.testing.assert_close(schedule.snr(index), snr)
        clipped = snr.clamp(max=5.0)
        expected = {
            "epsilon": clipped / snr,
            "v_prediction": clipped / (snr + 1),
            "sample": clipped,
        }[prediction_type]
        torch.testing.assert_close(schedule.timestep_weight(index, "min_snr"), expected)
        assert torch.equal(schedule.timestep_weight(index), torch.ones(1000, dtype=torch.float64))
    flow = Schedule.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler())
    sigma = flow.s
    expected = ((1 - sigma) / sigma).square().clamp(max=2.0) * sigma**2
    torch.testing.assert_close(flow.timestep_weight(index, "min_snr", gamma=2.0), expected)


def test_min_snr_is_finite_at_zero_terminal_snr() -> None:
    last = torch.tensor([999])
    expected = {"epsilon": 1.0, "v_prediction": 0.0, "sample": 0.0}
    for prediction_type, weight in expected.items():
        schedule = Schedule.from_scheduler(
            diffusers.DDPMScheduler(
                prediction_type=prediction_type, rescale_betas_zero_snr=True, **SD
            )
        )
        assert schedule.timestep_weight(last, "min_snr").item() == weight


def test_a_draw_depends_on_its_key_only() -> None:
    schedule = Schedule.from_scheduler(diffusers.DDPMScheduler(**SD))
    ids = torch.tensor([5, 2**61, 8])
    draws = torch.tensor([0, 3, 1])
    options = {"device": "cpu", "dtype": torch.float32}
    together = make_draw(schedule, 7, ids, draws, (4, 3, 3), **options)
    for row in range(3):
        alone = make_draw(schedule, 7, ids[row : row + 1], int(draws[row]), (4, 3, 3), **options)
        assert torch.equal(alone.index[0], together.index[row])
        assert torch.equal(alone.noise[0], together.noise[row])
    assert isinstance(together, Draw) and together.index.dtype == torch.int64
    assert torch.equal(together.noise, philox.normal(7, ids, draws, (4, 3, 3)))
    half = make_draw(schedule, 7, ids, draws, (4, 3, 3), device="cpu", dtype=torch.bfloat16)
    assert torch.equal(half.noise, together.noise.bfloat16())


def test_indices_are_uniform() -> None:
    schedule = Schedule.from_scheduler(diffusers.DDPMScheduler(num_train_timesteps=10, **SD))
    draw = make_draw(schedule, 0, torch.arange(20_000), 0, (1,), device="cpu", dtype=torch.float32)
    counts = torch.bincount(draw.index, minlength=10)
    assert counts.shape == (10,)
    assert ((counts - 2000).abs() < 5 * 1800**0.5).all()  # binomial, five standard deviations


@pytest.mark.parametrize("prediction_type", [None, "velocity"])
def test_unknown_prediction_type_is_refused(prediction_type: str | None) -> None:
    scheduler = SimpleNamespace(
        config={"prediction_type": prediction_type, "beta_schedule": "linear"},
        alphas_cumprod=torch.linspace(1, 0, 10),
    )
    with pytest.raises(ValueError, match=f"prediction_type {prediction_type!r}"):
        Schedule.from_scheduler(scheduler)


def test_bad_input_is_named() -> None:
    scheduler = diffusers.DDPMScheduler(**SD)
    schedule = Schedule.from_scheduler(scheduler)
    latents, noise, index = _example()
    with pytest.raises(ValueError, match=r"index \(2,\)"):
        schedule.diffuse(latents, noise, index[:2])
    with pytest.raises(ValueError, match="min_snr"):
        schedule.timestep_weight(index, "snr")
    with pytest.raises(ValueError, match="gamma"):
        schedule.timestep_weight(index, "min_snr", gamma=0.0)
    with pytest.raises(ValueError, match="alphas_cumprod"):
        Schedule.from_scheduler(diffusers.EDMEulerScheduler())
    with pytest.raises(ValueError, match="invert_sigmas"):
        Schedule.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    with pytest.raises(ValueError, match="one length"):
        Schedule("flow", torch.zeros(3), torch.zeros(3), torch.zeros(4))
