"""Make ``.venv-triton``: Triton Inference Server with its Python backend, from wheels, and ONNX Runtime for it.

``.venv-triton/bin/tritonserver`` then takes the server's own options. The wheel of nvidia-pytriton holds the server and
its Python backend, laid out for pytriton's own start; three things make them run alone: the stub of this Python version
beside the backend, the wheel's libraries and libpython where the loader looks, and this environment's ``python3``, by
which the stub finds its packages, first on PATH. Linux on x86-64, glibc 2.35 or later.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = "3.12"
#: Printed by the Python that is looked at: its version, and where its shared library is, if it has one.
_ASK = (
    "import sys, sysconfig, pathlib; folder = pathlib.Path(sysconfig.get_config_var('LIBDIR') or '/');"
    "name = f'libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0';"
    "print(f'{sys.version_info[0]}.{sys.version_info[1]}', folder if (folder / name).exists() else '-')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=f"python{VERSION}", help="a Python 3.12 with a shared library")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-triton")
    options = parser.parse_args()
    started = time.perf_counter()
    venv = options.venv.absolute()
    libraries = shared_library(options.python)
    subprocess.run([options.python, "-m", "venv", "--clear", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--requirement"]
    subprocess.run([*pip, ROOT / "constraints-triton.txt"], check=True)
    server = lay_out(venv, libraries)
    size = sum(file.stat().st_size for file in venv.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"{server}: made in {time.perf_counter() - started:.0f} s, {size / 1e6:.0f} MB")


def shared_library(python: str) -> Path:
    """The folder of the shared library of ``python``, which the stub is linked with."""
    if shutil.which(python) is None:
        sys.exit(f"{python}: not found; give a Python {VERSION} with --python")
    found = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True).stdout.split(maxsplit=1)
    version, folder = (word.strip() for word in found)
    if version != VERSION or folder == "-":
        has = "no shared library" if folder == "-" else "another version"
        sys.exit(f"{python}: is Python {version}, {has}; expected {VERSION} with libpython{VERSION}.so.1.0")
    return Path(folder)


def lay_out(venv: Path, libraries: Path) -> Path:
    """Put the backend and its stub into one folder, and write the script that starts the server."""
    packages = venv / "lib" / f"python{VERSION}" / "site-packages"
    wheel = packages / "pytriton" / "tritonserver"
    backends = venv / "triton" / "backends"
    shutil.copytree(wheel / "backends" / "python", backends / "python")
    stub = backends / "python" / "triton_python_backend_stub"
    shutil.copyfile(wheel / "python_backend_stubs" / VERSION / stub.name, stub)
    stub.chmod(0o755)
    script = venv / "bin" / "tritonserver"
    script.write_text(
        "#!/bin/sh\n"
        f'export PATH="{venv}/bin:$PATH"\n'
        f'export LD_LIBRARY_PATH="{packages}/nvidia_pytriton.libs:{libraries}"\n'
        f'exec "{wheel}/bin/tritonserver" --backend-directory="{backends}" "$@"\n'
    )
    script.chmod(0o755)
    return script


if __name__ == "__main__":
    main()
