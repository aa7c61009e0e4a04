"""The cost of one step of a model, counted by running it on tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tglo.models import quantization
from tglo.plan.options import CHECKPOINTING, Checkpointing
from tglo.plan.sample import Sample, sample_of
from tglo.settings import ModelOptions

# DeepSpeed keeps weights of at most this many elements whole under ZeRO 3.
PERSISTENT = 100_000
_BATCH = 2


@dataclass(frozen=True)
class Sizes:
    """Numbers of elements of a model's weights."""

    trained: int
    frozen: int
    small: int
    """Elements in weights of at most PERSISTENT elements, trained or not."""
    factored: int
    """Elements of Adafactor's second moments: a row and a column for each trained matrix."""
    quantizable: int = 0
    """Frozen elements that model.base_weights = int8 and nf4 store in 8 and 4 bits."""
    quantizable_rows: int = 0
    """Rows of their matrices."""
    largest: int = 0
    """Elements of the largest of them, which is made whole for each product."""

    @property
    def all(self) -> int:
        """Trained and frozen."""
        return self.trained + self.frozen

    @classmethod
    def of(cls, module: nn.Module) -> Sizes:
        """Count a module's weights; those that require a gradient are trained."""
        trained = [p for p in module.parameters() if p.requires_grad]
        counts = [p.numel() for p in module.parameters()]
        quantizable = [layer.weight for layer in quantization.layers(module)]
        quantizable = [weight for weight in quantizable if not weight.requires_grad]
        return cls(
            trained=sum(p.numel() for p in trained),
            frozen=sum(counts) - sum(p.numel() for p in trained),
            small=sum(count for count in counts if count <= PERSISTENT),
            factored=sum(_factored(p) for p in trained),
            quantizable=sum(weight.numel() for weight in quantizable),
            quantizable_rows=sum(len(weight) for weight in quantizable),
            largest=max((weight.numel() for weight in quantizable), default=0),
        )


@dataclass(frozen=True)
class Cost:
    """One sample's forward and backward pass under one way of checkpointing."""

    flops: int
    """Floating-point operations of both passes, recomputation included."""
    held: int
    """Bytes that the forward pass leaves for the backward."""
    peak: int
    """Most bytes at once beside the weights and their accumulated gradients."""


@dataclass(frozen=True)
class Profile:
    """The needs of a model for one sample, in bfloat16."""

    sizes: Sizes
    sample: Sample
    forward_flops: int
    """Floating-point operations of one sample's forward pass."""
    cost: dict[Checkpointing, Cost]


@lru_cache(maxsize=16)
def profile(
    model: str,
    *,
    loading: ModelOptions = ModelOptions(),
    lora_rank: int | None = None,
    resolution: int | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
) -> Profile:
    """Count a model's weights, arithmetic and activations on the meta device; takes seconds.

    lora_rank: train a LoRA instead of all weights. resolution: of a square; height, width: in pixels; frames: of
    a clip. What is not given is the model's own.
    Attention is counted as flash attention does it: no matrix of tokens by tokens is kept, and its
    backward computes the probabilities again. ValueError for an unknown model, or a size that it cannot
    have (`tglo.plan.sample.sample_of`).
    """
    from tglo.models.execution import checkpointing
    from tglo.models.registry import skeleton_of

    skeleton = skeleton_of(model, loading)
    asked = {"resolution": resolution, "height": height, "width": width, "frames": frames}
    sample = sample_of(model, skeleton, **asked)
    denoiser = skeleton.build(torch.bfloat16, lora_rank)
    arguments = skeleton.inputs(denoiser, _BATCH, sample.height, sample.width, sample.frames)
    cost: dict[Checkpointing, Cost] = {}
    forward = 0
    for mode in CHECKPOINTING:
        checkpointing.set_mode(denoiser, mode)
        forward, cost[mode] = measure(denoiser, lambda: _prediction(denoiser(**arguments)), _BATCH)
    return Profile(Sizes.of(denoiser), sample, forward, cost)


def _prediction(answer: Any) -> Tensor:
    """Return the first entry of what a denoiser returns: a tensor, or one for each sample."""
    first = answer[0]
    return torch.stack(first) if isinstance(first, list) else first


