"""The file of a quantized model: safetensors, which cannot run code, with one JSON text in its header.

The text says what rebuilds the model: which float model it is (``library``, ``spec``, ``part``), its bits, what its
output is, where it comes from, and the table *site -> quantizer* (``structure``). A reader without this package finds
the codes of a weight as ``clip(round(weight / scale), -zero_point, 2^bits - 1 - zero_point)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from repq_deploy.bits import BitWidths
from repq_deploy.errors import BadInput
from repq_deploy.models.loading import of_own_module
from repq_deploy.models.zoo import ModelSpec, build_architecture
from repq_deploy.quant.model import Provenance, QuantizedModel, wrap
from repq_deploy.quant.softmax import check_softmax
from repq_deploy.quant.structure import Structure, restore, structure_of
from repq_deploy.records import decode, parse_json
from repq_deploy.system.files import atomic_output, existing_file

__all__ = ["load", "save", "write"]

#: Raised with every change that an older reader would misread; files of other formats are refused with their number.
FORMAT = 3
_METADATA_KEY = "repq"
#: What ``library``, ``part`` and ``outputs`` may be so far; a reader refuses what it does not know.
_LIBRARIES, _WHOLE, _OUTPUTS = ("timm", "own"), "", ("logits", "features")


def _outputs(spec: ModelSpec) -> str:
    return _OUTPUTS[0] if spec.features is None else _OUTPUTS[1]


def save(quantized: QuantizedModel, path: Path) -> None:
    """Write ``quantized`` as one safetensors file, in one step."""
    with atomic_output(path) as temporary:
        write(quantized, temporary)


def write(quantized: QuantizedModel, path: Path) -> None:
    """Write ``quantized`` into ``path``, which ``save`` or the caller makes whole."""
    description = {
        "format": FORMAT,
        "library": "own" if quantized.spec.weights == "own" else "timm",
        "part": _WHOLE,
        "outputs": _outputs(quantized.spec),
        "spec": quantized.spec.to_dict(),
        "softmax": quantized.softmax,
        "provenance": asdict(quantized.provenance),
        "structure": asdict(structure_of(quantized.model, quantized.sites)),
        **quantized.bits.to_dict(),
    }
    tensors = {name: tensor.contiguous() for name, tensor in quantized.model.state_dict().items()}
    save_file(tensors, path, metadata={_METADATA_KEY: json.dumps(description, sort_keys=True)})


def load(path: Path, *, model: nn.Module | None = None) -> QuantizedModel:
    """Read what ``save`` wrote.

    Args:
        model: your own float module, with any weights, if the file was made from one that timm cannot build. It is
            wrapped in place. Default: timm builds the model that the file records.

    Raises:
        BadInput: no such file, not a safetensors file, not one of ours, or not of this model.
    """
    try:
        with safe_open(existing_file(path, "quantized model"), framework="pt") as opened:
            text = (opened.metadata() or {}).get(_METADATA_KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise BadInput(f"quantized model {path}: not a readable safetensors file ({error})") from error
    if text is None:
        raise BadInput(f"quantized model {path}: plain weights; expected a file saved by repq-export --save-quantized")
    try:
        header = _read_header(text, of_timm=model is None)
        float_model = build_architecture(header.spec) if model is None else of_own_module(model).network
        quantized = wrap(float_model, header.spec, header.widths, softmax=header.softmax)
        quantized.provenance = header.provenance
        _check_numbers(tensors)
        restore(quantized.model, quantized.sites, header.structure, tensors)
    except (ValueError, BadInput) as error:  # BadInput: of bits, of a model that timm cannot build
        raise BadInput(f"quantized model {path}: {error}; save it again with repq-export --save-quantized") from error
    return quantized


@dataclass(frozen=True)
class _Header:
    """The JSON text in the file's header; ``spec`` and ``bits`` as they are checked by their own types."""

    spec: ModelSpec
    softmax: str
    provenance: Provenance
    structure: Structure
    widths: BitWidths


def _read_header(text: str, *, of_timm: bool) -> _Header:
    """``of_timm``: the model is to be built from its record, which therefore has to be one of timm's own."""
    data = parse_json(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ValueError(f"format {str(found)[:20]}, this version reads {FORMAT}")
    if missing := {"spec", "softmax", "provenance", "structure", "bits", "preset"} - data.keys():
        raise ValueError(f"its record lacks {', '.join(sorted(missing))}")
    for key, known in (("library", _LIBRARIES), ("part", (_WHOLE,)), ("outputs", _OUTPUTS)):
        if data.get(key) not in known:
            raise ValueError(
                f"its {key} is {str(data.get(key))[:40]!r}, this version reads {' or '.join(map(repr, known))}"
            )
    if (data["outputs"] == _OUTPUTS[1]) != (isinstance(data["spec"], dict) and bool(data["spec"].get("features"))):
        raise ValueError("its outputs are not those of its spec")
    if of_timm and data["library"] == "own":
        raise ValueError("it is of a module of somebody's own: pass that module, in float, as model")
    return _Header(
        ModelSpec.from_dict(data["spec"]) if of_timm else decode(ModelSpec, data["spec"], "model record"),
        check_softmax(decode(str, data["softmax"], "softmax")),
        decode(Provenance, data["provenance"], "provenance"),
        decode(Structure, data["structure"], "structure"),
        BitWidths.parse(decode(str, data["bits"], "bits"), preset=decode(str, data["preset"], "preset")),
    )


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no calibration leaves behind: numbers that are not finite, and scales that are not positive."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"NaN or infinity in {name[:80]}")
        if name.endswith("_quantizer.scale") and not (tensor > 0).all():
            raise ValueError(f"a scale that is not positive in {name[:80]}")
