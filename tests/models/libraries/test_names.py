"""Tables of names, on tensors of a few numbers."""

from __future__ import annotations

import pytest
import torch

from repq_deploy.errors import BadInput
from repq_deploy.models.libraries.names import renamed, split_in_proj

TABLE = {
    "token": ["embeddings.token"],
    "layers.{stage}.blocks.{block}.qkv": ["old.{stage}.{block}.{q,k,v}", "new.{before}.{even}.{odd}.{block}.{q,k,v}"],
}
EXPECTED = {"token": torch.zeros(1, 1, 2), "layers.1.blocks.3.qkv.weight": torch.zeros(3, 2)}
GIVEN = {"embeddings.token": torch.tensor([1.0, 2.0])}


def weights(stem: str, parts: str = "qkv", leaf: str = "weight") -> dict[str, torch.Tensor]:
    return {f"{stem}.{part}.{leaf}": torch.full((1, 2), float(place)) for place, part in enumerate(parts)}


@pytest.mark.parametrize("stem", ["old.1.3", "new.0.2.3.3"])
def test_every_way_to_write_them(stem):
    found = renamed({**GIVEN, **weights(stem)}, EXPECTED, TABLE, ignored=(), where="x")
    assert found["token"].tolist() == [[[1, 2]]]
    assert found["layers.1.blocks.3.qkv.weight"].tolist() == [[0, 0], [1, 1], [2, 2]]


def test_a_bias_that_is_not_there_is_zero():
    expected = {"layers.0.blocks.0.qkv.bias": torch.zeros(3)}
    given = weights("old.0.0") | {"old.0.0.q.bias": torch.ones(1), "old.0.0.v.bias": torch.ones(1)}
    found = renamed(given, expected, TABLE, ignored=("*.weight",), where="x")
    assert found["layers.0.blocks.0.qkv.bias"].tolist() == [1, 0, 1]


def test_missing_tensors():
    with pytest.raises(BadInput, match=r"^x: lacks old.1.3.v.weight$"):
        renamed({**GIVEN, **weights("old.1.3", "qk")}, EXPECTED, TABLE, ignored=(), where="x")


def test_tensors_that_nothing_takes():
    given = {**GIVEN, **weights("old.1.3"), "adapter.weight": torch.ones(1), "text.bias": torch.ones(1)}
    with pytest.raises(BadInput, match=r"x: has adapter\.weight, which no part of its model type takes"):
        renamed(given, EXPECTED, TABLE, ignored=("text.*",), where="x")


def test_a_tensor_of_ours_that_the_table_lacks():
    with pytest.raises(BadInput, match=r"x: its model type has nothing like gate\.weight"):
        renamed(GIVEN, {"gate.weight": torch.ones(1)}, TABLE, ignored=(), where="x")


def test_packed_projections():
    found = split_in_proj({"a.in_proj_weight": torch.arange(6.0).reshape(6, 1), "a.in_proj_bias": torch.arange(6.0)})
    assert found["a.k_proj.weight"].tolist() == [[2], [3]]
    assert found["a.v_proj.bias"].tolist() == [4, 5]