def measure(module: nn.Module, forward: Callable[[], Tensor], batch: int) -> tuple[int, Cost]:
    """Return forward FLOPs and Cost per sample of ``forward`` and its backward, on the meta device.

    Gradients of weights are dropped as soon as each is complete: they are counted as states.
    """
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        for p in module.parameters()
        if p.requires_grad
    ]
    count = Counter(module)
    try:
        with _flash_attention(), count:
            prediction = forward()
            forward_flops, held = count.flops, count.now
            torch.autograd.backward(prediction, torch.empty_like(prediction))
    finally:
        for hook in hooks:
            hook.remove()
    cost = Cost(count.flops // batch, held // batch, count.peak // batch)
    return forward_flops // batch, cost


class Counter(TorchDispatchMode):
    """Counts FLOPs, and bytes of all storages that operators made; a module's own do not count.

    ``now``: bytes of those that still live, ``peak``: their most so far. Views share their storage
    and count once. PyTorch's FlopCounterMode has the same formulas, but it follows modules by hooks
    that keep recomputed activations alive: with it, SDXL's peak was four times as high.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = self.flops = 0
        # Keeping a storage's Python object keeps its id; that of a live storage is unique.
        self._known = {id(s): s for s in (p.untyped_storage() for p in module.parameters())}
        self._seen: dict[int, Any] = {}
        self._results = Results()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = self._results.of(func, args, kwargs or {})
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known or key in self._seen:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class Results:
    """What operators return. On the meta device shapes seen before are answered from memory: PyTorch infers many of
    them in Python, a millisecond each, and a model's layers ask for the same ones again and again.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[bool, list[Layout | None]]] = {}

    def of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return new tensors as func(*args, **kwargs) would; views and what is changed in place are func's own."""
        schema = func._schema
        if schema.is_mutable or any(returned.alias_info for returned in schema.returns):
            return func(*args, **kwargs)
        key = (func, _key(args), _key(tuple(kwargs.items())))
        if key in self._known:
            single, layouts = self._known[key]
            made = tuple(None if one is None else one.tensor() for one in layouts)
            return made[0] if single else made
        result = func(*args, **kwargs)
        single = isinstance(result, Tensor)
        several = (result,) if single else result
        if isinstance(several, tuple) and _are_new(several, args, kwargs):
            self._known[key] = single, [None if one is None else Layout.of(one) for one in several]
        return result


def _are_new(results: tuple[Any, ...], *given: Any) -> bool:
    """Return whether these are tensors without data (or None), of which each has memory of its own, and all of it:
    some operators that say so, as _unsafe_view, return what they were given.
    """
    tensors = [one for one in results if one is not None]
    if not all(isinstance(one, Tensor) and one.is_meta for one in tensors):
        return False
    before = [one for one in tree_leaves(given) if isinstance(one, Tensor)]
    places = {one.untyped_storage()._cdata for one in [*tensors, *before]}
    others = {one.untyped_storage()._cdata for one in before}
    return len(places) == len(tensors) + len(others) and all(
        Layout.of(one).fills(one) for one in tensors
    )


class Layout(NamedTuple):
    """All that there is to know of a tensor without data."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def tensor(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)

    def fills(self, tensor: Tensor) -> bool:
        """Return whether a tensor made anew has as much memory."""
        return self.tensor().untyped_storage().nbytes() == tensor.untyped_storage().nbytes()


def _key(value: Any) -> Hashable:
    """Return what a result's shape depends on: of tensors their layout, of others their type, too (1 is not True)."""
    if isinstance(value, Tensor):
        return Layout.of(value)
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    return type(value), value


@contextmanager
def _flash_attention() -> Iterator[None]:
    """Make attention of meta tensors flash attention, inside.

    Without this it would be the plain form, which keeps the probabilities: no fused kernel is
    registered for the meta device.
    """

    def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("scaled_dot_product_attention", attention, "AutogradMeta")
        yield


def _factored(parameter: Tensor) -> int:
    if parameter.dim() < 2:
        return parameter.numel()
    rows, columns = parameter.shape[-2:]
    return parameter.numel() // columns + parameter.numel() // rows
