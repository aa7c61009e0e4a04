"""The loss under what users wrap around a model: autocast, scaler, DDP, FSDP2, torch.compile."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tglo import TGOLoss, loss_and_grad, ops, tgo_loss

needs_kernels = pytest.mark.skipif(
    ops.backend_for("tgo_loss", "cpu", torch.float32) == "reference",
    reason=f"no CPU kernels: {ops.EXTENSION.problem or 'TGLO_BACKEND'}",
)
Batch = dict[str, Tensor]
BACKENDS = ("auto", "reference")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))


def make_batch(size: int = 4) -> Batch:
    random = torch.Generator().manual_seed(1)
    noisy, target = (torch.randn(size, 3, 8, 8, generator=random) for _ in range(2))
    with torch.no_grad():
        other = make_model()(noisy) + 0.1 * torch.randn(noisy.shape, generator=random)
    scores = torch.linspace(0.1, 0.9, size, dtype=torch.float64)
    return {"noisy": noisy, "target": target, "other": other, "scores": scores}


def loss_of(prediction: Tensor, batch: Batch, **options: Any) -> Any:
    options = {"temperature": 0.1, "reference_pred": batch["other"], **options}
    return tgo_loss(prediction, batch["target"], batch["scores"], 0.4, **options)


def gradients(model: nn.Module) -> list[Tensor]:
    """Whole gradients, also of sharded parameters."""
    found = [p.grad for p in model.parameters()]
    return [g.full_tensor() if hasattr(g, "full_tensor") else g for g in found]  # type: ignore[union-attr]


def expected_gradients(batch: Batch, **options: Any) -> list[Tensor]:
    model = make_model()
    loss_of(model(batch["noisy"]), batch, **options).backward()
    return gradients(model)


def assert_all_close(found: list[Tensor], expected: list[Tensor], **tolerance: float) -> None:
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 1e-5, "atol": 1e-7}))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_around_model_and_loss(backend: str) -> None:
    batch, model = make_batch(), make_model()
    # bfloat16 tells none of these from the threshold, float32 not all
    batch["scores"] = 1e6 + torch.tensor([0.24, 0.25, 0.26, 3.0], dtype=torch.float64)
    threshold = torch.tensor(1e6 + 0.25, dtype=torch.float64)
    arguments = batch["target"], batch["scores"], threshold
    options = {"reference_pred": batch["other"], "return_stats": True, "backend": backend}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(batch["noisy"])
        loss, stats = tgo_loss(prediction, *arguments, **options)
        _, gradient, _ = loss_and_grad(prediction, *arguments, **options)
        (slope,) = torch.autograd.grad(loss, prediction)
    assert prediction.dtype == slope.dtype == torch.bfloat16 and loss.dtype == torch.float32
    outside, outside_stats = tgo_loss(prediction, *arguments, **options)
    assert torch.equal(loss, outside)
    assert all(torch.equal(a, b) for a, b in zip(stats, outside_stats, strict=True))
    assert stats.label.tolist() == [False, True, True, True]
    exact = 1 + 5 * (batch["scores"] - threshold).abs()
    torch.testing.assert_close(stats.weight, exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient.bfloat16(), slope, rtol=0.01, atol=0)


def test_gradient_scaler_skips_a_step_that_overflows() -> None:
    batch = {name: t if name == "scores" else t.half() for name, t in make_batch().items()}
    weight = torch.ones(1, 3, 1, 1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    one = torch.ones(())
    arguments = batch["target"], batch["scores"], 0.4
    for finite in (False, True):
        prediction = batch["noisy"] * weight.half()
        loss, gradient = loss_and_grad(
            prediction, *arguments, reference_pred=batch["other"], loss_scale=scaler.scale(one)
        )
        assert loss.isfinite() and bool(gradient.isfinite().all()) == finite
        prediction.backward(gradient)
        scaler.step(optimizer)
        scaler.update(2.0**4)
        optimizer.zero_grad()
        assert (weight.detach() != 1).all() if finite else (weight.detach() == 1).all()


def _shard(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    for layer in model.children():
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ddp": nn.parallel.DistributedDataParallel,
    "ddp_compiled": lambda model: nn.parallel.DistributedDataParallel(
        torch.compile(model, fullgraph=True, backend="aot_eager")
    ),
    "fsdp2": _shard,
}


def _train_half(rank: int, folder: str) -> None:
    """One rank: its half of the batch through every wrapper and both forms of the loss."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=30),
    )
    half = {name: tensor[2 * rank : 2 * rank + 2] for name, tensor in make_batch().items()}
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    results = {}
    for name, wrap in WRAPPERS.items():
        model = wrap(make_model())
        prediction = model(half["noisy"])
        (compiled if name == "ddp_compiled" else loss_of)(prediction, half).backward()
        results[name] = gradients(model)
        model = wrap(make_model())
        prediction = model(half["noisy"])
        constants = half["target"], half["scores"], 0.4
        options = {"temperature": 0.1, "reference_pred": half["other"]}
        _, gradient = loss_and_grad(prediction, *constants, **options)
        prediction.backward(gradient)
        results[f"{name} loss_and_grad"] = gradients(model)
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    workers = torch.multiprocessing.spawn(_train_half, (str(tmp_path),), nprocs=2, join=False)
    try:
        for _ in range(100):  # join raises what a worker raised
            if workers.join(timeout=1):
                break
        else:
            raise AssertionError("the two processes did not end within 100 seconds")
    finally:
        for process in workers.processes:
            process.kill()
    expected = expected_gradients(make_batch())
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert len(results) == 2 * len(WRAPPERS)
        for found in results.values():
            assert_all_close(found, expected)


