"""Several outputs as one array, and back."""

import numpy as np
import torch

from repq_deploy.outputs import Outputs, joined, leaves


def test_joined_outputs_come_apart_again():
    rng = np.random.default_rng(0)
    outputs = Outputs({"a": (2, 3), "b": (4,), "c": (1, 2, 2)})
    arrays = {name: rng.normal(size=(5, *shape)).astype(np.float32) for name, shape in outputs.shapes.items()}
    rows = joined(arrays)
    assert (rows.shape, outputs.numbers) == ((5, 14), 14)
    found = outputs.named(rows)
    assert list(found) == ["a", "b", "c"]
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_one_output_stays_as_it_is():
    logits = torch.randn(2, 3)
    assert joined(logits) is logits
    assert joined([torch.zeros(2, 3, 4)]).shape == (2, 12)


def test_leaves_of_nested_outputs_have_names_and_keep_their_order():
    nested = {"boxes": 1, "maps": [2, (3, None)], "last": 4}
    assert leaves(nested) == {"boxes": 1, "maps_0": 2, "maps_1_0": 3, "last": 4}
    assert (leaves(7), leaves((7, 8))) == ({"output": 7}, {"output_0": 7, "output_1": 8})
