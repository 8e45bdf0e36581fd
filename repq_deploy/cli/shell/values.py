"""Which values an option or an argument of the commands can have, where they can be listed.

Lists of what only torch's half knows are written out here, since importing it takes longer than a reader of a menu
waits; a test holds them to the code.
"""

from __future__ import annotations

from collections.abc import Callable

from repq_deploy.bits import PRESETS

__all__ = ["METHODS", "MODELS", "SOFTMAX", "VALUES", "values_of"]

_FILES = ":files"  # as of ``completion``, which imports this

#: ``methods.METHODS``.
METHODS = ("best", "best-high", "dopq", "erq", "minmax", "mixq", "percentile", "repq", "repquant")
#: ``quant.softmax.SOFTMAX_KINDS``.
SOFTMAX = ("uniform", "log2", "log2_max", "log_sqrt2", "adalog", "tan", "by_bits", "by_site", "float")
#: ``models.zoo.ALIASES`` and the embedded model. timm's other names are hundreds.
MODELS = (
    "demo",
    *(f"{family}_{size}" for family, sizes in (("deit", "tsb"), ("vit", "tsbl"), ("swin", "tsb")) for size in sizes),
)


def _backends() -> tuple[str, ...]:
    from repq_deploy.engines.backends import backend_names

    return backend_names()


def _cpus() -> tuple[str, ...]:
    from repq_deploy.engines.cpu import CPU_OPTIONS

    return CPU_OPTIONS


def _computes() -> tuple[str, ...]:
    from repq_deploy.engines.compute import COMPUTES

    return COMPUTES


#: By an option's longest name, or an argument's name as ``--help`` shows it. What is not here may be a file.
VALUES: dict[str, tuple[str, ...] | Callable[[], tuple[str, ...]]] = {
    "MODEL": (*MODELS, _FILES),
    "TARGET": (*MODELS, _FILES),
    "--against": (*MODELS, _FILES),
    "--backend": _backends,
    "--bits": ("w8a8", "w7a8", "w6a6", "w4a8", "w4a4", "w3a3"),
    "--calib-data": ("photos", "synthetic", "demo", _FILES),
    "--compute": _computes,
    "--cpu": _cpus,
    "--data": ("demo", _FILES),
    "--device": ("auto", "cpu", "cuda"),
    "--feature-layout": ("tokens", "maps"),
    "--input": ("float32", "uint8"),
    "--input-layout": ("nhwc", "nchw"),
    "--host": ("127.0.0.1", "0.0.0.0", "::1"),  # noqa: S104
    "--method": METHODS,
    "--opset": ("20", "21"),
    "--passes": _backends,
    "--precision": ("fp16", "fp32"),
    "--preset": tuple(PRESETS),
    "--ray": ("auto", "local"),
    "--softmax": SOFTMAX,
}


def values_of(name: str) -> tuple[str, ...]:
    """The values of what is called ``name``; the names of files where no others are known."""
    values = VALUES.get(name, (_FILES,))
    return values() if callable(values) else values
