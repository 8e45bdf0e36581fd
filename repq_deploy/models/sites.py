"""The sites of a model: what is quantized, and the facts about each that decide which rewrites are exact.

Methods, rewrites and searches speak of sites and ask their facts. Which modules of a library the sites are is said in
one file for each family of models (``repq_deploy.models.families``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from repq_deploy.errors import BadInput
from repq_deploy.tasks import Task

__all__ = [
    "AttentionParts",
    "AttentionSite",
    "LinearSite",
    "ResidualStream",
    "Role",
    "Rows",
    "Sites",
    "Stage",
    "checked",
    "forward_through",
    "require",
]

#: "gate": a linear whose sigmoid multiplies attention's outcome; "pool": of a pooling by attention behind the blocks.
Role = Literal["patch_embed", "qkv", "gate", "proj", "fc1", "fc2", "reduction", "pool", "head"]


@dataclass(frozen=True)
class Rows:
    """Rows of the weight of the module ``linear``, from ``start`` on, as many as are read."""

    linear: str
    start: int = 0


@dataclass(frozen=True)
class LinearSite:
    """A linear layer, or the patch embedding's convolution.

    ``norm`` names the layer norm whose output this layer reads, where there is one that nothing reads but linear sites
    (``Sites.readers``): its scale and bias can be folded with their weights. ``layer_scale`` names the LayerScale that
    multiplies this layer's output. ``after_gelu``: the layer reads the output of a GELU, and nothing else stands
    between. ``padded``: tokens of zeros may come in between the norm and this layer. They stay zeros under a scale that
    the norm takes, but not under a shift, which this layer adds to all of its tokens instead. ``up`` names the rows
    whose outputs are multiplied by a gate, each by its own element of it, to give what this layer reads.
    """

    name: str
    role: Role
    norm: str | None = None
    layer_scale: str | None = None
    after_gelu: bool = False
    padded: bool = False
    up: Rows | None = None

    @property
    def is_convolution(self) -> bool:
        return self.role == "patch_embed"


@dataclass(frozen=True)
class AttentionSite:
    """An attention module ``name``: its products q k^T and p v lie between the linears ``qkv`` and ``proj`` in it.

    Attributes:
        heads: how many there are; each has as many channels of q, k and v as the others.
        between_qk: what stands between ``qkv`` and the product q k^T: "nothing", a "norm" of each head, "rope", a
            rotation that depends on the token, "norm" where both stand there, or "cosine": vectors of length one,
            whose product is multiplied by up to 100.
        between_v: what stands between ``qkv`` and ``proj`` on the way of v, beside the product: "nothing", a "norm", or
            a "gate", which multiplies each channel.
    """

    name: str
    heads: int
    between_qk: Literal["nothing", "norm", "rope", "cosine"] = "nothing"
    between_v: Literal["nothing", "norm", "gate"] = "nothing"

    @property
    def qkv(self) -> str:
        """The linear that gives q, k and v, in this order: [..., 3 * channels]."""
        return f"{self.name}.qkv"

    @property
    def proj(self) -> str:
        """The linear that reads the product p v, [..., channels]."""
        return f"{self.name}.proj"

    @property
    def k_shift_is_free(self) -> bool:
        """Whether a constant added to every key leaves through the softmax: each logit of a row gets the same."""
        return self.between_qk == "nothing"

    @property
    def v_shift_is_free(self) -> bool:
        """Whether a constant added to every value comes out of the product whole, where ``proj`` can take it out."""
        return self.between_v == "nothing"

    @property
    def qk_rotation_is_free(self) -> bool:
        """Whether q and k of a head may be rotated alike: their products stay, and their lengths."""
        return self.between_qk in ("nothing", "cosine")

    @property
    def v_rotation_is_free(self) -> bool:
        """Whether v of a head may be rotated, against the columns of ``proj`` that read it."""
        return self.between_v == "nothing"

    @property
    def qk_head_scales_are_free(self) -> bool:
        """Whether a number for each head may move from q and k to the logits. RoPE commutes with it."""
        return self.between_qk in ("nothing", "rope")

    @property
    def v_head_scales_are_free(self) -> bool:
        """Whether a number for each head may move from v to the columns of ``proj``."""
        return self.between_v != "norm"

    def qk_bits(self, bits: int) -> int:
        """The bits of q and k where ``bits`` are asked for: at least 8 where errors of theirs are multiplied."""
        return max(bits, 8) if self.between_qk == "cosine" else bits


@dataclass(frozen=True)
class AttentionParts:
    """What an attention module has beside its two linears, with inference in view.

    Attributes:
        scale: what q k^T is multiplied by, for all heads or for each, [heads, 1, 1].
        q_norm, k_norm: of [B, heads, N, channels of a head]; None where there are none.
        out_norm: of ``proj``'s input [B, N, channels]; None where there is none.
        position_bias: added to the logits, [1, heads, N, N]; None where there is none.
        rotate: turns q and k [B, heads, N, channels of a head] alike, by their tokens' positions, behind their norms,
            with tables of its own; None where nothing does.
        gate: the linear [..., channels of x] to [..., channels] whose sigmoid multiplies ``proj``'s input, behind
            ``out_norm``; None where there is none.
    """

    scale: float | Tensor
    q_norm: nn.Module | None = None
    k_norm: nn.Module | None = None
    out_norm: nn.Module | None = None
    position_bias: Tensor | None = None
    rotate: nn.Module | None = None
    gate: nn.Module | None = None


@dataclass(frozen=True)
class ResidualStream:
    """The modules that write to a model's residual stream or read it. As there are no others, it can be rotated.

    ``writers`` name linears (or the patch embedding's convolution), ``embeddings`` parameters of shape [..., channels],
    ``readers`` pairs of a layer norm and the linears that read its output. ``entry`` names a module, such as a layer
    norm before the blocks, whose output begins the stream and cannot absorb a rotation: it gets one product more.
    ``exits`` name modules that read the stream and give it out (``models.taps``): each gets one product before it.
    """

    writers: tuple[str, ...]
    embeddings: tuple[str, ...]
    readers: tuple[tuple[str, tuple[str, ...]], ...]
    entry: str | None = None
    exits: tuple[str, ...] = ()

    @property
    def rotatable(self) -> tuple[str, ...]:
        """The modules that a rotation of the stream wraps."""
        return self.exits if self.entry is None else (self.entry, *self.exits)


@dataclass(frozen=True)
class Sites:
    """Every site of a model, in the order of the forward pass. ``stream`` is None where it has no single form."""

    linears: tuple[LinearSite, ...]
    attentions: tuple[AttentionSite, ...]
    stream: ResidualStream | None = None

    def readers(self, norm: str) -> tuple[LinearSite, ...]:
        """The linear sites that read the output of the layer norm ``norm``."""
        return tuple(site for site in self.linears if site.norm == norm)


@dataclass(frozen=True)
class Stage:
    """A part of the forward pass: its output is the next stage's input.

    Attributes:
        name: for the progress bar and for messages.
        forward: computes the stage's output tensor from its input tensor.
        modules: names of the modules that are run; default: the one called ``name``.
        task: what the model's outputs are for, of its last stage, whose output they are; None of every other stage.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    modules: tuple[str, ...] = ()
    task: Task | None = None

    def holds(self, site: str) -> bool:
        """Whether the module ``site`` is run by this stage."""
        return any(site == module or site.startswith(f"{module}.") for module in self.modules or (self.name,))

    @property
    def is_head(self) -> bool:
        """Whether this is the last stage, whose output is the model's."""
        return self.task is not None


def forward_through(stages: Sequence[Stage], x: Tensor) -> Tensor:
    """The output of the last of some consecutive ``stages``, given the first one's input."""
    return functools.reduce(lambda value, stage: stage.forward(value), stages, x)


def checked(model: nn.Module, sites: Sites) -> Sites:
    """Drop a head that is an identity (in a model without classes), then require the expected type of each module.

    Raises:
        BadInput: a module is of another type.
    """
    modules = dict(model.named_modules())
    linears = tuple(site for site in sites.linears if not isinstance(modules[site.name], nn.Identity))
    for site in linears:
        expected = nn.Conv2d if site.is_convolution else nn.Linear
        module = modules[site.name]
        require(isinstance(module, expected), f"{site.name}: {type(module).__name__}", expected.__name__)
        if site.norm is not None:
            norm = modules[site.norm]
            affine = isinstance(norm, nn.LayerNorm) and norm.elementwise_affine
            require(affine, f"{site.norm}: {type(norm).__name__}", "an affine LayerNorm")
    return replace(sites, linears=linears)


def require(condition: bool, found: str, expected: str) -> None:
    """Refuse a model in which something else was ``found`` than its family has.

    Raises:
        BadInput: the condition does not hold.
    """
    if not condition:
        raise BadInput(f"model not supported: found {found}, expected {expected}")
