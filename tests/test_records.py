"""JSON that somebody may have changed."""

import pytest

from repq_deploy.records import decode, parse_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "holds NaN"),
        ('{"a": -Infinity}', "holds -Infinity"),
        ('{"a": 1e400}', "holds 1e400"),
        ('{"a": 1' + "0" * 30 + "}", "a number of 31 digits"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
    ],
)
def test_what_no_record_holds_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_numbers_are_read_as_they_are():
    assert parse_json('{"a": [18446744073709551615, -1, 0.5, 1e-320]}') == {"a": [2**64 - 1, -1, 0.5, 1e-320]}


@pytest.mark.parametrize(
    ("kind", "value"), [(int, True), (int, 1.0), (float, "1"), (str, None), (bool, 0), (tuple[int, ...], [1, "2"])]
)
def test_other_types_are_named(kind, value):
    with pytest.raises(ValueError, match=r"where(\[1\])? is .*, expected"):
        decode(kind, value, "where")
