"""Images as bytes, which the graph normalizes itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.errors import BadInput
from repq_deploy.export.names import INPUT
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import append
from repq_deploy.inputs import ImageInput

__all__ = ["NORMALIZED", "PixelInput", "pixel_passes"]

#: What the graph makes of the bytes: the float32 images that it would take otherwise.
NORMALIZED = f"{INPUT}/normalized"


class PixelInput(Pass):
    """``images`` float32 [batch, 3, H, W] become bytes: ``Cast -> [Transpose] -> Div(255) -> Sub(mean) -> Div(std)``.

    The three roundings in float32 are those of ``Preprocess.normalized``, in its order, so a runtime that computes node
    by node gives the same numbers to the last bit. Channels come first before anything is computed, as a constant for
    each channel is slow where channels are last; and not before the Cast, as TensorRT turns no bytes.
    """

    def __init__(self, form: ImageInput, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.form, self.mean, self.std = form, mean, std

    def call(self, graph: gs.Graph) -> int:
        (numbers,) = graph.inputs
        name, batch = numbers.name, numbers.shape[0]
        pixels = gs.Variable(name, np.uint8, [batch, *self.form.shape])
        numbers.name, numbers.dtype = NORMALIZED, np.float32
        x = append(graph, "Cast", f"{name}/float", [pixels], shape=pixels.shape, to=onnx.TensorProto.FLOAT)
        planes = [batch, 3, *self.form.sides]
        if self.form.layout == "nhwc":
            x = append(graph, "Transpose", f"{name}/planes", [x], shape=planes, perm=[0, 3, 1, 2])
        x = append(graph, "Div", f"{name}/unit", [x, np.array(255, np.float32)], shape=planes)
        mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        x = append(graph, "Sub", f"{name}/centered", [x, mean], shape=planes)
        last = gs.Constant(f"{name}/std", std)
        graph.nodes.append(gs.Node("Div", f"{name}/scaled", {}, [x, last], [numbers]))
        graph.inputs = [pixels]
        return 1


def pixel_passes(form: ImageInput | None, preprocess: str) -> list[Pass]:
    """What gives a graph the input ``form``: nothing where that is normalized numbers. ``preprocess`` is the model's
    record (``Preprocess.to_json``), empty where it is not known.

    Raises:
        BadInput: it is not known, and the graph is to normalize.
    """
    if form is None or not form.takes_pixels:
        return []
    if not preprocess:
        raise BadInput(
            "input uint8: the model's preprocessing is not known, so its graph cannot normalize; give quantize a "
            "Preprocess, or take float32"
        )
    known = Preprocess.from_json(preprocess)
    return [PixelInput(form, known.mean, known.std)]
