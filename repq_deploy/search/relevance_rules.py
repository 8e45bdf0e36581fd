"""The rules of layer-wise relevance propagation, as backward passes that autograd runs.

While ``Rules`` is entered, every torch function that computes on the image is replaced by one with the same value and
the rule below as its backward, so relevance *is* the gradient that autograd carries. A function that only moves
elements (reshape, permute, roll, slice, concatenate, pick the largest) needs no rule, as its gradient moves relevance
back. Any other function without a rule is refused. As rules are about functions, none of them knows a model's layers.

Each rule hands on exactly what it received:

1. Product of inputs and weights (linear, convolution): the z+ rule, in proportion to the positive contributions
   ``max(a_i w_ij, 0)``. It has no cancellation, so relevance keeps one sign and nothing needs to be damped. The bias
   gets no share: what it added is shared like the rest, in proportion to the positive contributions.
2. Product of two activations (q k^T, p v): the same contributions, half of each to either factor. Of a gated product,
   element by element (SwiGLU, gates of attention), half to either factor.
3. Norms of any kind, softmax, activation function, product with or sum with a constant: each output has one input,
   which gets all its relevance (the identity rule; of norms, mean, deviation and length count as constants).
4. Sum or mean of activations (residual, average pooling, the two terms of a rotation by position): in proportion to
   their magnitudes. A query that is no function of the image, of a pooling by attention, gets nothing.

Rules 1 and 2 are those of Chefer et al. (arXiv 2012.09838), 3 and the halves of gated products those of AttnLRP (arXiv
2402.05602). LRP-QViT and Mix-QViT do not publish which rules they use, nor measure gated models; this choice is our
reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from repq_deploy.errors import BadInput

__all__ = ["Rules"]

#: Added to every factor of a contribution: shares stay defined where an output has no positive contribution at all, and
#: still sum to one, since the sum that they are divided by contains it too.
_FLOOR = 1e-6

#: Functions that only move elements or say something about a tensor; and rule 3's.
_MOVES = """__get__ __getitem__ _assert amax cat chunk clone contiguous dim dropout expand expand_as flatten flip float
    max_pool2d permute pad reshape roll select size split squeeze stack to transpose type_as unbind unflatten unsqueeze
    view view_as"""
_ELEMENTWISE = """layer_norm rms_norm group_norm batch_norm normalize gelu relu relu_ silu sigmoid tanh softmax
    mul __mul__ div __truediv__ neg"""


class _Product(torch.autograd.Function):
    """Rules 1 and 2: ``product(a, b)``, linear in each; ``value`` is what the model computes of it."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, value: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.product = product
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (received,) = grads
        with torch.enable_grad():
            factors = [
                (x.detach().mul(sign).clamp_min(0) + _FLOOR).requires_grad_(needed)
                for sign in (1, -1)
                for x, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[:2], strict=True)
            ]
            positive = ctx.product(factors[0], factors[1]) + ctx.product(factors[2], factors[3])
        both = ctx.needs_input_grad[0] and ctx.needs_input_grad[1]
        sharing = received / positive.detach() * (0.5 if both else 1.0)
        needed = [factor for factor in factors if factor.requires_grad]
        slopes = iter(torch.autograd.grad(positive, needed, sharing))
        shares = [factor.detach() * next(slopes) if factor.requires_grad else None for factor in factors]
        a, b = (_total(shares[i], shares[i + 2]) for i in (0, 1))
        return a, b, None, None


