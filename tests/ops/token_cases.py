"""Inputs on which every implementation of the token losses is tried, and the float64 truth."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tglo import reference, tgo_token_loss, token_error, token_log_prob


class TokenCase(NamedTuple):
    """hidden (B, N, D), weight (V, D), bias (V,) or None, targets and mask (B, N), scores (B,), the
    reference's hidden states and weight, and other arguments.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    mask: Tensor
    scores: Tensor
    other_hidden: Tensor
    other_weight: Tensor
    options: dict[str, Any]

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors that get a gradient."""
        return [x for x in (self.hidden, self.weight, self.bias) if x is not None]

    def log_prob(self, **more: Any) -> Tensor:
        arguments = self.hidden, self.weight, self.targets, self.mask
        return token_log_prob(*arguments, bias=self.bias, **more)

    def error(self, **more: Any) -> Tensor:
        arguments = self.hidden, self.weight, self.targets, self.mask
        return token_error(*arguments, bias=self.bias, **more)

    def other(self) -> TokenCase:
        """The reference in the place of the policy."""
        bias = None if self.bias is None else self.bias.detach()
        return self._replace(hidden=self.other_hidden, weight=self.other_weight, bias=bias)

    def loss(self, form: str = "hidden", **more: Any) -> Any:
        """`tglo.tgo_token_loss` with the reference as "hidden", "log_prob" or "error"."""
        options = {**self.options, **more}
        backend = {"backend": options["backend"]} if "backend" in options else {}
        if form == "hidden":
            options["reference_hidden"] = self.other_hidden
            options["reference_weight"] = self.other_weight
            if self.bias is not None:
                options["reference_bias"] = self.bias.detach()
        elif form == "log_prob":
            options["reference_log_prob"] = self.other().log_prob(**backend)
        else:
            options["reference_error"] = self.other().error(**backend)
        arguments = self.hidden, self.weight, self.targets, self.mask, self.scores, 0.5
        return tgo_token_loss(*arguments, bias=self.bias, **options)


def make_token_case(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    *,
    bias: bool = True,
    masked: float = 0.64,
    distance: float = 0.05,
    seed: int = 0,
    **options: Any,
) -> TokenCase:
    """shape is (B, N, D, V); logits have a spread of about 2; `masked` is the share of masked tokens.
    Unmasked targets are no tokens.
    """
    batch, tokens, width, vocabulary = shape
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random)

    hidden, weight = normal(batch, tokens, width), 2 * normal(vocabulary, width) / width**0.5
    targets = torch.randint(0, vocabulary, (batch, tokens), generator=random)
    mask = torch.rand(batch, tokens, generator=random) < masked
    other_hidden = hidden + distance * normal(batch, tokens, width)
    other_weight = weight + distance * normal(vocabulary, width) / width**0.5
    return TokenCase(
        hidden.to(dtype).requires_grad_(),
        weight.to(dtype).requires_grad_(),
        normal(vocabulary).to(dtype).requires_grad_() if bias else None,
        torch.where(mask, targets, -100),
        mask,
        torch.rand(batch, generator=random),
        other_hidden.to(dtype),
        other_weight.to(dtype),
        options,
    )


def widened(case: TokenCase) -> TokenCase:
    """Return the same numbers in float64."""
    return case._replace(
        hidden=case.hidden.detach().double().requires_grad_(),
        weight=case.weight.detach().double().requires_grad_(),
        bias=None if case.bias is None else case.bias.detach().double().requires_grad_(),
        other_hidden=case.other_hidden.double(),
        other_weight=case.other_weight.double(),
    )


def log_prob_truth(case: TokenCase) -> Tensor:
    """The plain formula; with a widened case the truth."""
    return reference.token_log_prob(case.hidden, case.weight, case.targets, case.mask, case.bias)


def loss_truth(case: TokenCase) -> reference.TGOResult:
    other, options = log_prob_truth(case.other()).detach(), dict(case.options)
    ratio = reference.token_log_ratio(
        log_prob_truth(case),
        case.mask,
        reference_log_prob=other,
        temperature=options.pop("temperature", 1.0),
    )
    options.pop("reduction", None)
    return reference.scored(ratio, case.scores.double(), 0.5, **options)


def eager_log_prob(case: TokenCase) -> Tensor:
    """What a careful user writes without this package: the product in the inputs' dtype, float32 from
    there on.
    """
    logits = functional.linear(case.hidden, case.weight, case.bias).float()
    loss = functional.cross_entropy(
        logits.flatten(0, 1), case.targets.flatten(), ignore_index=-100, reduction="none"
    )
    return -loss.view_as(case.targets)


def gradients(value: Tensor, case: TokenCase, outer: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, case.inputs, outer.to(value), retain_graph=True))


def assert_as_good_as_eager(case: TokenCase, *, backend: str) -> None:
    """Errors against float64, of values and of all gradients, are at most twice eager's.

    Where eager is exact by luck, a few roundings are allowed instead.
    """
    outer = torch.linspace(-1.5, 2.0, case.mask.numel()).view_as(case.mask).to(case.hidden.device)
    wide = widened(case)
    truth, eager, kernel = (
        log_prob_truth(wide),
        eager_log_prob(case),
        case.log_prob(backend=backend),
    )
    assert kernel.dtype == torch.float32 and kernel.shape == case.mask.shape
    assert not kernel[~case.mask].any()
    exact = [truth, *gradients(truth, wide, outer)]
    plain = [eager, *gradients(eager, case, outer)]
    found = [kernel, *gradients(kernel, case, outer)]
    for name, a, b, c in zip(
        ("value", "hidden", "weight", "bias"), exact, plain, found, strict=False
    ):
        largest = a.abs().max().item() if a.numel() else 0.0
        unit = 2.0**-23 if name == "value" else torch.finfo(case.hidden.dtype).eps
        assert c.dtype == (torch.float32 if name == "value" else case.hidden.dtype)
        limit = (b.double() - a).abs().max().item()
        error = (c.double() - a).abs().max().item()
        assert error <= 2 * limit + 2 * unit * largest, (name, error, limit, largest)


def assert_loss_is_right(case: TokenCase, *, backend: str, form: str) -> None:
    """Loss, statistics and gradients against float64."""
    loss, stats = case.loss(form, backend=backend, return_stats=True)
    wide = widened(case)
    truth = loss_truth(wide)
    expected = reference.reduce_loss(truth.loss, case.options.get("reduction", "mean"))
    largest = max(1.0, truth.policy_error.abs().max().item())
    unit = 2.0**-20 * largest * case.options.get("beta", 1.0)
    unit /= case.options.get("temperature", 1.0)
    torch.testing.assert_close(stats.implicit_score, truth.implicit_score, rtol=0, atol=unit)
    torch.testing.assert_close(stats.policy_error, truth.policy_error, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stats.reference_error, truth.reference_error, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=6 * len(case.scores) * unit)
    outer = torch.linspace(0.5, 2.0, loss.numel(), device=loss.device).view(loss.shape)
    exact = gradients(expected, wide, outer.double())
    eps = torch.finfo(case.hidden.dtype).eps + 10 * unit
    for a, b in zip(exact, gradients(loss, case, outer), strict=True):
        limit = eps * a.abs().max().item()
        assert b.dtype == case.hidden.dtype
        assert (b.double() - a).abs().max().item() <= limit
