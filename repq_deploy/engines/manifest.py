"""The manifest beside an engine: what it was made from, for what, with what, and what validation found.

It is JSON, read strictly: a field that is missing, unknown or of another type is an error that names it, so that an
engine is never run under wrong assumptions.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repq_deploy.bounds import largest
from repq_deploy.engines.backends import backend_names
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.compute import COMPUTES
from repq_deploy.engines.cpu import KIND_WORDS as CPU_KINDS
from repq_deploy.engines.prove_engine import FAILED, NOT_RUN, PASSED, Validation
from repq_deploy.errors import BadInput
from repq_deploy.export.names import OUTPUT, recorded_classes, recorded_input, recorded_outputs
from repq_deploy.inputs import ImageInput
from repq_deploy.outputs import Outputs
from repq_deploy.records import decode, parse_json

__all__ = ["FORMAT", "FileRecord", "KernelCodes", "Manifest", "PassCount", "manifest_path", "read_manifest"]

FORMAT = 3


@dataclass(frozen=True)
class FileRecord:
    """A file by its name (without a folder) and content."""

    name: str
    sha256: str


@dataclass(frozen=True)
class PassCount:
    """A lowering pass and the number of places it changed."""

    name: str
    changed: int


@dataclass(frozen=True)
class KernelCodes:
    """How many activation ``codes`` of how many ``sites`` were compared between the canonical graph and the kernels,
    how many are ``different``, and how many of those are not rounding ties (``unexplained``)."""

    sites: int
    codes: int
    different: int
    unexplained: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known of an engine.

    Attributes:
        target: the GPU generations that the engine is for (``sm80+sm89``); None for the builder's own default.
        precision: the float type around the Q/DQ pairs.
        reference_inputs: where the images of the reference come from, in words.
        versions: the versions of this package and of the runtime.
        session: what the runtime needs beyond its defaults to compute as validated.
        lowering_sqnr_db: how near the weakest stretch of the lowered graph (see ``export.prove_lowering``) is to the
            canonical one's, in dB; both run in float32 on ONNX Runtime with all optimizations off. 200 means equal.
        image_shape: of one image as the engine takes it: (3, H, W), or (H, W, 3) of bytes in that layout.
        outputs: how many numbers the model gives for an image.
        metadata: the ``repq.*`` metadata of the ONNX file.
        compute: the arithmetic that multiplies the quantized operands.
        rounded_sqnr_db: where rounding was allowed, how near the lowered graph's logits are to the canonical one's.
        kernel_codes: how the codes of the engine's own kernels compare; None where the kernels could not be run.
        cpu: the kind of CPU that a CPU backend's engine is exact on ("any", or see ``engines.cpu``); None for GPUs.
        oldest_runtime: the first version of the runtime that opens the engine; None where that is not known.
    """

    backend: str
    target: str | None
    precision: str
    engine: FileRecord
    source: FileRecord
    reference: str
    reference_inputs: str
    image_shape: tuple[int, ...]
    outputs: int
    profile: Profile
    versions: dict[str, str]
    session: dict[str, str]
    passes: tuple[PassCount, ...]
    lowering_sqnr_db: float
    metadata: dict[str, str]
    validation: Validation
    compute: str = "int8"
    allow_rounding: bool = False
    rounded_sqnr_db: float | None = None
    kernel_codes: KernelCodes | None = None
    cpu: str | None = None
    oldest_runtime: str | None = None

    @property
    def input(self) -> ImageInput:
        """What images it takes."""
        return recorded_input(self.metadata, self.image_shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of a classifier's outputs, in their order; empty where they are not known."""
        return recorded_classes(self.metadata)

    @property
    def named(self) -> Outputs:
        """The outputs by name, with their shapes."""
        return recorded_outputs(self.metadata) or Outputs({OUTPUT: (self.outputs,)})

    @property
    def bits(self) -> str:
        """Bit-widths, for example ``w4a4,head=w8a8``."""
        return self.metadata.get("repq.bits", "")

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, name: str) -> Manifest:
        """Read what ``to_json`` wrote; ``name`` is for errors.

        Raises:
            BadInput: not JSON, another format version, or a field missing, unknown or of another type.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise BadInput(f"manifest {name}: not JSON ({error}); rebuild the engine with repq-build-engine") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else None
            raise BadInput(
                f"manifest {name}: format {found!r}, expected {FORMAT}; rebuild the engine with this repq-build-engine"
            )
        del data["format"]
        try:
            manifest = decode(cls, data, "manifest")
            manifest._check()
        except (ValueError, BadInput) as error:  # BadInput: of batch sizes
            raise BadInput(f"manifest {name}: {error}; rebuild the engine with repq-build-engine") from error
        return manifest

    def _check(self) -> None:
        """Refuse values that no build writes.

        Raises:
            ValueError: it names the field.
        """
        known = {
            "backend": (self.backend, backend_names()),
            "precision": (self.precision, ("fp16", "fp32")),
            "compute": (self.compute, COMPUTES),
            "cpu": (self.cpu, (None, *CPU_KINDS)),
            "verdict": (self.validation.verdict, (PASSED, FAILED, NOT_RUN)),
        }
        for field, (value, allowed) in known.items():
            if value not in allowed:
                raise ValueError(f"{field} is {str(value)[:40]!r}, expected one of {', '.join(map(str, allowed))}")
        named, largest_side = recorded_outputs(self.metadata), largest("img_size")
        largest_output = largest("num_classes") if named is None else named.numbers
        if not all(1 <= side <= largest_side for side in self.input.sides):
            raise ValueError(f"image_shape is {list(self.image_shape)}, expected sides of at most {largest_side}")
        recorded_classes(self.metadata)
        if not 1 <= self.outputs <= largest_output or (named is not None and self.outputs != named.numbers):
            expected = f"1 to {largest_output}" if named is None else largest_output
            raise ValueError(f"outputs is {self.outputs}, expected {expected}")
        if any(Path(file).name != file or not file for file in (self.engine.name, self.reference)):
            raise ValueError("it names a file in another folder")


def manifest_path(engine: Path) -> Path:
    """``vit.onnxruntime.json`` of ``vit.onnxruntime.engine``."""
    return engine.with_suffix(".json")


def read_manifest(engine: Path) -> Manifest:
    """The manifest beside ``engine``.

    Raises:
        BadInput: there is no manifest, or the file is not one.
    """
    path = manifest_path(engine)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadInput(
            f"manifest {path}: no such file; copy it beside the engine, or rebuild with repq-build-engine"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"manifest {path}: cannot be read: {error}; rebuild the engine with repq-build-engine"
        ) from error
    return Manifest.from_json(text, name=str(path))
