"""Inputs that nobody thought of: options, recipes, records, and files with bits flipped. None may end in a traceback,
hang, take gigabytes, change an input, or leave something behind.

A sample runs with the slow tests, all of them before a release.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from tests.robustness.conftest import Run, check_ended, contents

SAMPLE, ALL = 60, 2000

#: What may stand where a value is expected.
NUMBERS = st.sampled_from(["0", "-1", "1", "4", "1e400", "nan", "inf", "-0", "9" * 30, "9" * 5000, "0x10", "1_0", "٣"])
WORDS = st.sampled_from(
    ["", " ", "best", "w4a4", "w8a8,head=w2a2", "w4a4,*=w9a9", "demo", "demo:test", "m" * 300, "..", "/"]
)
NAMES = st.sampled_from(
    [
        "m.onnx",
        "m.engine",
        "q.safetensors",
        "w.safetensors",
        "calib.npz",
        "recipe.yaml",
        "flat",
        "classes",
        "none",
        "/dev/null",
    ]
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUES = st.one_of(NUMBERS, WORDS, NAMES, TEXTS)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    TEXTS,
    st.sampled_from(["x" * 10000, [], {}, [[]], 10**400]),
)

OPTIONS = {
    "repq-export": """--bits --method --preset --recipe --softmax --checkpoint --checkpoint-prefix
        --num-classes --img-size --calib-data --num-calib --work-dir --save-quantized --device --seed""",
    "repq-build-engine": """--backend --target --cpu --min-batch --opt-batch --max-batch --precision --compute --output
        --reference-data --seed""",
    "repq-inspect": "--passes --compute",
    "repq-eval": "--data --against --preprocess-from --batch-size --limit --img-size --num-classes --device --seed",
    "repq-search": """--avg-bits --max-size --max-bitops --max-latency --latency-table --choices --tau --method --preset
        --checkpoint --calib-data --num-calib --device --seed --plot --plot-data""",
    "repq-bench": "--batch --threads --rounds --seconds --plot --against-float",
}
#: A command that works, to which options are added; a search stops before it measures.
BASES = {
    "repq-export": ["demo", "--method", "percentile", "-o", "new.onnx", "--dry-run"],
    "repq-build-engine": ["m.onnx", "--backend", "onnxruntime", "-o", "new", "--dry-run"],
    "repq-inspect": ["m.onnx"],
    "repq-eval": ["m.engine", "--data", "demo", "--limit", "4"],
    "repq-search": ["demo", "--avg-bits", "5", "--recipe", "new.yaml", "--num-calib", "2", "--dry-run"],
    "repq-bench": ["m.engine", "--rounds", "1", "--seconds", "0", "--batch", "1"],
}


@st.composite
def wrong_options(draw: Any) -> tuple[str, list[str], None]:
    """A command with some options of any value."""
    command = draw(st.sampled_from(sorted(OPTIONS)))
    chosen = draw(st.lists(st.sampled_from(OPTIONS[command].split()), min_size=1, max_size=3, unique=True))
    arguments = list(BASES[command])
    for option in chosen:
        arguments += [option, draw(VALUES)]
    return command, arguments, None


@st.composite
def wrong_recipes(draw: Any) -> tuple[str, list[str], tuple[str, Any]]:
    """A recipe of any text, or of known keys with any value."""
    keys = st.sampled_from(["bits", "preset", "method", "softmax", "images", "steps", "x"])
    text = draw(
        st.one_of(
            TEXTS,
            st.dictionaries(keys, st.recursive(LEAVES, lambda c: st.lists(c, max_size=3), max_leaves=5)).map(_yaml),
        )
    )
    return "repq-export", ["demo", "--recipe", "r.yaml", "-o", "new.onnx", "--dry-run"], ("text:r.yaml", text)


@st.composite
def wrong_records(draw: Any) -> tuple[str, list[str], tuple[str, Any]]:
    """A manifest, or the record of a saved model, with one leaf replaced."""
    kind, command, arguments = draw(
        st.sampled_from(
            [
                ("manifest", "repq-eval", ["m.engine", "--data", "demo", "--limit", "4"]),
                ("manifest", "repq-inspect", ["m.engine"]),
                ("manifest", "repq-build-engine", ["--validate-only", "m.engine", "--dry-run"]),
                ("saved", "repq-eval", ["q.safetensors", "--data", "demo", "--limit", "4"]),
            ]
        )
    )
    return command, arguments, (kind, (draw(st.integers(0, 10**6)), draw(LEAVES)))


@st.composite
def flipped_bits(draw: Any) -> tuple[str, list[str], tuple[str, Any]]:
    """A file with up to three bits flipped, or its end cut off."""
    name, command, arguments = draw(
        st.sampled_from(
            [
                ("m.onnx", "repq-build-engine", ["m.onnx", "--backend", "onnxruntime", "-o", "new"]),
                ("m.onnx", "repq-inspect", ["m.onnx", "--passes", "tensorrt"]),
                ("m.onnx", "repq-eval", ["m.onnx", "--data", "demo", "--limit", "4"]),
                ("m.engine", "repq-eval", ["m.engine", "--data", "demo", "--limit", "4"]),
                ("m.reference.npz", "repq-build-engine", ["--validate-only", "m.engine"]),
                ("q.safetensors", "repq-eval", ["q.safetensors", "--data", "demo", "--limit", "4"]),
                (
                    "w.safetensors",
                    "repq-export",
                    ["demo", "--float", "--checkpoint", "w.safetensors", "-o", "new.onnx", "--dry-run"],
                ),
                ("calib.npz", "repq-export", ["demo", "--calib-data", "calib.npz", "-o", "new.onnx", "--dry-run"]),
            ]
        )
    )
    # Half of them near the beginning or the end, where the headers are.
    places = st.one_of(st.floats(0, 1), st.floats(0, 0.01), st.floats(0.99, 1))
    flips = draw(st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=3))
    return command, arguments, ("bits", (name, flips, draw(st.sampled_from([None, None, None, draw(st.floats(0, 1))]))))


def _yaml(value: Any) -> str:
    return json.dumps(value, default=str).replace("Infinity", ".inf").replace("NaN", ".nan")


def _prepare(folder: Path, change: tuple[str, Any] | None) -> None:
    if change is None:
        return
    kind, how = change
    if kind.startswith("text:"):
        (folder / kind[5:]).write_text(how, encoding="utf-8", errors="replace")
    elif kind == "manifest":
        record = json.loads((folder / "m.json").read_text())
        _replace(record, *how)
        (folder / "m.json").write_text(json.dumps(record))
    elif kind == "saved":
        with safe_open(folder / "q.safetensors", framework="pt") as opened:
            record = json.loads(opened.metadata()["repq"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        _replace(record, *how)
        save_file(tensors, folder / "q.safetensors", metadata={"repq": json.dumps(record)})
    else:
        name, flips, cut = how
        data = bytearray((folder / name).read_bytes())
        for place, bit in flips:
            data[min(int(place * len(data)), len(data) - 1)] ^= 1 << bit
        (folder / name).write_bytes(data if cut is None else data[: int(cut * len(data))])


def _replace(record: Any, which: int, leaf: Any) -> None:
    """Replace the leaf, or the inner value, number ``which`` of a record, counted around."""
    places = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(record)
    value, key = places[which % len(places)]
    value[key] = leaf


def _fuzz(examples: int, warm: Run, inputs: Path) -> None:
    counts: dict[int | None, int] = {}
    failures: list[str] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(wrong_options(), wrong_recipes(), wrong_records(), flipped_bits()))
    def attack(what: tuple[str, list[str], tuple[str, Any] | None]) -> None:
        command, arguments, change = what
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "w"
            shutil.copytree(inputs, folder)
            _prepare(folder, change)
            before = contents(folder)
            if "--validate-only" in arguments:
                del before["m.json"]  # where the verdict goes
            ended = warm(folder, command, *(argument.replace("\0", "") for argument in arguments))
            counts[ended.code] = counts.get(ended.code, 0) + 1
            try:
                check_ended(ended, before, contents(folder), {0, 1, 2, 3})
            except AssertionError as error:  # all that fail, not the first alone
                failures.append(f"{command} {arguments} {change}"[:300] + f": {error}"[:400])

    attack()
    print(f"exit codes of {sum(counts.values())} inputs: {counts}")  # noqa: T201 - shown by -s
    assert not failures, f"{len(failures)} of {sum(counts.values())}:\n" + "\n".join(failures)


@pytest.mark.slow
def test_a_sample_of_random_inputs(warm: Run, inputs: Path) -> None:
    _fuzz(SAMPLE, warm, inputs)


@pytest.mark.release
def test_random_inputs(warm: Run, inputs: Path) -> None:
    _fuzz(ALL, warm, inputs)
