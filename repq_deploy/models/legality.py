"""Which exact rewrites the facts of a model's sites allow, and where and why they do not: in words, from facts alone.

Rewrites ask the same facts (``repq_deploy.models.sites``), so what is said here is what they do. It is written to the
log of an export and into its file, and listed for models that are not even built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from repq_deploy.models.sites import AttentionSite, LinearSite, Sites

__all__ = ["Legality", "Rewrite", "legality", "refusals"]

#: "fold": scales of channels into a layer norm; "stream": rotation of the residual stream; "center": means of k and v;
#: "heads": rotations of q, k and v; "balance": ranges of what fc2 reads behind a gate; "head_scales": a scale for each
#: head; "bits": those of q and k as asked for; "gelu": a logarithmic grid behind a GELU.
Rewrite = Literal["fold", "stream", "center", "heads", "balance", "head_scales", "bits", "gelu"]

#: Linears that read what a norm gives, in models that have a norm before each branch.
_BEHIND_A_NORM = ("qkv", "gate", "fc1", "reduction")

_BETWEEN_QK = {
    "norm": "a norm stands between projection and product",
    "rope": "they are turned by position between projection and product",
    "cosine": "cosine attention brings them to length one",
}
_BETWEEN_V = {
    "norm": "a norm stands between product and output projection",
    "gate": "a gate multiplies what the product gives",
}


@dataclass(frozen=True)
class Legality:
    """One rewrite in one model.

    Attributes:
        rewrite: which.
        words: what is not done where it is refused, such as "k not centered".
        kind: what it is made to, in the plural: "attentions"; empty for what there is one of.
        places: how many of them there are.
        refused: how many of them the rewrite leaves out for each reason; empty where it is free everywhere.
    """

    rewrite: Rewrite
    words: str
    kind: str
    places: int
    refused: tuple[tuple[str, int], ...]

    @property
    def allowed(self) -> int:
        """How many places the rewrite is made at."""
        return self.places - sum(count for _, count in self.refused)

    def lines(self) -> tuple[str, ...]:
        """What is refused, one line for each reason."""
        return tuple(f"{self.words}{self._where(count)}: {why}" for why, count in self.refused)

    def _where(self, count: int) -> str:
        if not self.kind:
            return ""
        return f" in {'all' if count == self.places else f'{count} of'} {self.places} {self.kind}"


def refusals(sites: Sites, rewrites: Iterable[Rewrite] | None = None) -> tuple[str, ...]:
    """What a model does not allow of ``rewrites`` (default: of all), a line each; empty where everything is legal."""
    wanted = None if rewrites is None else set(rewrites)
    return tuple(line for one in legality(sites) if wanted is None or one.rewrite in wanted for line in one.lines())


def legality(sites: Sites) -> tuple[Legality, ...]:
    """Every rewrite that the model has a place for."""
    attentions = sites.attentions
    readers = [site for site in sites.linears if site.role in _BEHIND_A_NORM]
    gated = [site for site in sites.linears if site.up is not None]
    second = [site for site in sites.linears if site.role == "fc2"]
    stream = () if sites.stream is not None else (("it has no one form that every writer and reader shares", 1),)
    found = (
        _of("fold", "no fold into a norm", readers, _norm),
        Legality("stream", "residual stream not rotated", "", 1, stream),
        _of("center", "k not centered", attentions, _unless("k_shift_is_free", _qk)),
        _of("center", "v not centered", attentions, _unless("v_shift_is_free", _v)),
        _of("heads", "q and k not rotated", attentions, _unless("qk_rotation_is_free", _qk)),
        _of("heads", "v not rotated", attentions, _unless("v_rotation_is_free", _v)),
        _of("balance", "channels behind a gate not balanced", gated, lambda site: None),
        _of("head_scales", "one scale for all heads of q and k", attentions, _unless("qk_head_scales_are_free", _qk)),
        _of("head_scales", "one scale for all heads of v", attentions, _unless("v_head_scales_are_free", _v)),
        _of("bits", "q and k at no less than 8 bits", attentions, _bits),
        _of("gelu", "no logarithmic grid", second, _gelu),
    )
    return tuple(one for one in found if one.places)


def _of(rewrite: Rewrite, words: str, sites: Iterable[Any], why: Callable[[Any], str | None]) -> Legality:
    reasons = [why(site) for site in sites]
    counts = Counter(reason for reason in reasons if reason is not None)
    linears = any(isinstance(site, LinearSite) for site in sites)
    return Legality(rewrite, words, "linears" if linears else "attentions", len(reasons), tuple(counts.items()))


def _unless(free: str, why: Callable[[AttentionSite], str]) -> Callable[[AttentionSite], str | None]:
    return lambda site: None if getattr(site, free) else why(site)


def _qk(site: AttentionSite) -> str:
    return _BETWEEN_QK[site.between_qk]


def _v(site: AttentionSite) -> str:
    return _BETWEEN_V[site.between_v]


def _bits(site: AttentionSite) -> str | None:
    return None if site.qk_bits(2) == 2 else "their errors are multiplied by attention's scale"


def _norm(site: LinearSite) -> str | None:
    return None if site.norm is not None else "no layer norm with scale and bias stands right before them"


def _gelu(site: LinearSite) -> str | None:
    return None if site.after_gelu else "no GELU stands right before them"
