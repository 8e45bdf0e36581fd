"""Tables of names: which tensors of another library a tensor of the timm model is made of.

A row is our name and the ways to write theirs, the first one that is there counts: ``layer.{block}.{q,k,v}`` stands for
three tensors, joined along their first axis. ``{block}`` and ``{stage}`` are numbers, of theirs also ``{before}``, the
stage before, ``{even}`` and ``{odd}``, twice the stage and one more. ``.weight`` and ``.bias`` follow by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from repq_deploy.errors import BadInput

__all__ = ["Table", "renamed", "split_in_proj"]

Table = Mapping[str, Sequence[str]]

_LEAF = r"(?:\.(?P<leaf>weight|bias))?"


def renamed(
    given: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    table: Table,
    *,
    ignored: Sequence[str],
    where: str,
) -> dict[str, Tensor]:
    """The tensors of another library under the names of ours.

    Args:
        given: theirs, by their names.
        expected: ours; their shapes say how many axes of length 1 come before, of tokens and positions.
        ignored: patterns of their names that have no part in what the model computes.
        where: which model, for messages.

    Raises:
        BadInput: tensors are missing, or there are some that nothing takes.
    """
    rows = [(_pattern(ours), theirs) for ours, theirs in table.items()]
    found: dict[str, Tensor] = {}
    taken: set[str] = set()
    for name, own in expected.items():
        parts = _parts(name, rows, given, where)
        taken.update(parts)
        tensor = torch.cat([_given(part, given) for part in parts]) if len(parts) > 1 else given[parts[0]]
        found[name] = tensor.reshape((1,) * (own.ndim - tensor.ndim) + tensor.shape)
    left = [name for name in given if name not in taken and not any(fnmatchcase(name, one) for one in ignored)]
    left = [name for name in left if given[name].numel()]  # registers, of which there are none
    if left:
        raise BadInput(f"{where}: has {_first(left)}, which no part of its model type takes; it is of another kind")
    return found


def split_in_proj(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``in_proj_weight`` and ``in_proj_bias`` of torch's MultiheadAttention as ``q_proj``, ``k_proj``, ``v_proj``."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)
        if match is None:
            found[name] = tensor
            continue
        for part, rows in zip("qkv", tensor.chunk(3), strict=True):
            found[f"{match[1]}.{part}_proj.{match[2]}"] = rows
    return found


def _pattern(ours: str) -> re.Pattern[str]:
    escaped = re.escape(ours).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>\\d+)", escaped) + _LEAF)


def _parts(
    name: str, rows: Sequence[tuple[re.Pattern[str], Sequence[str]]], given: Mapping[str, Tensor], where: str
) -> list[str]:
    """Their names of the parts of our tensor ``name``; of a joined bias, some of them may not be there."""
    match, spellings = next(((match, theirs) for row, theirs in rows if (match := row.fullmatch(name))), (None, ()))
    if match is None:
        raise BadInput(f"{where}: its model type has nothing like {name}; it is of another kind")
    leaf = match.group("leaf")
    numbers = {key: int(value) for key, value in match.groupdict().items() if key != "leaf"}
    if "stage" in numbers:
        stage = numbers["stage"]
        numbers |= {"before": stage - 1, "even": 2 * stage, "odd": 2 * stage + 1}
    ways = [[one.format(**numbers) + (f".{leaf}" if leaf else "") for one in _joined(way)] for way in spellings]
    for parts in ways:
        there = [part in given for part in parts]
        if all(there) or (leaf == "bias" and any(there)):
            return parts
    raise BadInput(f"{where}: lacks {_first([part for part in ways[0] if part not in given])}")


def _joined(spelling: str) -> list[str]:
    """``a.{q,k,v}.b`` as its three names."""
    match = re.fullmatch(r"(.*)\{(\w+(?:,\w+)+)\}(.*)", spelling)
    return [spelling] if match is None else [f"{match[1]}{one}{match[3]}" for one in match[2].split(",")]


def _given(name: str, given: Mapping[str, Tensor]) -> Tensor:
    """The tensor ``name``; a bias that is not there is zero."""
    if name in given:
        return given[name]
    weight = given[f"{name.removesuffix('bias')}weight"]
    return weight.new_zeros(len(weight))


def _first(names: Sequence[str]) -> str:
    return f"{', '.join(name[:80] for name in names[:3])}{', ...' if len(names) > 3 else ''}"
