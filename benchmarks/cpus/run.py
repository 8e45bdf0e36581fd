"""ONNX Runtime engines on kinds of CPU that are not here, in Debian's ``qemu-user``.

    python benchmarks/cpus/run.py [MODEL.onnx ...] [--kinds haswell neoverse-n1] [--output benchmarks/results/cpus.md]

Models are canonical files; by default the demo's at w8a8, w6a6 and w4a4. Each is built for any CPU; one with 8-bit
weights also for CPUs with VNNI, which shows that the check can fail: x86 without VNNI must saturate it. Each engine is
opened in a plain session (see ``check.py``); codes at every site must be the canonical graph's, save rounding ties.
Exit status 1 where they are not; 3 where the emulator or what it runs cannot be had, with ``--skip-missing`` 0.

For ARM, Debian's arm64 packages of Python are unpacked, not installed, into ``--work``, with the wheels of this
environment's versions for it. ``qemu-user`` 7.2 knows no VNNI: that kind is this machine, where it has it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from commands import run_command, table_line

from repq_deploy.engines.backends.onnxruntime import BACKEND
from repq_deploy.engines.reference import make_reference
from repq_deploy.engines.source import read_source
from repq_deploy.export.prove_kernels import expected_codes

HERE = Path(__file__).parent
HEADER = ("CPU", "model", "built for", "sites", "codes", "different", "not on a tie", "free logits dB", "s", "verdict")

#: What ARM's Python needs of Debian 12, which has Python 3.11.
ARM_PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libstdc++6", "libgcc-s1"),
    *("zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1"),
)
ARM_WHEELS = ("numpy", "onnxruntime", "onnx", "protobuf", "ml_dtypes", "typing_extensions", "flatbuffers", "packaging")
#: onnxruntime reads the CPU from here, and crashes under qemu 7.2 on that of another architecture.
ARM_CPUINFO = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""


@dataclass(frozen=True)
class Kind:
    """A kind of CPU: None of ``model`` is this machine. ``saturates``: x86 that sums products of bytes in 16 bits."""

    arch: str
    model: str | None
    words: str
    saturates: bool


KINDS = {
    "native": Kind(platform.machine(), None, f"this machine, {platform.machine()}", BACKEND.saturates()),
    "haswell": Kind("x86_64", "Haswell", "AVX2 (emulated Haswell)", True),
    "sandybridge": Kind("x86_64", "SandyBridge", "AVX (emulated Sandy Bridge)", False),
    "neoverse-n1": Kind("aarch64", "neoverse-n1", "ARM64 dot product (emulated Neoverse N1)", False),
    "max": Kind("aarch64", "max", "ARM64 i8mm (emulated max)", False),
}


class Unavailable(Exception):
    """The emulator, or what it runs, cannot be had here."""


def engines(models: list[Path], work: Path) -> list[tuple[Path, Path, str]]:
    """Each engine, its case, and what it was built for."""
    if not models:
        for bits in ("w8a8", "w6a6", "w4a4"):
            models.append(work / f"demo.{bits}.onnx")
            if not models[-1].exists():
                run_command("repq-export", "demo", "--bits", bits, "-o", str(models[-1]))
    made = []
    for model in models:
        for cpu in ("any", "vnni") if read_source(model).bits.startswith("w8") else ("any",):
            engine = work / f"{model.stem}.onnxruntime-{cpu}.engine"
            options = ("--backend", "onnxruntime", "--cpu", cpu, "-o", str(work / model.stem))
            run_command("repq-build-engine", str(model), "--no-speed-check", *options)
            made.append((engine, write_case(engine, model), cpu))
    return made


def write_case(engine: Path, model: Path) -> Path:
    """The reference's images and logits, and of the first image every site's codes, as the engine stores them."""
    import onnx  # noqa: PLC0415

    source = read_source(model)
    reference = make_reference(source, data=None, seed=0)
    _, _, sites = next(expected_codes(source.model, onnx.load(engine), reference.images[:1]))
    arrays: dict[str, Any] = {"images": reference.images, "logits": reference.logits}
    arrays["sites"] = np.array(json.dumps([{"tensor": one.tensor, "least": one.least} for one in sites]))
    for index, one in enumerate(sites):
        arrays |= {f"{index}/codes": one.codes, f"{index}/low": one.low, f"{index}/high": one.high}
    case = engine.with_suffix(".case.npz")
    np.savez(case, **arrays)
    return case


def arm_root(work: Path) -> Path:
    """A folder with ARM's Python and its wheels."""
    root = work / "aarch64"
    if (root / "complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    for folder in (root / "lists" / "partial", root / "debs", root / "proc"):
        folder.mkdir(parents=True)
    lists = ("-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64", f"-oDir::State::Lists={root / 'lists'}")
    caches = ("-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache=", "-oAPT::Sandbox::User=root")
    run(["apt-get", *lists, *caches, "-q", "update"])
    run(["apt-get", *lists, *caches, "-q", "download", *ARM_PACKAGES], cwd=root / "debs")
    for package in sorted((root / "debs").glob("*.deb")):
        run(["dpkg-deb", "-x", str(package), str(root)])
    platforms = [
        part for tag in ("2014", "_2_26", "_2_27", "_2_28") for part in ("--platform", f"manylinux{tag}_aarch64")
    ]
    pins = [f"{name}=={version(name)}" for name in ARM_WHEELS]
    options = ("--python-version", "3.11", "--only-binary", ":all:", "--no-deps", "--quiet")
    run([sys.executable, "-m", "pip", "install", *platforms, *options, "--target", str(root / "site"), *pins])
    (root / "proc" / "cpuinfo").write_text(ARM_CPUINFO)
    (root / "complete").touch()
    return root


def command(kind: Kind, work: Path) -> tuple[list[str], dict[str, str]]:
    """What runs Python on ``kind``, and its environment."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if kind.model is None:
        return [sys.executable, "-P"], environment
    emulator = shutil.which(f"qemu-{kind.arch}")
    if emulator is None:
        raise Unavailable(f"qemu-{kind.arch} is not installed; on Debian: apt-get install qemu-user")
    if kind.arch == platform.machine():
        return [emulator, "-cpu", kind.model, sys.executable, "-P"], environment
    root = arm_root(work)
    environment |= {"PYTHONPATH": str(root / "site"), "PYTHONHOME": str(root / "usr")}
    return [emulator, "-cpu", kind.model, "-L", str(root), str(root / "usr/bin/python3.11"), "-P"], environment


def run(arguments: list[str], **options: Any) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise Unavailable(f"{Path(arguments[0]).name}: {lines[-1]}")
    return done.stdout


def rows(kind: Kind, made: list[tuple[Path, Path, str]], work: Path) -> tuple[list[list[str]], bool]:
    """One a engine, and whether each is as it should be."""
    prefix, environment = command(kind, work)
    lines, right = [], True
    for engine, case, cpu in made:
        started = time.perf_counter()
        found = json.loads(run([*prefix, str(HERE / "check.py"), str(engine), str(case)], env=environment))
        exact = found["failing_sites"] == 0
        expected = cpu == "any" or not kind.saturates
        right &= exact is expected
        verdict = ("exact" if exact else "saturates") + ("" if exact is expected else ", UNEXPECTED")
        figures = [str(found[name]) for name in ("sites", "codes", "different", "unexplained", "free_sqnr_db")]
        seconds = f"{time.perf_counter() - started:.0f}"
        model = engine.name.removesuffix(f".onnxruntime-{cpu}.engine")
        lines.append([kind.words, model, cpu, *figures, seconds, verdict])
    return lines, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, help="canonical ONNX files; default: the demo's")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--work", type=Path, default=Path("out") / "cpus")
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    parser.add_argument("--skip-missing", action="store_true", help="what cannot be checked here is no failure")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    work = args.work.resolve()
    made = engines(args.models, work)
    sys.stdout.writelines([table_line(HEADER), table_line(["---"] * len(HEADER))])
    table, right, missing = [], True, []
    for name in args.kinds:
        try:
            lines, as_expected = rows(KINDS[name], made, work)
        except Unavailable as error:
            missing.append(f"{name}: not checked: {error}")
            sys.stderr.write(missing[-1] + "\n")
            continue
        sys.stdout.writelines(map(table_line, lines))
        sys.stdout.flush()
        table, right = table + lines, right and as_expected
    if args.output is not None:
        title = (
            "`python benchmarks/cpus/run.py`: engines in a plain `InferenceSession(path)` of ONNX Runtime "
            f"{version('onnxruntime')}, codes at every\nsite against the canonical graph's. One built for CPUs with "
            "VNNI must saturate on x86 without it. The free logits\nare run without given codes. Emulated by Debian's "
            "qemu-user.\n\n"
        )
        args.output.write_text(title + "".join(map(table_line, [HEADER, ["---"] * len(HEADER), *table])))
    if missing and not args.skip_missing:
        sys.exit(3)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
