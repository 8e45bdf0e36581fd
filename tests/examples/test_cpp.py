"""The C++ programs of examples/09-cpp, built as their page says, give Python's logits to the last bit."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.docs.running import Page
from tests.examples.commands import logits_of, run_example

EXAMPLE = "09-cpp"
#: Debian 13, from where this machine has its own Debian.
_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} trixie main\n"
_ORIGIN = ("indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="needs cmake and a C++ compiler"),
]


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``include`` with ONNX Runtime's headers: the system's, or Debian 13's, unpacked and not installed."""
    if Path("/usr/include/onnxruntime/onnxruntime_cxx_api.h").is_file():
        return Path("/usr/include")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("needs the headers of ONNX Runtime; on Debian 13: apt-get install libonnxruntime-dev")
    root = tmp_path_factory.mktemp("debian")
    (root / "lists" / "partial").mkdir(parents=True)
    (root / "sources").write_text(_SOURCE.format(_apt(root, *_ORIGIN).splitlines()[0]))
    own = (f"-oDir::Etc::sourcelist={root / 'sources'}", "-oDir::Etc::sourceparts=-", "-oAPT::Sandbox::User=root")
    own += (f"-oDir::State::Lists={root / 'lists'}", "-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache=")
    _apt(root, *own, "update")
    _apt(root, *own, "download", "libonnxruntime-dev")
    unpack = ["dpkg-deb", "-x", *map(str, root.glob("*.deb")), str(root)]
    subprocess.run(unpack, check=True)
    return root / "usr" / "include"


def _apt(folder: Path, *words: str) -> str:
    command = ["apt-get", "-q", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 or (words == _ORIGIN and not done.stdout):
        pytest.skip(f"the headers of ONNX Runtime cannot be fetched: {(done.stderr.splitlines() or ['no Debian'])[-1]}")
    return done.stdout


@pytest.mark.release  # it fetches ten megabytes of Debian's lists
def test_onnxruntime(clothes: Page, expected: NDArray[np.float32], headers: Path, tmp_path: Path) -> None:
    (tmp_path / "include").symlink_to(headers)
    (tmp_path / "lib").mkdir()
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (tmp_path / "lib" / "libonnxruntime.so.1").symlink_to(library)
    program, engine = "./build/classify_onnxruntime", "../06-plain-onnxruntime/clothes.onnxruntime.engine"
    variables = {"ONNXRUNTIME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "1"}
    page = run_example(clothes, EXAMPLE, "ONNX Runtime", programs=("cmake", program), variables=variables)
    found = logits_of(page, program, engine, "--logits", "boot.ppm", "bag.ppm")
    np.testing.assert_array_equal(np.array(found, np.float32), expected)


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra `openvino`")
def test_openvino(clothes: Page, expected: NDArray[np.float32]) -> None:
    import openvino

    variables = {"OPENVINO": str(Path(openvino.__file__).parent)}
    program = "./build/classify_openvino"
    page = run_example(clothes, EXAMPLE, "OpenVINO", programs=("cmake", program), variables=variables)
    engine = "../06-plain-onnxruntime/clothes.openvino.engine"
    found = np.array(logits_of(page, program, engine, "--logits", "boot.ppm", "bag.ppm"), np.float32)
    images = np.stack([np.asarray(Image.open(page.folder / f"{name}.ppm")) for name in ("boot", "bag")])
    compiled = openvino.Core().compile_model(page.folder / engine, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_array_equal(found, compiled(images)["logits"])
    np.testing.assert_allclose(found, expected, atol=0.1)  # the same model by another runtime
