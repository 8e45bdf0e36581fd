"""timm's pretrained weights: into the hub's cache, and from there into a model."""

from __future__ import annotations

from collections.abc import Callable

from timm.models import PretrainedCfg
from timm.models._hub import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from torch import nn

from repq_deploy.errors import BadInput, first_line
from repq_deploy.models.hub import HubError, Report, cache_alone, ensure_cached

__all__ = ["downloaded"]


def downloaded(
    config: PretrainedCfg, name: str, build: Callable[[], nn.Module], *, report: Report, note: Callable[[str], None]
) -> nn.Module:
    """What ``build`` makes of the weights that ``config`` names; they are fetched if they are not there.

    Raises:
        BadInput: they cannot be had, or not be loaded into the model called ``name``.
    """
    file = None
    try:
        if config.hf_hub_id:
            file = ensure_cached(config.hf_hub_id, _filenames(config), report=report, note=note)
            with cache_alone():
                return build()
        return build()  # from elsewhere than the hub: a few giants'
    except HubError as error:
        more = f"; {error.advice}" if error.advice else ""
        raise BadInput(
            f"model {name}: its pretrained weights cannot be downloaded ({error}); "
            f"use --checkpoint FILE or --no-pretrained{more}"
        ) from error
    except BadInput:
        raise
    except Exception as error:  # a damaged file meets the format's parser, torch or timm, each with its own
        place = "" if file is None else f" in {file}"
        advice = "" if file is None else "delete that file to download it again, or "
        raise BadInput(
            f"model {name}: its pretrained weights{place} cannot be loaded ({first_line(error, 160)}); "
            f"{advice}use --checkpoint FILE or --no-pretrained"
        ) from error


def _filenames(config: PretrainedCfg) -> tuple[str, ...]:
    """Under which names timm looks for the weights on the hub, the first one first."""
    said = config.hf_hub_filename or HF_WEIGHTS_NAME
    if said == HF_WEIGHTS_NAME:
        return HF_SAFE_WEIGHTS_NAME, said
    return (f"{said.removesuffix('.bin')}.safetensors", said) if said.endswith(".bin") else (said,)