class _Gated(torch.autograd.Function):
    """Rule 2, element by element: ``a * b`` of equal shapes."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        half = grads[0] / 2
        return half, half


class _Passed(torch.autograd.Function):
    """Rule 3: ``value``, of the shape of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Sum(torch.autograd.Function):
    """Rule 4: ``a + b`` of equal shapes."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (x.abs() + _FLOOR for x in ctx.saved_tensors)
        to_a = grads[0] * (a / (a + b))
        return to_a, grads[0] - to_a


class _Mean(torch.autograd.Function):
    """Rule 4: the mean of ``x`` over ``dims``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dims, ctx.keepdim = dims, keepdim
        return x.mean(tuple(dims), keepdim=keepdim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        size = ctx.saved_tensors[0].abs() + _FLOOR
        total = size.sum(tuple(ctx.dims), keepdim=True)
        return size / total * grads[0].reshape(total.shape), None, None


def _total(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b


def _depends(x: object) -> bool:
    """Whether a value is a function of the image."""
    return isinstance(x, Tensor) and x.requires_grad


class Rules(TorchFunctionMode):
    """Gives every function of the image its rule."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in _MOVES.split() or not any(map(_depends, (*args, *kwargs.values()))):
            return function(*args, **kwargs)
        rules: dict[str, Callable[..., Tensor]] = {
            "linear": partial(self._weighted, nn.functional.linear),
            "conv2d": self._convolution,
            "matmul": self._product,
            "__matmul__": self._product,
            "scaled_dot_product_attention": self._attention,
            "add": self._sum,
            "__add__": self._sum,
            "add_": lambda a, b: a.copy_(self._sum(a.clone(), b)),
            "sub": self._difference,
            "__sub__": self._difference,
            "mean": self._mean,
            "avg_pool2d": partial(self._average, function),
            "adaptive_avg_pool2d": partial(self._average, function),
        }
        if name in rules:
            return rules[name](*args, **kwargs)
        if name in _ELEMENTWISE.split() and sum(map(_depends, args)) == 1:
            x = next(filter(_depends, args))
            return _passed(x, function(*(a.detach() if a is x else a for a in args), **kwargs))
        if name in ("mul", "__mul__"):
            return self._gated(*args)
        raise BadInput(f"relevance: the model calls {resolve_name(function) or name}, which has no propagation rule")

    @staticmethod
    def _weighted(
        product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        with torch.no_grad():
            value = product(x, weight)
            value = value if bias is None else value + bias
        return _Product.apply(x, weight, value, product)

    @classmethod
    def _convolution(
        cls, x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any, **named: Any
    ) -> Tensor:
        def product(a: Tensor, b: Tensor) -> Tensor:
            return nn.functional.conv2d(a, b, None, *geometry, **named)

        shaped = None if bias is None else bias[:, None, None]
        return cls._weighted(product, x, weight, shaped)

    @staticmethod
    def _product(a: Tensor, b: Tensor) -> Tensor:
        return _Product.apply(a, b, torch.matmul(a.detach(), b.detach()), torch.matmul)

    @classmethod
    def _attention(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        """The products that the fused function stands for."""
        if is_causal or (attn_mask is not None and not attn_mask.is_floating_point()):
            raise BadInput("relevance: causal and boolean attention masks have no propagation rule")
        logits = cls._product(q, k.transpose(-2, -1))
        value = logits.detach() * (q.shape[-1] ** -0.5 if scale is None else scale)
        value = value if attn_mask is None else value + attn_mask
        return cls._product(_passed(logits, value.softmax(dim=-1)), v)

    @staticmethod
    def _gated(a: Tensor, b: Tensor) -> Tensor:
        _require_equal_shapes("product", a, b)
        return _Gated.apply(a, b)

    @staticmethod
    def _sum(a: Any, b: Any) -> Tensor:
        if _depends(a) and _depends(b):
            _require_equal_shapes("sum", a, b)
            return _Sum.apply(a, b)
        x, constant = (a, b) if _depends(a) else (b, a)
        return _passed(x, x.detach() + constant)

    @classmethod
    def _difference(cls, a: Any, b: Any) -> Tensor:
        return cls._sum(a, _passed(b, -b.detach()) if _depends(b) else -b)

    @staticmethod
    def _mean(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
        return _Mean.apply(x, list(dims), keepdim)

    @staticmethod
    def _average(function: Callable[..., Tensor], x: Tensor, *geometry: Any, **named: Any) -> Tensor:
        """A convolution whose weights are all the same."""

        def product(a: Tensor, weight: Tensor) -> Tensor:
            return function(a, *geometry, **named) * weight

        one = x.new_ones(())
        return _Product.apply(x, one, product(x.detach(), one), product)


def _require_equal_shapes(what: str, a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise BadInput(f"relevance: a {what} of shapes {list(a.shape)} and {list(b.shape)} has no propagation rule")


def _passed(x: Tensor, value: Tensor) -> Tensor:
    if x.shape != value.shape:
        raise BadInput(f"relevance: {list(x.shape)} broadcast to {list(value.shape)} has no propagation rule")
    return _Passed.apply(x, value)
