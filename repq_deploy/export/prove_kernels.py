"""The proof of kernels, site by site: a graph that a runtime has optimized gives the canonical graph's integer codes.

Run freely, two correct graphs drift apart, as a code on a rounding tie flips and moves all codes after it. So every
reader of codes is given the canonical graph's own, and what each quantizer makes of them is compared. A wrong constant,
kernel or layout shows at the next site; a tie shows as one code, and is known by its value before the quantizer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from repq_deploy.export.domain import CURVE_FUNCTIONS, DOMAIN, QUANTIZE_CURVE, QUANTIZE_LOG2, without_functions
from repq_deploy.export.passes.graph import MOVES, constant_of, producer
from repq_deploy.export.prove_lowering import GraphLoader, load_reference

__all__ = ["CodeFigures", "SiteCodes", "compare_codes", "expected_codes", "forced_graph", "given_name"]

Codes = NDArray[np.int16]

#: A value is on a tie if its code changes within this share of the largest value, the error of a float32 product.
TIE = 1e-5
#: How many codes of a site may differ otherwise: this share, or this many.
OTHERS_SHARE, OTHERS_COUNT = 1e-4, 4

#: Where readers of codes have their zero point, by operator and by which input the codes are.
_ZERO_POINTS = {("MatMulIntegerToFloat", 0): 4, ("MatMulIntegerToFloat", 1): 5, ("DequantizeLinear", 0): 2}
_CURVES = {node: CURVE_FUNCTIONS[operator] for operator, node in QUANTIZE_CURVE.items()}
#: Logits computed from equal codes differ by the rounding of float32 sums only.
_LOGITS = 1e-4


@dataclass(frozen=True)
class CodeFigures:
    """How many ``codes`` of how many ``sites`` were compared, how many are ``different``, and how many of these are not
    on a rounding tie (``unexplained``). ``worst`` is the site with the most unexplained codes for its size, or "logits"
    where only the logits differ beyond rounding. It is empty where everything is explained."""

    sites: int
    codes: int
    different: int
    unexplained: int
    logits_relative_error: float
    worst: str
    holds: bool


@dataclass(frozen=True)
class SiteCodes:
    """The codes of one site, as a graph stores them in ``tensor``. A value on a rounding tie may give any code from
    ``low`` to ``high``. If ``least`` is given, stored codes below it mean the same as ``least``."""

    site: str
    tensor: str
    codes: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]
    least: int | None

    def differences(self, found: NDArray[Any]) -> NDArray[np.int64]:
        """Counts: all codes, the different ones, and those beyond a tie."""
        codes = found if self.least is None else np.maximum(found, self.codes.dtype.type(self.least))
        unexplained = ~((self.low <= codes) & (codes <= self.high))
        return np.array([codes.size, np.count_nonzero(codes != self.codes), np.count_nonzero(unexplained)])


@dataclass(frozen=True)
class _Quantizer:
    """A quantizer of the canonical graph: its site, the names of its input and its codes, which are
    ``clip(round(curve(x)), low, high)``.

    ``counts_down``: a lowered graph that stores the codes as bytes counts them down from its zero point.
    """

    site: str
    x: str
    codes_name: str
    curve: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    low: int
    high: int
    counts_down: bool = False

    def codes(self, x: NDArray[np.float32]) -> Codes:
        with np.errstate(divide="ignore", invalid="ignore"):
            exact = np.rint(self.curve(x))
        return np.clip(np.nan_to_num(exact, nan=self.high), self.low, self.high).astype(np.int16)

    def stored(self, graph: gs.Graph) -> gs.Tensor | None:
        """The tensor of codes in a graph that may have been lowered; None where it has none."""
        tensors = graph.tensors()
        names = (f"{self.site}/float_codes", f"{self.site}/quantize/output", self.codes_name)
        return next((tensors[name] for name in names if name in tensors), None)


def compare_codes(
    canonical: onnx.ModelProto,
    graph: onnx.ModelProto,
    images: NDArray[np.float32],
    *,
    kernels: GraphLoader | None = None,
) -> CodeFigures:
    """Compare the codes of ``graph`` with those of ``canonical`` on ``images`` [N, 3, H, W], one image at a time.

    ``kernels`` loads and runs ``graph``; None runs it like the canonical one, node by node.
    """
    totals: dict[str, NDArray[np.int64]] = {}
    error, forced = 0.0, None
    for image, outputs, sites in expected_codes(canonical, graph, images):
        given = {one.tensor: one.codes for one in sites}
        forced = forced or (kernels or load_reference)(forced_graph(graph, given))
        found = forced({"images": image, **{given_name(name): codes for name, codes in given.items()}})
        error = max(error, *(_relative_error(found[name], values) for name, values in outputs.items()))
        for one in sites:
            totals[one.site] = totals.get(one.site, np.zeros(3, np.int64)) + one.differences(found[one.tensor])
    return _figures(totals, error)


def expected_codes(
    canonical: onnx.ModelProto, graph: onnx.ModelProto, images: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.float32], dict[str, NDArray[np.float32]], list[SiteCodes]]]:
    """For each image, as a batch of one: itself, the outputs by name, and the codes of the ``canonical`` graph, in the
    form in which ``graph`` stores them."""
    quantizers = list(_quantizers(gs.import_onnx(without_functions(canonical))))
    surgeon = gs.import_onnx(without_functions(graph))
    stored = {one.site: tensor for one in quantizers if (tensor := one.stored(surgeon)) is not None}
    if missing := [one.site for one in quantizers if one.site not in stored]:
        raise ValueError(f"the lowered graph has no codes of {len(missing)} sites, first {missing[0]}")
    zero_points = {site: _zero_point(tensor) for site, tensor in stored.items()}
    oracle = load_reference(_with_outputs(canonical, [name for one in quantizers for name in (one.x, one.codes_name)]))
    for image in images:
        values = oracle({"images": image[None]})
        sites = [
            _site_codes(one, values[one.x], values[one.codes_name], stored[one.site].name, zero_points[one.site])
            for one in quantizers
        ]
        yield image[None], {output.name: values[output.name] for output in canonical.graph.output}, sites


def _relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def forced_graph(model: onnx.ModelProto, given: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """A copy of ``model`` in which tensors of ``given`` are outputs, and their readers read new inputs instead."""
    forced = _with_outputs(model, list(given))
    for node in forced.graph.node:
        node.input[:] = [given_name(name) if name in given else name for name in node.input]
    for name, codes in given.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(codes.dtype)
        forced.graph.input.append(onnx.helper.make_tensor_value_info(given_name(name), kind, [None] * codes.ndim))
    return forced


def given_name(name: str) -> str:
    """The input of a ``forced_graph`` that stands for the tensor ``name``."""
    return f"{name}/given"


def _figures(totals: Mapping[str, NDArray[np.int64]], error: float) -> CodeFigures:
    codes, different, unexplained = (int(column) for column in sum(totals.values(), np.zeros(3, np.int64)))
    used = {site: one[2] / max(OTHERS_SHARE * one[0], OTHERS_COUNT) for site, one in totals.items()}
    worst = max(used, key=lambda site: used[site], default="")
    holds = all(share <= 1 for share in used.values())
    if holds and not error <= _LOGITS:
        holds, worst = False, "logits"
    elif not unexplained:
        worst = ""
    return CodeFigures(len(totals), codes, different, unexplained, error, worst, holds)


def _site_codes(
    one: _Quantizer, x: NDArray[np.float32], codes: NDArray[Any], tensor: str, zero_point: NDArray[Any]
) -> SiteCodes:
    margin = np.float32(TIE * float(np.abs(x).max()))
    ends = [_store(one, one.codes(x + sign * margin), zero_point) for sign in (-1, 1)]
    own = _store(one, codes.astype(np.int16), zero_point)
    low, high = np.minimum(np.minimum(*ends), own), np.maximum(np.maximum(*ends), own)
    # Logarithmic codes that count down go on below the last one, all of them zero.
    least = int(_store(one, np.asarray(one.high, np.int16), zero_point)) if _counts_down(one, zero_point) else None
    return SiteCodes(one.site, tensor, own, low, high, least)


def _store(one: _Quantizer, codes: Codes, zero_point: NDArray[Any]) -> NDArray[Any]:
    """Canonical codes as a lowered graph stores them; logarithmic ones in bytes count down from 255."""
    zero = np.int16(zero_point)
    return np.asarray(zero - codes if _counts_down(one, zero_point) else zero + codes).astype(zero_point.dtype)


def _counts_down(one: _Quantizer, zero_point: NDArray[Any]) -> bool:
    return one.counts_down and zero_point == 255


def _quantizers(graph: gs.Graph) -> Iterator[_Quantizer]:
    for node in graph.nodes:
        site = str(node.name).removesuffix("/quantize")
        if node.op == "QuantizeLinear":
            yield _uniform(node, site)
        elif node.domain == DOMAIN and node.op in (QUANTIZE_LOG2, *_CURVES):
            name, codes = node.inputs[0].name, node.outputs[0].name
            last, divisor = 2 ** node.attrs["bits"] - 1, np.float32(constant_of(node.inputs[1]))
            if node.op == QUANTIZE_LOG2:
                curve = functools.partial(_logarithm, scale=divisor, steps=np.float32(node.attrs["steps_per_octave"]))
            else:
                factor = np.float32(constant_of(node.inputs[2]))
                curve = functools.partial(_bent, by=_CURVES[node.op], divisor=divisor, factor=factor)
            yield _Quantizer(site, name, codes, curve, 0, last, counts_down=node.op == QUANTIZE_LOG2)


def _uniform(node: gs.Node, site: str) -> _Quantizer:
    scale, x, low, high = float(constant_of(node.inputs[1])), node.inputs[0], -128, 127
    if (clip := producer(x, "Clip")) is not None:
        low, high = (round(float(constant_of(bound)) / scale) for bound in clip.inputs[1:3])
        x = clip.inputs[0]
    return _Quantizer(site, x.name, node.outputs[0].name, lambda values: values / np.float32(scale), low, high)


def _logarithm(x: NDArray[np.float32], *, scale: np.float32, steps: np.float32) -> NDArray[np.float32]:
    return -np.log2(np.maximum(x, 0) / scale) * steps


def _bent(x: NDArray[np.float32], *, by: np.ufunc, divisor: np.float32, factor: np.float32) -> NDArray[np.float32]:
    bent: NDArray[np.float32] = by(np.maximum(x, 0) / divisor) * factor
    return bent


def _zero_point(tensor: gs.Tensor) -> NDArray[Any]:
    """The scalar that readers of the codes subtract, in the type of the codes."""
    if tensor.name.endswith("/float_codes"):
        return np.zeros((), np.float32)
    for reader in tensor.outputs:
        index = next(index for index, one in enumerate(reader.inputs) if one is tensor)
        if reader.op in MOVES:
            return _zero_point(reader.outputs[0])
        if reader.domain == DOMAIN:
            return np.zeros((), np.uint8)
        if (at := _ZERO_POINTS.get((reader.op, index))) is not None:
            zero = reader.inputs[at] if len(reader.inputs) > at else None
            return np.zeros((), np.uint8) if zero is None else np.asarray(constant_of(zero)).reshape(-1)[0]
    raise ValueError(f"codes {tensor.name!r}: read by {[reader.op for reader in tensor.outputs]}, expected a product")


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return exposed
