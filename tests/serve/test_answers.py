"""What is sent of an output: numbers in their order, and the classes that lead."""

from __future__ import annotations

import numpy as np
import pytest

from repq_deploy.serve.answers import Wanted, answers, check_wanted, classes_of
from repq_deploy.serve.refusals import Refused

LOGITS = np.array([[0.5, 2.0, -1.0], [3.0, 3.0, 3.5]], np.float32)


def test_classes_lead_by_value_and_of_equals_by_index():
    assert classes_of(LOGITS, 2).tolist() == [[b"2.000000:1", b"0.500000:0"], [b"3.500000:2", b"3.000000:0"]]
    assert classes_of(LOGITS, 1, ("cat", "a:dog", "füchs")).tolist() == [
        [b"2.000000:1:a:dog"],
        ["3.500000:2:füchs".encode()],
    ]


def test_bytes_of_numbers_and_of_texts():
    numbers, texts = answers({"logits": LOGITS, "other": LOGITS}, [Wanted("other"), Wanted("logits", 1)], ())
    assert (numbers.name, numbers.datatype, numbers.to_bytes()) == ("other", "FP32", LOGITS.tobytes())
    assert numbers.to_list() == LOGITS.ravel().tolist()
    assert texts.values.shape == (2, 1) and texts.to_list() == ["2.000000:1", "3.500000:2"]
    assert texts.to_bytes() == b"\x0a\0\0\0002.000000:1\x0a\0\0\0003.500000:2"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([Wanted("boxes")], "expected one of logits, maps"),
        ([Wanted("maps"), Wanted("maps")], "asked for twice"),
        ([Wanted("logits", 4)], r"of an output of shape \[-1, 3\]"),
        ([Wanted("maps", 1)], r"of an output of shape \[-1, 2, 2\]"),
    ],
)
def test_outputs_that_cannot_be_sent(wanted, message):
    with pytest.raises(Refused, match=message):
        check_wanted(wanted, {"logits": (3,), "maps": (2, 2)})