@pytest.mark.parametrize(
    ("form", "backend"),
    [
        ("tgo_loss", "auto"),
        ("tgo_loss", "reference"),
        pytest.param("loss_and_grad", "cpu", marks=needs_kernels),
        ("loss_and_grad", "reference"),
    ],
)
def test_model_and_loss_compile_as_one_graph(form: str, backend: str) -> None:
    batch, model = make_batch(), make_model()
    constants = batch["target"], batch["scores"], 0.4

    def step(noisy: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        options = {"temperature": 0.1, "reference_pred": batch["other"], "backend": backend}
        prediction = model(noisy)
        if form == "tgo_loss":
            return (tgo_loss(prediction, *constants, timestep_weight=weight, **options),)
        return *loss_and_grad(prediction, *constants, timestep_weight=weight, **options), prediction

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for factor in (1.0, 0.5):  # what changes from step to step is a tensor
        weight = torch.full((4,), factor)
        loss, *rest = compiled(batch["noisy"], weight)
        if form == "tgo_loss":
            loss.backward()
        else:
            rest[1].backward(rest[0])
        assert_all_close(gradients(model), expected_gradients(batch, timestep_weight=factor))
        model.zero_grad()


def test_a_compiled_loss_takes_another_temperature() -> None:
    batch = make_batch()
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    for temperature in (0.1, 0.2, 0.3):
        loss = compiled(batch["noisy"], batch, temperature=temperature)
        torch.testing.assert_close(loss, loss_of(batch["noisy"], batch, temperature=temperature))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_module_is_copied_with_its_settings(again: Callable[[TGOLoss], TGOLoss]) -> None:
    module = TGOLoss(0.4, beta=2.0, temperature=0.1, confidence=1.0, reduction="sum")
    copied = again(module.eval())
    assert repr(copied) == repr(module) and not copied.training and not copied.state_dict()
    batch = make_batch()
    inputs = batch["noisy"], batch["target"], batch["scores"]
    found = copied(*inputs, reference_pred=batch["other"])
    assert torch.equal(found, module(*inputs, reference_pred=batch["other"]))
