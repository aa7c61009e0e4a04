"""Counts of SDXL on the meta device, the table's order, and errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import tiny, tiny_flow
from tglo import models
from tglo.plan.memory import frozen_bytes, memory, model_states
from tglo.plan.options import CHECKPOINTING, Options
from tglo.plan.planner import plan
from tglo.plan.profile import Counter, Layout, Results, Sizes, measure, profile
from tglo.plan.traffic import reference_factor, wire_bytes, wire_seconds
from tglo.settings import QUANTIZED

SDXL = Options(gpus=8)


def test_sdxl_is_counted_on_tensors_without_data() -> None:
    found = profile("sdxl")
    assert found.sizes.trained == 2_567_463_684  # the published UNet's
    assert found.forward_flops == pytest.approx(6.76e12, rel=1e-3)
    flops = {mode: found.cost[mode].flops for mode in CHECKPOINTING}
    # Twice the forward for the backward, and flash attention's own second product.
    assert flops["none"] == pytest.approx(20.62e12, rel=1e-3)
    assert flops["selective"] == flops["none"]
    assert flops["none"] < flops["full"] <= flops["none"] + found.forward_flops
    peaks = [found.cost[mode].peak for mode in CHECKPOINTING]
    assert peaks == sorted(peaks, reverse=True)
    assert all(found.cost[mode].held <= found.cost[mode].peak for mode in CHECKPOINTING)


def test_the_counted_bytes_are_those_that_autograd_saves() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 32), nn.LayerNorm(32))
        inputs = torch.empty(10, 64)
    saved: dict[int, torch.Tensor] = {}
    weights = {id(p.untyped_storage()) for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[id(tensor.untyped_storage())] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(inputs)
    own = [t for key, t in saved.items() if key not in weights and t.shape != inputs.shape]
    expected = sum(t.untyped_storage().nbytes() for t in [*own, result])
    count = Counter(model)
    with count:
        result = model(inputs)
    assert count.now == expected
    forward, cost = measure(model, lambda: model(inputs), 1)
    assert forward == 2 * 10 * (64 * 256 + 256 * 32)
    # No gradient is asked of the inputs, so the first layer has one product in the backward.
    assert cost.flops == forward + 2 * 10 * (64 * 256 + 2 * 256 * 32)


def test_results_of_known_shapes_are_as_operators_give_them() -> None:
    asked: list[object] = []

    class Asked(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            asked.append(func)
            return func(*args, **(kwargs or {}))

    aten, results = torch.ops.aten, Results()
    x = torch.empty(4, 6, device="meta", dtype=torch.bfloat16)
    calls: list[tuple[Any, ...]] = [
        (aten.add.Tensor, x, x),
        (aten.add.Tensor, x.T, x.T),  # strides of its own
        (aten.add.Tensor, x, 1),
        (aten.sum.dim_IntList, x, [1], True),
        (aten.sum.dim_IntList, x, [1], 1),  # equal to the last, in Python
        (aten.native_layer_norm.default, x, [6], None, None, 1e-5),
    ]
    for func, *args in calls:
        first, again = results.of(func, tuple(args), {}), results.of(func, tuple(args), {})
        for one, other in zip(*map(tree_leaves, (first, again)), strict=True):
            assert (
                one is not other and one.untyped_storage()._cdata != other.untyped_storage()._cdata
            )
            assert Layout.of(one) == Layout.of(other)
    with Asked():
        for func, *args in calls:
            results.of(func, tuple(args), {})
        assert all("empty_strided" in str(func) for func in asked)
        # It says that its result is new, and returns what it was given.
        asked.clear()
        for _ in range(2):
            view = results.of(aten._unsafe_view.default, (x, [24]), {})
            assert view.untyped_storage()._cdata == x.untyped_storage()._cdata
        assert asked.count(aten._unsafe_view.default) == 2
        # Of real numbers everything is computed.
        ones = torch.ones(2, 3)
        assert [results.of(aten.add.Tensor, (ones, n * ones), {}).sum() for n in (1, 2)] == [12, 18]


def test_float32_activations_are_twice_bfloat16s(tmp_path: Path) -> None:
    from tglo.models.registry import skeleton_of

    skeleton = skeleton_of(str(tiny.build_sdxl(tmp_path / "sdxl")))
    peaks = []
    for dtype in (torch.bfloat16, torch.float32):
        denoiser = skeleton.build(dtype)
        arguments = skeleton.inputs(denoiser, 2, 32, 32)
        peaks.append(measure(denoiser, lambda d=denoiser, a=arguments: d(**a)[0], 2)[1].peak)
    assert peaks[1] == pytest.approx(2 * peaks[0], rel=0.1)
    assert peaks[1] <= 2.02 * peaks[0]


def test_memory_falls_with_stage_and_checkpointing_and_grows_with_the_batch() -> None:
    found = profile("sdxl")
    for precision in ("bf16", "fp32"):
        options = replace(SDXL, precision=precision)
        states = [model_states(options, found.sizes, s).total for s in range(4)]
        assert states == sorted(states, reverse=True)
    assert model_states(replace(SDXL, gpus=16), found.sizes, 2).total < states[2]
    for stage in range(4):
        totals = [memory(SDXL, found, stage, mode).total for mode in CHECKPOINTING]
        assert totals == sorted(totals, reverse=True)
        larger = memory(replace(SDXL, micro_batch=8), found, stage, "none")
        assert larger.total > totals[0]


def test_states_are_the_known_bytes_per_weight() -> None:
    sizes = Sizes(trained=1000, frozen=0, small=0, factored=100)
    four = Options(gpus=4)
    assert model_states(four, sizes, 0).total == 16 * 1000
    assert model_states(four, sizes, 2).total == 2 * 1000 + 14 * 1000 / 4
    assert model_states(four, sizes, 3).total == 16 * 1000 / 4
    assert model_states(Options(precision="fp32"), sizes, None).total == 16 * 1000
    offloaded = model_states(replace(four, offload_optimizer=True), sizes, 2)
    assert offloaded.total == 2 * 1000 and offloaded.host == (12 + 4 + 2) * 1000 / 4
    factored = [
        model_states(replace(four, optimizer="adafactor"), sizes, stage).optimizer
        for stage in (0, 1)
    ]
    # ZeRO's flat partitions have no rows and columns.
    assert factored == [4 * 1000 + 4 * 100, 8 * 1000 / 4]


def test_the_reference_and_the_moving_average_take_memory() -> None:
    found = profile("sdxl")
    base = memory(SDXL, found, 1, "none").extra
    copy = memory(replace(SDXL, reference="copy"), found, 1, "none").extra
    assert (base, copy) == (0, 2 * found.sizes.trained)
    averaged = replace(SDXL, ema=True, gpus=4)
    whole, shard = (memory(averaged, found, stage, "none").extra for stage in (0, 1))
    assert (whole, shard) == (4 * found.sizes.trained, found.sizes.trained)
    offloaded = replace(averaged, offload_optimizer=True)
    assert memory(offloaded, found, 2, "none").extra == 0
    host = [
        memory(o, found, 2, "none").states.host for o in (offloaded, replace(offloaded, ema=False))
    ]
    assert host[0] - host[1] == found.sizes.trained
    assert reference_factor(replace(SDXL, reference="copy")) == pytest.approx(4 / 3)
    assert reference_factor(replace(SDXL, draws=3, epochs=10)) == pytest.approx(1.1)
    assert reference_factor(replace(SDXL, reference="none")) == 1


def test_bytes_on_the_wire() -> None:
    sizes = Sizes(trained=1000, frozen=0, small=0, factored=0)
    options = replace(SDXL, gpus=4, accumulation=2)
    ring, gradient = 3 / 4, 2 * 1000
    sent = [wire_bytes(options, sizes, stage) for stage in (None, 0, 1, 2, 3)]
    # all-reduce; and the weights gathered; all-reduce in both micro steps; gather twice, scatter.
    assert sent == [0, *(ring * gradient * times for times in (2, 3, 5, 6))]
    inside, between = (
        wire_seconds(replace(options, nodes=nodes, gpus=8 // nodes), sizes, 0) for nodes in (1, 2)
    )
    assert between == pytest.approx(inside * options.interconnect / options.network)


def test_the_recommendation_fits_and_its_largest_batch_is_the_largest() -> None:
    for options in (SDXL, replace(SDXL, micro_batch=8), replace(SDXL, nodes=4), Options()):
        answer = plan(options)
        assert answer.best.fits and answer.best.largest_micro_batch >= options.micro_batch
        largest = answer.best.largest_micro_batch
        for batch, fits in ((largest, True), (largest + 1, False)):
            trial = replace(options, micro_batch=batch)
            used = memory(trial, answer.profile, answer.best.stage, answer.best.checkpointing)
            assert (used.total <= options.gpu_memory * 1e9) is fits


def test_nothing_fits_says_by_how_much_and_what_helps() -> None:
    with pytest.raises(
        ValueError, match=r"sdxl \(full, .*more than the GPU's 24 GB; .*--train lora"
    ):
        plan(Options(gpu_memory=24))
    with pytest.raises(ValueError, match="no single change makes it fit"):
        plan(Options(gpu_memory=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 0}, "gpus is 0; it must be at least 1"),
        ({"gpu_memory": -1.0}, "gpu_memory is -1.0"),
        (
            {"model": "sdx"},
            "'sdx' is neither one of sd15, sd21, sdxl, flux-dev, .* nor a diffusers folder",
        ),
        ({"resolution": 1000}, "resolution is 1000; sdxl needs a multiple of 32, such as 992"),
        ({"width": 1000}, "width is 1000; sdxl needs a multiple of 32, such as 992"),
        ({"resolution": 512, "height": 512}, "resolution 512 is a square's side, and height 512"),
        ({"frames": 81}, "frames is 81, but sdxl makes images; leave --frames out"),
        (
            {"model": "wan21-1.3b", "frames": 80},
            "frames is 80; for wan it must be a multiple of 4 plus 1: 81 is the nearest",
        ),
        (
            {"model": "ltx-2b", "frames": 150},
            "frames is 150; for ltx .* multiple of 8 plus 1: 153 is the nearest",
        ),
        ({"reference": "adapter-off"}, "adapter-off needs train lora"),
        ({"base_weights": "nf4"}, "base_weights nf4 needs train lora"),
        (
            {"base_weights": "half", "train": "lora", "precision": "fp32"},
            "base_weights half needs precision bf16 or fp16",
        ),
    ],
)
def test_what_cannot_be_planned_for_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(replace(Options(), **changes))


def test_a_local_folder_is_read(tmp_path: Path) -> None:
    folder = tiny.build_sd15(tmp_path / "sd15")
    found = plan(Options(model=str(folder), train="lora", lora_rank=4, gpu_memory=8)).profile
    assert 0 < found.sizes.trained < found.sizes.frozen


def test_what_training_refuses_is_not_recommended() -> None:
    alone = plan(replace(SDXL, gpus=1, optimizer="adafactor", micro_batch=1))
    assert {row.stage for row in alone.rows} == {None}
    with pytest.raises(ValueError, match="adafactor and engine.precision bf16: DeepSpeed"):
        plan(replace(SDXL, gpus=8, optimizer="adafactor"))
    with pytest.raises(ValueError, match="adamw8bit, zero_stage 3 and offload_optimizer True"):
        plan(replace(SDXL, gpus=8, optimizer="adamw8bit", offload_optimizer=True))
    assert 3 not in {row.stage for row in plan(replace(SDXL, gpus=8, optimizer="adamw8bit")).rows}


def test_float32_activations_take_twice_the_room() -> None:
    found = profile(SDXL.model)
    half, full = (memory(replace(SDXL, precision=p), found, 0, "none") for p in ("bf16", "fp32"))
    assert full.working > 1.8 * half.working
    autocast = memory(SDXL, found, None, "none")
    assert autocast.working > 1.8 * half.working


def test_frozen_weights_in_fewer_bits_take_less() -> None:
    sizes = Sizes(
        trained=10, frozen=6500, small=0, factored=0, quantizable=6400, quantizable_rows=20
    )
    options = Options(train="lora")
    expected = {
        "default": (6 * 6510, 2 * 6510),
        "half": (2 * 6500 + 6 * 10, 2 * 6510),
        "int8": (6400 + 2 * 20 + 2 * 100 + 6 * 10, 6400 + 2 * 20 + 2 * 100 + 2 * 10),
        "nf4": (3200 + 4 * 100 + 2 * 100 + 6 * 10, 3200 + 4 * 100 + 2 * 100 + 2 * 10),
    }
    for kind, weights in expected.items():
        kept = replace(options, base_weights=kind)  # type: ignore[arg-type]
        found = tuple(model_states(kept, sizes, stage).weights for stage in (None, 0))
        assert found == weights, kind


@pytest.mark.parametrize("kind", ["half", "int8", "nf4"])
def test_frozen_weights_have_the_bytes_that_are_counted(kind: str, tmp_path: Path) -> None:
    """But for a code book of 16 numbers that bitsandbytes gives each layer."""
    pytest.importorskip("bitsandbytes", reason="int8 and nf4 are formats of bitsandbytes")
    folder = tiny_flow.build_flux(tmp_path / "flux")
    family = models.load(folder, dtype=torch.bfloat16, encoders=False)
    if kind in QUANTIZED:
        family.quantize(kind, "cpu")
    count = layers = 0
    for module in family.denoiser.modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        tensors += [state.absmax] if state is not None else []
        layers += state is not None
        count += sum(tensor.nbytes for tensor in tensors)
    sizes = profile(str(folder), lora_rank=4).sizes
    assert layers == 0 or kind == "nf4"
    counted = frozen_bytes(Options(train="lora", base_weights=kind), sizes)  # type: ignore[arg-type]
    assert count == pytest.approx(counted, rel=0.002)


def test_a_quantised_base_goes_without_zero_3_and_is_a_remedy() -> None:
    flux = Options(model="flux-dev", train="lora", gpu_memory=24, micro_batch=1)
    with pytest.raises(
        ValueError, match="one of these makes it fit: --base-weights int8, --base-w"
    ):
        plan(flux)
    answer = plan(replace(flux, base_weights="nf4"))
    assert answer.best.checkpointing == "full" and answer.best.memory.total < 24e9
    many = plan(replace(flux, base_weights="int8", gpus=2))
    assert {row.stage for row in many.rows} == {0, 1, 2}
    assert not any(row.fits for row in answer.rows if row.checkpointing == "none")
