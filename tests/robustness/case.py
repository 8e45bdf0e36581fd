"""What a case of the table is, and the commands that most of them vary."""

from __future__ import annotations

from dataclasses import dataclass

from tests.robustness.damage import Prepare


@dataclass(frozen=True)
class Case:
    """A command that must end with ``code`` and one line that matches ``words``."""

    name: str
    command: str
    words: str
    prepare: Prepare = lambda folder: None
    code: int = 2


EXPORT = "repq-export demo --method percentile -o new.onnx"
BUILD = "repq-build-engine m.onnx --backend onnxruntime --no-speed-check -o new"
INSPECT = "repq-inspect m.onnx"
EVAL = "repq-eval m.engine --data demo --limit 8"
SEARCH = "repq-search demo --avg-bits 4 --choices 4,8 --tau 0 --num-calib 4 --recipe new.yaml"
LONG = "m" * 300
FLOAT = "repq-export demo --float -o new.onnx --checkpoint"
BY_LATENCY = "repq-search demo --recipe new.yaml --max-latency 5ms --latency-table"
