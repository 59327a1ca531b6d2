"""Linear maps, y = W x + b, by the faster of the two libraries that PyTorch has for products of matrices.

PyTorch leaves products of float32 matrices on a CPU to MKL, which does not use AVX-512 on processors of AMD; oneDNN,
which PyTorch uses for convolutions, does, and takes half the time there. Both add up in float32. Elsewhere, where
products are small, and in all that differentiates twice, transforms or casts, this is `torch.nn.functional.linear`.
"""

from __future__ import annotations

import functools
import logging
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)
LEAST = 5 << 18  # multiplications from which oneDNN is faster
LEAST_GRADIENT, NARROW = 1 << 22, 48  # the same of a weight's gradient, whose sums are long: and its least side


class Linear(nn.Linear):
    """`(N, inputs)` to `(N, outputs)`, a `torch.nn.Linear` in all but its speed."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, (*, outputs), of x (*, inputs) and W (outputs, inputs)."""
    if not is_quick(x, weight):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _onednn(x, weight, bias)
    # What a function of its own puts out may be overwritten by what follows, but only where it is no view.
    return _Linear.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


def _of_amd() -> bool:
    try:
        with Path("/proc/cpuinfo").open(errors="replace") as file:
            return "AuthenticAMD" in file.read(1000)
    except OSError:
        return False


ONEDNN = (
    hasattr(torch.ops.mkldnn, "_linear_pointwise") and "AVX512" in torch.backends.cpu.get_cpu_capability() and _of_amd()
)
"""Whether oneDNN is the faster one here."""


def is_quick(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes their product: x has as many numbers as rows times inputs, W (outputs, inputs)."""
    return x.numel() * len(weight) >= LEAST and _can_be_quick(x, weight)


def _can_be_quick(x: Tensor, weight: Tensor) -> bool:
    return (
        ONEDNN
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.ops.jensen.linear(x, weight, bias)
    return _product(x, weight, bias)


# A step of its own of a compiled graph: PyTorch's compiler takes that product with fixed weights alone.
_LIBRARY = torch.library.Library("jensen", "DEF")
_LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl(_LIBRARY, "linear", "CPU")
def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not (x.is_contiguous() or (x.dim() == 2 and x.T.is_contiguous())):
        x = x.contiguous()
    if not (weight.is_contiguous() or weight.T.is_contiguous()):  # parts of longer rows are very slow, or refused
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


@torch.library.register_fake("jensen::linear", lib=_LIBRARY)
def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


@functools.cache
def lower_products() -> None:
    """Let compiled graphs call oneDNN itself, and write the rows it multiplies as it wants them.

    PyTorch's compiler promises nothing of what this builds on; without it graphs come back to Python for each product.
    """
    try:
        from torch._inductor.ir import ExternKernel
        from torch._inductor.lowering import fallback_handler, register_lowering

        call = fallback_handler(torch.ops.mkldnn._linear_pointwise.default, add_to_fallback_set=False)

        def lowered(x: Any, weight: Any, bias: Any) -> Any:
            weight = ExternKernel.realize_input(weight)
            weight.freeze_layout()
            layout = weight.get_layout()
            if not (layout.is_contiguous() or layout.is_transposed()):
                weight = ExternKernel.require_contiguous(weight)
            return call(ExternKernel.require_contiguous(x), weight, bias, "none", [], "")

        register_lowering(torch.ops.jensen.linear, type_promotion_kind=None)(lowered)
    except (ImportError, AttributeError, TypeError) as e:
        log.info("compiled graphs take products by way of Python: %s", e)


class _Linear(torch.autograd.Function):
    """A linear map of which the products of both directions are oneDNN's, as far as these are faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        below = _gradient(g, weight) if of_x else None
        return below, _weight_gradient(g, x) if of_weight else None, g.sum(0) if of_bias else None


def _gradient(a: Tensor, b: Tensor) -> Tensor:
    """A B of matrices, (n, k) and (k, m), that can be differentiated where derivatives of derivatives are asked for."""
    return a @ b if torch.is_grad_enabled() else _onednn(a, b.T)


def _weight_gradient(g: Tensor, x: Tensor) -> Tensor:
    """gᵀ x, (outputs, inputs), of g (N, outputs) and x (N, inputs)."""
    outputs, inputs = g.shape[1], x.shape[1]
    slow = min(outputs, inputs) < NARROW or len(x) * outputs * inputs < LEAST_GRADIENT
    return g.T @ x if slow else _gradient(g.T, x)


# Features first


def product(a: Tensor, b: Tensor) -> Tensor:
    """A B of matrices, (n, k) and (k, m), for where no gradient is asked for."""
    return _onednn(a, b.T) if is_quick(b, a) else a @ b


def columns(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b, (outputs, N), of x (inputs, N) and W (outputs, inputs)."""
    if not is_quick(x, weight):
        return torch.addmm(bias.unsqueeze(1), weight, x)
    if torch.is_grad_enabled():
        return _Columns.apply(x, weight, bias)
    return _onednn(weight, x.T).add_(bias.unsqueeze(1))


def put_product(to: Tensor, a: Tensor, b: Tensor, adds: bool) -> None:
    """Write A B by oneDNN, (n, m), or add it to what is there, for where no gradient is asked for."""
    found = _onednn(a, b.T)
    to.add_(found) if adds else to.copy_(found)


def quick_from(x: Tensor) -> float:
    """How many weights a matrix has at least for oneDNN to take its product with columns of numbers, x (*, N)."""
    return LEAST / max(1, x.shape[-1]) if _can_be_quick(x, x) else math.inf


class _Columns(torch.autograd.Function):
    """As `_Linear`, features first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(x, weight)
        return _onednn(weight, x.T).add_(bias.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        below = _gradient(weight.T, g) if of_x else None
        return below, _gradient(g, x.T) if of_weight else None, g.sum(1) if of_bias else None
