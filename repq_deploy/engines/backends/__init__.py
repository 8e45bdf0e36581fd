"""The backends, one file each: what a runtime takes, how engines are built for it, and how it runs them.

Every public module of this folder is a backend, its ``BACKEND``, called as the file is, with ``-`` for ``_``. A new
file is all that a new runtime needs. Modules that begin with an underscore, and folders, hold what backends share.
Names are read off the folder and runtimes are imported where they are used, so that neither takes time.
"""

from __future__ import annotations

import abc
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repq_deploy.engines.backends._triton import TritonBackend
from repq_deploy.engines.backends.trt.gpu import gpu_target
from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.export.names import OUTPUT

if TYPE_CHECKING:
    import onnx

    from repq_deploy.engines.batching import GraphRunner, Profile, Runner
    from repq_deploy.export.lowering import Lowering
    from repq_deploy.export.passes.base import Pass
    from repq_deploy.inputs import ImageInput

__all__ = [
    "Backend",
    "ForeignFormat",
    "TritonBackend",
    "all_backends",
    "backend_named",
    "backend_names",
    "choose_backend",
]


@dataclass(frozen=True)
class ForeignFormat:
    """Model files of other tools that a runtime opens as they are.

    ``open`` takes the path and ``threads`` (None leaves their number to the runtime); it gives what runs a batch of
    images, the type of the images (float32 or uint8), and the shapes of the input and of the first output. ``weights``
    is where the weights of a file are, if they are not in it. ``kind`` is what such a file is called.
    """

    suffix: str
    kind: str
    open: Callable[..., tuple[Callable[[Any], Any], str, tuple[int | str | None, ...], tuple[int | str | None, ...]]]
    weights: Callable[[Path], Path] = lambda path: path


@dataclass(frozen=True, kw_only=True)
class Backend(abc.ABC):
    """A runtime that engines are built for.

    Attributes:
        name: what ``--backend`` takes, and what engines are named by.
        modules: the import names of the runtime; one of them is enough.
        on_cpus: its engines run on CPUs; otherwise they need a GPU.
        no_gain_where_saturated: of a runtime that gains nothing from bytes where they saturate: the words that say so,
            and what to do.
        portable: its engines load in any version of the runtime; otherwise only in the one that built them.
        precisions: the float types that it computes in around Q/DQ, its default first.
        computes: the arithmetics that it can multiply quantized operands in, of ``engines.compute.COMPUTES``.
        builds_for_this_gpu: its builder measures on the GPU that is there, and builds for no other.
        preference: of several that could be taken where none is asked for, the one with the largest is.
        foreign: the model files of other tools that it opens.
        product_kernels: how many products of an engine run in which type on this machine, ``{"i8": 61, "f32": 12}``,
            asked of the runtime with the engine's options; None where the runtime does not tell.
        triton: the backends of Triton Inference Server that load its engines, its default first.
        no_triton: where none does: why, and what to do.
    """

    name: str
    modules: tuple[str, ...]
    on_cpus: bool = False
    no_gain_where_saturated: tuple[str, str] | None = None
    portable: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    computes: tuple[str, ...] = ("int8",)
    builds_for_this_gpu: bool = False
    preference: int = 0
    foreign: ForeignFormat | None = None
    product_kernels: Callable[[Path, Mapping[str, str]], dict[str, int]] | None = None
    triton: tuple[TritonBackend, ...] = ()
    no_triton: str = ""

    def is_installed(self) -> bool:
        """Whether one of the modules can be found, without the cost of importing it."""
        return any(find_spec(name) is not None for name in self.modules)

    @abc.abstractmethod
    def version(self) -> str:
        """The runtime's version; BackendMissing where it is not installed."""

    @abc.abstractmethod
    def target(self, targets: Sequence[str], lowering: Lowering) -> str | None:
        """The target to record for the targets asked for: ``sm80+sm89``, or None for the builder's own default.

        Raises:
            BadInput: it cannot build for one of them, or not with this lowering.
        """

    @abc.abstractmethod
    def passes(self, lowering: Lowering) -> list[Pass]:
        """What rewrites a canonical graph into the form that it runs best, in order."""

    @abc.abstractmethod
    def build(
        self,
        model: onnx.ModelProto,
        output: Path,
        *,
        profile: Profile,
        targets: Sequence[str],
        progress: Callable[[float, str], None],
    ) -> None:
        """Write the engine of a lowered model to ``output``; BuildFailed where the builder refuses or crashes."""

    @abc.abstractmethod
    def open(
        self,
        engine: bytes | Path,
        *,
        profile: Profile,
        images: ImageInput,
        session: Mapping[str, str],
        outputs: Sequence[str] = (OUTPUT,),
    ) -> Runner:
        """Load an engine, given by its bytes or its file, which gives ``outputs``, by name; BackendMissing without the
        device it runs on."""

    def builds_for(self, gpu: str) -> bool:
        """Whether an engine of its own choice of targets loads on ``gpu``, as in ``sm89``."""
        del gpu
        return False

    def saturates(self) -> bool:
        """Whether its products of unsigned by signed bytes saturate on this machine, as on x86 without VNNI."""
        return False

    def session_options(self) -> dict[str, str]:
        """What ``open`` needs, beyond the runtime's defaults, to run the engine as it was validated."""
        return {}

    def oldest_runtime(self, model: onnx.ModelProto) -> str | None:
        """The first version of the runtime that opens an engine of a lowered model; None where that is not known."""
        del model
        return None

    def served_graph(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The graph that is run when ``model`` is opened, where the runtime shows it, else ``model``; only on CPUs."""
        raise BackendMissing(f"backend {self.name}: shows no graph of its kernels")

    def load_graph(self, model: onnx.ModelProto) -> GraphRunner:
        """What runs a graph that ``served_graph`` gave, by the kernels that serve; only on CPUs."""
        raise BackendMissing(f"backend {self.name}: runs engines only, on their GPU")


def backend_names() -> tuple[str, ...]:
    """The names of all backends, read off the folder without importing any."""
    found = (one.name for one in pkgutil.iter_modules(__path__) if not one.ispkg)
    return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))


def backend_named(name: str) -> Backend:
    """The backend called ``name``.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    if name not in backend_names():
        raise BadInput(f"backend {name!r}: expected one of {', '.join(backend_names())}")
    found: Backend = import_module(f"{__name__}.{name.replace('-', '_')}").BACKEND
    return found


def all_backends() -> list[Backend]:
    """All backends, those that are preferred first."""
    return sorted((backend_named(name) for name in backend_names()), key=lambda one: -one.preference)


def choose_backend() -> tuple[Backend, str]:
    """The backend whose engine this machine can also run, so that the build ends in a verdict; and why."""
    gpu, backends = gpu_target(), all_backends()
    on_any_cpu = next(one for one in backends if one.on_cpus)
    if gpu is None:
        elsewhere = [one.name for one in backends if not one.on_cpus and not one.builds_for_this_gpu]
        return on_any_cpu, f"no GPU is here; for one elsewhere: --backend {' or '.join(elsewhere)}"
    for backend in backends:
        if backend.builds_for(gpu) and backend.is_installed():
            return backend, f"{backend.name} is installed and builds for the GPU that is here, {gpu}"
    return on_any_cpu, f"no backend that builds for the GPU here, {gpu}, is installed; it runs on any CPU"
