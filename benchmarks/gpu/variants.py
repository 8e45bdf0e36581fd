"""What is built for a GPU: the exports, and the engines of each. The one list that builds.py and prepare.py share."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FLOAT", "MODELS", "VARIANTS", "Variant"]

MODELS = ("deit_s", "deit_b", "swin_t")

#: The bits of the float model, which is FP16 on TensorRT: the baseline of every figure.
FLOAT = "float"

#: FP8 holds the codes of 4 bits; the head and the patch embedding have 8 bits by default, so they stay on INT8.
_FP8 = "fp8+int8"


@dataclass(frozen=True)
class Variant:
    """One engine: what ``repq-export`` and ``repq-build-engine`` are told.

    ``attention`` float leaves attention's products in float (so Q/DQ stands at linear layers only), uniform has them
    all in integers, log2 has powers of two for the probabilities.
    """

    bits: str
    attention: str
    compute: str
    target: str | None = "sm89"
    allow_rounding: bool = False

    @property
    def export(self) -> str:
        """The name of the ONNX file, without the model's."""
        return FLOAT if self.bits == FLOAT else f"{self.bits}-{self.attention}"

    @property
    def name(self) -> str:
        rounded = " rounded" * self.allow_rounding
        return f"{self.export} {self.compute}{rounded} {self.target or 'default targets'}"

    @property
    def build_options(self) -> list[str]:
        options = ["--backend", "tensorrt-rtx", "--compute", self.compute]
        options += ["--target", self.target] if self.target else []
        return options + ["--allow-rounding"] * self.allow_rounding


VARIANTS = (
    # Does it run at all: every kind of target.
    *(Variant(FLOAT, "float", "int8", target) for target in (None, "sm80", "sm89")),
    *(Variant("w8a8", "uniform", "int8", target) for target in (None, "sm80", "sm89")),
    # What attention's quantizer costs, on INT8.
    Variant("w8a8", "float", "int8"),
    Variant("w8a8", "log2", "int8"),
    Variant("w8a8", "uniform", "fp8", allow_rounding=True),
    # The same codes on INT8, on FP8, and on FP16 with weights in 4 bits.
    *(
        Variant("w4a4", attention, compute)
        for attention in ("float", "uniform", "log2")
        for compute in ("int8", _FP8, "fp16")
    ),
)
