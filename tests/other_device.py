"""A second device that needs no hardware: tensors that only meet tensors of their own device, as on a GPU.

A ``Remote`` tensor says that it is on the device ``meta`` and holds the CPU tensor that it stands for. While the mode
``OtherDevice`` is on, tensors made for ``meta`` are of this kind. An operation on one of them and on a CPU tensor with
dimensions fails, as CUDA's do; numbers of no dimension may be on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["DEVICE", "OtherDevice", "Remote"]

DEVICE = torch.device("meta")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


class Remote(torch.Tensor):
    """A tensor of the other device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Remote:
        remote = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=DEVICE, requires_grad=held.requires_grad
        )
        remote.held = held.detach()
        return remote

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Makes what is asked for on ``meta`` there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = function.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    asked = kwargs.get("device")
    copies = name in ("_to_copy", "copy_", "set_data")
    here = any(isinstance(tensor, Remote) for tensor in tensors)
    checked = tree_leaves(args[0]) if name in _INDEXING else tensors  # a CPU index may index a GPU's tensor
    if here and not copies and any(not isinstance(tensor, Remote) and tensor.dim() > 0 for tensor in checked):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        here = asked.type == DEVICE.type
    found = function(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name.endswith("_") and not name.startswith("__"):
        return args[0]
    return tree_map(lambda leaf: Remote(leaf) if here and isinstance(leaf, Tensor) else leaf, found)


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, Remote) else leaf
