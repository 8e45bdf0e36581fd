"""Our text of messages, read by protobuf's own parser."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from repq_deploy.triton.text import Word, message


def test_scalars_lists_and_messages():
    text = message(
        {
            "name": "vit",
            "max_batch_size": 8,
            "input": [{"name": "a", "dims": [3, -1], "optional": True}, {"name": "b", "dims": []}],
            "instance_group": {"kind": Word("KIND_CPU")},
            "output": None,
        }
    )
    assert text.splitlines()[:6] == [
        *('name: "vit"', "max_batch_size: 8", "input {", '  name: "a"', "  dims: [3, -1]", "  optional: true")
    ]
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.max_batch_size, config.input[0].dims, config.input[0].optional) == (
        "vit",
        8,
        [3, -1],
        1,
    )
    assert (config.instance_group[0].kind, len(config.output)) == (model_config_pb2.ModelInstanceGroup.KIND_CPU, 0)


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash", "línea\n猫", "\x00\x7f\t", "{}[]:#'"])
def test_any_string_survives(name: str):
    assert text_format.Parse(message({"name": name}), model_config_pb2.ModelConfig()).name == name
