from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3
from torch import Tensor

from tglo import noise as N
from tglo import philox
from tglo.noise import Key, Schedule

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


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["none", "sigma_sqrt", "cosmap"])
def test_weights_of_flow_matching_are_diffusers_up_to_a_bound(kind: str, shift: float) -> None:
    schedule = Schedule.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=shift))
    index = torch.arange(1000)
    weight = schedule.timestep_weight(index, kind)
    expected = compute_loss_weighting_for_sd3(kind, schedule.s).double()
    torch.testing.assert_close(weight, expected.clamp(max=100.0), rtol=1e-6, atol=0)
    assert weight.dtype == torch.float64 and weight.max() <= 100 and weight.min() >= 0.6
    if kind == "cosmap" and shift == 1:  # the default temperature stays right
        assert weight.mean().item() == pytest.approx(1, abs=1e-3)


def test_weights_of_flow_matching_are_for_flow_matching() -> None:
    schedule = Schedule.from_scheduler(diffusers.DDPMScheduler(**SD))
    with pytest.raises(ValueError, match="'cosmap' is of flow matching's sigma.*predicts epsilon"):
        schedule.timestep_weight(torch.tensor([3]), "cosmap")


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


BACKENDS = ["auto", "reference"]


def _keyed() -> tuple[Tensor, Tensor, Key]:
    latents, _, index = _example()
    return latents, index, Key(7, torch.tensor([5, 2**61, 8, 2**32, 0, 3]), torch.arange(6))


def _schedule(prediction_type: str) -> Schedule:
    if prediction_type == "flow":
        return Schedule.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler())
    return Schedule.from_scheduler(diffusers.DDPMScheduler(prediction_type=prediction_type, **SD))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("prediction_type", N.PREDICTION_TYPES)
def test_keyed_noise_is_that_of_philox(
    prediction_type: str, dtype: torch.dtype, backend: str
) -> None:
    schedule = _schedule(prediction_type)
    latents, index, key = _keyed()
    latents = latents.to(dtype)
    noise = philox.normal(7, key.sample_ids, key.draw_index, latents.shape[1:])
    for keyed, given in ((N.diffuse, schedule.diffuse), (N.target, schedule.target)):
        found = keyed(latents, index, key, schedule, backend=backend)
        assert found.dtype == dtype and torch.equal(found, given(latents, noise, index))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_depends_on_its_key_only(backend: str) -> None:
    schedule = _schedule("v_prediction")
    latents, index, key = _keyed()
    together = N.diffuse(latents, index, key, schedule, backend=backend)
    assert isinstance(key.draw_index, Tensor)
    for row in range(6):
        alone = Key(7, key.sample_ids[row : row + 1], int(key.draw_index[row]))
        one = slice(row, row + 1)
        assert torch.equal(
            N.diffuse(latents[one], index[one], alone, schedule, backend=backend), together[one]
        )
        assert N.draw_index(alone, schedule) == N.draw_index(key, schedule)[row]
    other = Key(7, key.sample_ids, key.draw_index, philox.POSTERIOR)
    assert not (N.diffuse(latents, index, other, schedule, backend=backend) == together).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_normal_numbers_by_the_kernels(backend: str) -> None:
    _, _, key = _keyed()
    found = N.normal(key, (3, 5), device="cpu", backend=backend)
    assert torch.equal(found, philox.normal(7, key.sample_ids, key.draw_index, (3, 5)))


def test_strided_float64_and_empty_latents() -> None:
    schedule = _schedule("v_prediction")
    latents, index, key = _keyed()
    expected = N.diffuse(latents, index, key, schedule)
    strided = latents.contiguous(memory_format=torch.channels_last)
    assert torch.equal(N.diffuse(strided, index, key, schedule), expected)
    wide = N.diffuse(latents.double(), index, key, schedule)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), expected, atol=1e-6, rtol=1e-6)
    none = Key(7, torch.empty(0, dtype=torch.int64))
    assert N.diffuse(latents[:0], index[:0], none, schedule).shape == (0, 4, 5, 3)


def test_indices_are_uniform() -> None:
    schedule = Schedule.from_scheduler(diffusers.DDPMScheduler(num_train_timesteps=10, **SD))
    index = N.draw_index(Key(0, torch.arange(20_000)), schedule)
    counts = torch.bincount(index, minlength=10)
    assert index.dtype == torch.int64 and counts.shape == (10,)
    assert ((counts - 2000).abs() < 5 * 1800**0.5).all()  # binomial, five standard deviations


def test_a_density_says_how_often_each_part_is_drawn() -> None:
    def late(unit: Tensor) -> Tensor:
        return unit.sqrt()  # of density 2 t

    uniform = Schedule.from_scheduler(diffusers.DDPMScheduler(num_train_timesteps=10, **SD))
    schedule = replace(uniform, density=late).to("cpu")
    key = Key(0, torch.arange(20_000))
    counts = torch.bincount(N.draw_index(key, schedule), minlength=10)
    expected = 20_000 * (2 * torch.arange(10) + 1) / 100
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()
    strata = torch.stack([N.draw_index(Key(0, torch.arange(9), k), schedule, 4) for k in range(4)])
    assert torch.equal(strata.sort(0).values // 5, torch.tensor([[0], [1], [1], [1]]).expand(4, 9))
    assert schedule.fingerprint() != uniform.fingerprint()
    assert replace(schedule, density=uniform.density).fingerprint() == uniform.fingerprint()


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_into_one_graph(backend: str) -> None:
    schedule = _schedule("v_prediction")
    latents, index, key = _keyed()

    def run(latents: Tensor, index: Tensor, key: Key) -> Tensor:
        noisy = N.diffuse(latents, index, key, schedule, backend=backend)
        return noisy - N.target(latents, index, key, schedule, backend=backend)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(latents, index, key), run(latents, index, key))


def test_bad_keyed_input_is_named() -> None:
    schedule = _schedule("epsilon")
    latents, index, key = _keyed()
    for keyed in (N.diffuse, N.target):
        with pytest.raises(ValueError, match=r"detach"):
            keyed(latents.requires_grad_(), index, key, schedule)
        latents = latents.detach()
        with pytest.raises(ValueError, match=r"index \(2,\)"):
            keyed(latents, index[:2], key, schedule)
        with pytest.raises(ValueError, match=r"sample_ids \(6,\).* 3 rows"):
            keyed(latents[:3], index[:3], key, schedule)
        with pytest.raises(ValueError, match=r"seed.*-1"):
            keyed(latents, index, Key(-1, key.sample_ids), schedule)
        with pytest.raises(ValueError, match=r"sample ids.*-2"):
            keyed(latents, index, Key(0, -torch.arange(6) + 3), schedule)
        with pytest.raises(ValueError, match=r"backend is 'gpu'"):
            keyed(latents, index, key, schedule, backend="gpu")
        with pytest.raises(RuntimeError, match=r"cuda"):
            keyed(latents, index, key, schedule, backend="triton")


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
