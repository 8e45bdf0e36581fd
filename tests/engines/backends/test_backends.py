"""The folder of backends: what is in it, what it costs to import, and which backend is taken for which machine."""

from __future__ import annotations

import ast
import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repq_deploy.engines import backends
from repq_deploy.engines.backends.trt import gpu
from repq_deploy.engines.backends.trt.backend import TrtBackend
from repq_deploy.engines.compute import lowering_for
from repq_deploy.errors import BadInput
from repq_deploy.export.lowering import lower
from tests.conftest import exported

PACKAGE = Path(backends.__file__).parents[2]
FOLDER = Path(backends.__file__).parent

#: Where a backend is named outside its folder: the reference that every engine is compared with, by its package;
#: the packages that a report of a bug lists; and what NVIDIA's own tools call runtimes and take from TensorRT's passes.
NAMED = {
    *("export/onnx_session.py", "cli/shell/versions.py"),
    *("exchange/engine.py", "exchange/emit.py", "cli/answers/emit.py"),
}

INSTALLED = "{} is installed and builds for the GPU that is here, sm89"
NO_GPU = "no GPU is here; for one elsewhere: --backend tensorrt-rtx"
NOTHING = "no backend that builds for the GPU here, {}, is installed; it runs on any CPU"


@pytest.mark.parametrize(
    ("gpu_here", "installed", "expected", "why"),
    [
        ("sm89", {"tensorrt", "tensorrt-rtx"}, "tensorrt", INSTALLED.format("tensorrt")),
        (None, {"tensorrt", "tensorrt-rtx"}, "onnxruntime", NO_GPU),
        ("sm89", {"tensorrt-rtx"}, "tensorrt-rtx", INSTALLED.format("tensorrt-rtx")),
        ("sm90", {"tensorrt-rtx"}, "onnxruntime", NOTHING.format("sm90")),  # no target of TensorRT-RTX
        ("sm75", {"tensorrt-rtx"}, "onnxruntime", NOTHING.format("sm75")),  # none of its default ones
        (None, {"tensorrt"}, "onnxruntime", NO_GPU),
        ("sm89", set(), "onnxruntime", NOTHING.format("sm89")),
    ],
)
def test_choice(
    monkeypatch: pytest.MonkeyPatch, gpu_here: str | None, installed: set[str], expected: str, why: str
) -> None:
    monkeypatch.setattr(backends, "gpu_target", lambda: gpu_here)
    monkeypatch.setattr(TrtBackend, "is_installed", lambda self: self.name in installed)
    backend, reason = backends.choose_backend()
    assert (backend.name, reason) == (expected, why)


def test_an_unknown_backend_is_named_with_the_known() -> None:
    with pytest.raises(BadInput, match="'tpu': expected one of onnxruntime, openvino, tensorrt, tensorrt-rtx"):
        backends.backend_named("tpu")


class FakeDriver:
    """libcuda with one GPU of compute capability 8.9."""

    @staticmethod
    def _set(pointer: object, value: int) -> int:
        pointer._obj.value = value  # type: ignore[attr-defined]
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return flags

    def cuDeviceGet(self, pointer: object, index: int) -> int:  # noqa: N802
        return self._set(pointer, index)

    def cuDeviceGetAttribute(self, pointer: object, attribute: int, device: object) -> int:  # noqa: N802
        return self._set(pointer, {75: 8, 76: 9}[attribute])


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    assert gpu.gpu_target() == "sm89"


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu.gpu_target() is None


def test_a_backend_is_called_as_its_file_is() -> None:
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert {name.replace("-", "_") for name in backends.backend_names()} == files
    assert {one.name for one in backends.all_backends()} == set(backends.backend_names())
    assert all(backends.backend_named(name).name == name for name in backends.backend_names())


def test_every_backend_has_passes_for_its_default(family: str) -> None:
    for backend in backends.all_backends():
        lowered, _ = lower(exported(family, "w8a8"), backend.passes(lowering_for(backend)))
        assert lowered.graph.node


def test_importing_all_backends_imports_no_runtime_and_no_torch() -> None:
    script = "import sys; from repq_deploy.engines.backends import all_backends; all_backends(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"torch", "timm", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"}
    assert heavy & set(done.stdout.split()) == set()


def test_a_manifest_is_read_without_onnx() -> None:
    script = "import sys; import repq_deploy.engines.manifest; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"onnx", "torch"} & set(done.stdout.split()) == set()


def strings(path: Path) -> Iterator[str]:
    """The string constants of a file that are not docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def test_no_other_file_names_a_backend() -> None:
    name = re.compile(rf"(?<![\w-])({'|'.join(backends.backend_names())})(?![\w-])")
    others = [path for path in PACKAGE.rglob("*.py") if FOLDER not in path.parents]
    found = {str(path.relative_to(PACKAGE)) for path in others if any(map(name.search, strings(path)))}
    assert found == set(NAMED)
