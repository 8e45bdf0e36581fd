"""Hashes of canonical files and ONNX Runtime engines, to hold a change of the code's structure to "the same bytes".

Calibration on another machine, or with another number of threads, gives other codes: run it before and after a change
on one machine. It prints one JSON object, *file -> SHA-256*; ``--compare FILE`` lists what differs from an earlier one.

    python benchmarks/same_bytes.py > before.json
    python benchmarks/same_bytes.py --compare before.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

#: Model, options that make it, and the (bits, method) pairs it is quantized with.
CASES = (
    ("demo", (), [(bits, method) for bits in ("w8a8", "w6a6", "w4a4") for method in ("repq", "best")]),
    ("deit_t", ("--no-pretrained",), [("w8a8", "repq"), ("w4a4", "best")]),
    ("swin_t", ("--no-pretrained",), [("w8a8", "repq"), ("w4a4", "repq")]),
)


def run(command: str, *arguments: str) -> None:
    """One command of the package that this Python finds; ``-P``: never the package of the current folder."""
    call = f"from repq_deploy.cli.{command} import main; main()"
    line = [sys.executable, "-P", "-c", call, *arguments, "--quiet"]
    done = subprocess.run(line, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(line)}: exit {done.returncode}")


def hashes() -> dict[str, str]:
    found = {}
    with tempfile.TemporaryDirectory(prefix="repq-bytes-") as name:
        folder = Path(name)
        for model, options, pairs in CASES:
            for bits, method in pairs:
                file = folder / f"{model}-{bits}-{method}.onnx"
                run("export", model, *options, "--bits", bits, "--method", method, "--device", "cpu", "-o", str(file))
                run("build_engine", str(file), "--backend", "onnxruntime", "--no-speed-check")
                for path in (file, *folder.glob(f"{file.stem}.*.engine")):
                    found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
                    print(path.name, found[path.name][:16], file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path, help="what an earlier run printed")
    options = parser.parse_args()
    found = hashes()
    print(json.dumps(found, indent=1))
    if options.compare:
        before = json.loads(options.compare.read_text(encoding="utf-8"))
        different = sorted(name for name in before | found if before.get(name) != found.get(name))
        sys.exit(f"different: {', '.join(different)}" if different else 0)


if __name__ == "__main__":
    main()
