"""Which architectures of timm are supported, and which rewrites are exact for each: found out without weights."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType

import timm
import torch
from timm.models import model_entrypoint

from repq_deploy.errors import RepqError, first_line
from repq_deploy.models.architecture import ModelSpec, build_architecture
from repq_deploy.models.families import FAMILIES, find_family, find_sites
from repq_deploy.models.sites import Sites

__all__ = ["FOLDS", "Listed", "look_at", "matching"]

#: What may be exact, by the facts of a model's sites; each is "all", "some" or "none" of the places where it could be.
FOLDS = {
    "norms": "scale and bias of layer norms fold into the linear layers that read them",
    "stream": "the residual stream can be rotated",
    "q/k": "q and k of a head can be rotated alike",
    "k": "a constant can be taken from k",
    "v": "a constant can be taken from v",
    "q/k scales": "each head may have scales of q and k of its own",
    "v scales": "each head may have a scale of v of its own",
}


@dataclass(frozen=True)
class Listed:
    """An architecture ``name``. ``family`` is the class of its family, or "" where ``reason`` says why it is not
    supported; ``folds`` has a word for each of ``FOLDS``."""

    name: str
    family: str
    folds: dict[str, str]
    reason: str = ""


def matching(pattern: str = "*", *, modules: Iterable[str] | None = None, weights: bool = False) -> list[str]:
    """The names of timm's architectures that a pattern of a shell matches, of modules that use a family's class.

    Args:
        modules: the names of timm's modules to look at instead, such as ``eva``.
        weights: only those with pretrained weights.
    """
    names = timm.list_models(pattern)
    if weights:
        trained = {name.partition(".")[0] for name in timm.list_pretrained()}
        names = [name for name in names if name in trained]
    if modules is not None:
        wanted = {f"timm.models.{module}" for module in modules}
        return [name for name in names if model_entrypoint(name).__module__ in wanted]
    classes = [family.model for family in FAMILIES]
    return [name for name in names if _has_any(sys.modules[model_entrypoint(name).__module__], classes)]


def look_at(names: Iterable[str]) -> Iterator[Listed]:
    """Build each architecture without weights, and say whether it is supported."""
    for name in names:
        try:
            with torch.device("meta"):
                model = build_architecture(ModelSpec(name, name, {}, None, "random"))
                folds = _folds(find_sites(model))
        except RepqError as error:
            yield Listed(name, "", {}, str(error).removeprefix("model not supported: "))
        except Exception as error:  # whatever a class trips over that no family was written for
            yield Listed(name, "", {}, f"{type(error).__name__}: {first_line(error, 160)}")
        else:
            yield Listed(name, find_family(model).model.__name__, folds)


def _folds(sites: Sites) -> dict[str, str]:
    facts = {
        # The patch embedding, proj and fc2 never read a norm of the stream.
        "norms": [site.norm is not None for site in sites.linears if site.role in ("qkv", "fc1", "reduction")],
        "stream": [sites.stream is not None],
        "q/k": [site.qk_rotation_is_free for site in sites.attentions],
        "k": [site.k_shift_is_free for site in sites.attentions],
        "v": [site.v_shift_is_free for site in sites.attentions],
        "q/k scales": [site.qk_head_scales_are_free for site in sites.attentions],
        "v scales": [site.v_head_scales_are_free for site in sites.attentions],
    }
    return {name: "all" if all(found) else "some" if any(found) else "none" for name, found in facts.items()}


def _has_any(module: ModuleType, classes: Iterable[type]) -> bool:
    return any(getattr(module, kind.__name__, None) is kind for kind in classes)
