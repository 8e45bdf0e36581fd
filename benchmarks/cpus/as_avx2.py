"""Runs a command as on x86 without AVX-512 and VNNI, at this machine's speed: ONNX Runtime and OpenVINO then choose
their AVX2 kernels.

    python benchmarks/cpus/as_avx2.py repq-build-engine demo.onnx
    python benchmarks/cpus/as_avx2.py python -m pytest -p no:faulthandler tests/engines

Both ask the processor what it has by the instruction CPUID. Copies of them are made in ``--work``, with each CPUID
replaced by an instruction that traps, and a preloaded handler answers in its place (of SIGILL, which pytest would take
for itself). What is measured so is AVX2 code on this processor, not a processor that has no more: results name both.
Linux on x86-64, with gcc and binutils.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("hide_cpuid.c")
#: The libraries of each package that choose kernels.
LIBRARIES = {
    "onnxruntime": ("capi/onnxruntime_pybind11_state*.so",),
    "openvino": ("libs/libopenvino.so.*", "libs/libopenvino_intel_cpu_plugin.so"),
}
CPUID, TRAP = b"\x0f\xa2", b"\x0f\x0b"


def hide(library: Path) -> int:
    """Replace every CPUID of ``library``; how many there were."""
    listing = subprocess.run(["objdump", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    headers = subprocess.run(["readelf", "-lW", str(library)], capture_output=True, text=True, check=True).stdout
    loads = [[int(number, 16) for number in found] for found in re.findall(r"LOAD +(\w+) (\w+) \w+ (\w+)", headers)]
    data = bytearray(library.read_bytes())
    addresses = [int(line.split(":")[0], 16) for line in listing.splitlines() if "\tcpuid" in line]
    for address in addresses:
        offset = next(address - start + at for at, start, size in loads if start <= address < start + size)
        if data[offset : offset + 2] != CPUID:
            sys.exit(f"{library}: no CPUID at {address:#x}")
        data[offset : offset + 2] = TRAP
    library.write_bytes(data)
    return len(addresses)


def prepare(work: Path) -> dict[str, str]:
    """Make what is missing in ``work``; the environment that uses it."""
    handler, site = work / "hide_cpuid.so", work / "site"
    if not (work / "complete").exists():
        shutil.rmtree(work, ignore_errors=True)
        site.mkdir(parents=True)
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(handler)], check=True)
        for package, patterns in LIBRARIES.items():
            spec = find_spec(package)
            if spec is None or spec.origin is None:
                continue
            shutil.copytree(Path(spec.origin).parent, site / package)
            for library in (one for pattern in patterns for one in (site / package).glob(pattern)):
                sys.stderr.write(f"{library.name}: {hide(library)} CPUID hidden\n")
        (work / "complete").touch()
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "LD_PRELOAD": str(handler), "PYTHONPATH": path}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out") / "as_avx2")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    environment = prepare(args.work.resolve())
    # The scripts and the Python of this environment go first.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    sys.exit(subprocess.run(args.command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
