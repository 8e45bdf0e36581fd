"""The proof of a lowering: stretch by stretch, the lowered graph computes what the canonical one does.

Run freely, two correct graphs drift apart: a value on a rounding tie flips one code, and that moves all codes after it.
So both are cut where the residual stream enters a LayerNorm, and each stretch between two cuts gets the canonical
graph's own values. Within a stretch, half a block, a tie costs little, and a wrong rewrite has nowhere to hide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repq_deploy.export.onnx_session import reference_session

__all__ = [
    "LEAST_SQNR_DB",
    "GraphLoader",
    "Stretch",
    "compare_lowering",
    "load_reference",
]

#: Loads a graph; what it gives computes all outputs from the inputs, both by name.
GraphLoader = Callable[[onnx.ModelProto], Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]]

#: What a stretch of a correct lowering reaches. Ties of single codes leave 50 dB and more (DeiT-T, Swin-T at 3, 4 and 8
#: bits); a lost clip that matters leaves 4 to 40, one scale wrong by 5 % 4 to 36.
LEAST_SQNR_DB = 40.0

#: An exact match has an infinite ratio, which JSON cannot hold.
_MAX_SQNR_DB = 200.0

#: How far a stretch may stay below ``ties_sqnr_db``, as other ties may fall the other way.
_TIES_MARGIN_DB = 10.0

#: What scales are moved by to find ties: about the rounding of a sum of a few hundred float32 numbers.
_NUDGE = 2.0**-20


@dataclass(frozen=True)
class Stretch:
    """One part of the graph, between two cuts, and how well the lowered graph computes it.

    Attributes:
        end: the tensor that the part computes.
        sqnr_db: the signal-to-noise ratio in dB. The signal is what the part adds to the residual stream in the
            canonical graph; the noise is the lowered graph's error, as far as it exceeds a unit in the last place.
        ties_sqnr_db: the same ratio for the canonical graph itself where its ties fall the other way; None where all
            stretches reach ``LEAST_SQNR_DB`` without it.
    """

    end: str
    sqnr_db: float
    ties_sqnr_db: float | None

    def holds(self) -> bool:
        """Whether ``sqnr_db`` reaches ``LEAST_SQNR_DB``, or nearly what ties leave."""
        ties = np.inf if self.ties_sqnr_db is None else self.ties_sqnr_db
        return self.sqnr_db >= min(LEAST_SQNR_DB, ties - _TIES_MARGIN_DB)


def compare_lowering(
    canonical: onnx.ModelProto, lowered: onnx.ModelProto, images: NDArray[np.float32]
) -> tuple[Stretch, ...]:
    """Compare every stretch of the ``lowered`` graph on ``images`` [N, 3, H, W]; the last ones end in the outputs.

    ONNX Runtime runs both graphs, node by node. They are cut at each input of a LayerNormalization that both compute.
    """
    cuts = _shared_norm_inputs(canonical, lowered)
    values = load_reference(_exposed(canonical, cuts))({"images": images})
    inputs = _given_inputs(images, values, cuts)
    ratios = _ratios(values, load_reference(_cut(lowered, cuts, values))(inputs))
    if min(ratios.values()) >= LEAST_SQNR_DB:
        return tuple(Stretch(name, ratio, None) for name, ratio in ratios.items())
    either = [
        _ratios(values, load_reference(_cut(_nudged(canonical, 1 + way * _NUDGE), cuts, values))(inputs))
        for way in (-1, 1)
    ]
    return tuple(Stretch(name, ratio, min(ties[name] for ties in either)) for name, ratio in ratios.items())


def _ratios(expected: Mapping[str, NDArray[np.float32]], found: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    ratios, before = {}, np.empty(0, np.float32)
    for name, values in expected.items():
        # Where the stream changes its width there is nothing to subtract but its mean.
        added = values - (before.reshape(values.shape) if before.size == values.size else values.mean())
        # An untrained LayerScale of 1e-6 adds less than the stream's last place holds, and two correct sums of that
        # differ by a whole unit there.
        unit = np.spacing(np.maximum(np.abs(found[name]), np.abs(values)))
        ratios[name] = _ratio_db(added, np.maximum(np.abs(found[name] - values) - unit, 0))
        before = values
    return ratios


def _nudged(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """Every quantizer's scale times ``factor``: codes that lie on ties may change, one way, and only those.

    At few bits ties are no accident: probabilities times v are whole multiples of a number, and their largest defines
    the scale of what comes next. Where attention is flat, a whole image's tokens are on one. The scales that codes are
    multiplied by stay, as all of them moved alike would move no quotient.
    """
    nudged = onnx.ModelProto()
    nudged.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in nudged.graph.initializer}
    for node in nudged.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in tensors:
            scale = onnx.numpy_helper.to_array(tensors[node.input[1]])
            node.input[1] = f"{node.input[1]}/nudged/{node.output[0]}"
            moved = np.asarray(scale * np.float32(factor))
            nudged.graph.initializer.append(onnx.numpy_helper.from_array(moved, node.input[1]))
    return nudged


def _shared_norm_inputs(canonical: onnx.ModelProto, lowered: onnx.ModelProto) -> list[str]:
    """What LayerNormalizations read, in the order of the canonical graph, if a node of the lowered one gives it too."""
    made = {name for node in lowered.graph.node for name in node.output}
    read = [node.input[0] for node in canonical.graph.node if node.op_type == "LayerNormalization"]
    return [name for name in dict.fromkeys(read) if name in made]


def _exposed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    outputs = [value for value in model.graph.output if value.name not in names]
    del exposed.graph.output[:]
    exposed.graph.output.extend([*(onnx.ValueInfoProto(name=name) for name in names), *outputs])
    return exposed


def _cut(model: onnx.ModelProto, names: Sequence[str], values: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """What reads one of ``names`` reads an input of the graph instead; what computes it becomes an output."""
    cut = _exposed(model, names)
    for node in cut.graph.node:
        node.input[:] = [_given(name) if name in names else name for name in node.input]
    cut.graph.input.extend(
        onnx.helper.make_tensor_value_info(_given(name), onnx.TensorProto.FLOAT, [None] * values[name].ndim)
        for name in names
    )
    return cut


def _given_inputs(
    images: NDArray[np.float32], values: Mapping[str, NDArray[np.float32]], cuts: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    return {"images": images, **{_given(name): values[name] for name in cuts}}


def _given(name: str) -> str:
    return f"{name}/given"


def load_reference(model: onnx.ModelProto) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    """A graph in ONNX Runtime, node by node."""
    session, names = reference_session(model), [output.name for output in model.graph.output]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _ratio_db(signal: NDArray[np.float32], noise: NDArray[np.float32]) -> float:
    power = np.square(noise, dtype=np.float64).sum()
    if power == 0:
        return _MAX_SQNR_DB
    if not np.isfinite(power):
        return -_MAX_SQNR_DB
    return float(np.clip(10 * np.log10(np.square(signal, dtype=np.float64).sum() / power), -_MAX_SQNR_DB, _MAX_SQNR_DB))
