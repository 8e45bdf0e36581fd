"""Reading files for a report: what belongs together, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from repq_deploy.cli import report as command
from repq_deploy.errors import BadInput
from repq_deploy.export.measures.record import SiteMeasures, recorded_measures
from repq_deploy.report.commands import export_command
from repq_deploy.report.facts import ModelFact
from repq_deploy.report.gather import gather, site_of_name
from tests.engines.graphs import write_tiny
from tests.report.facts import measured, measures


def bench(folder: Path, **changes: Any) -> Path:
    results = [asdict(measured("float.onnx", 4.0, 1.0)), asdict(measured("engine", 2.0, 2.0))]
    path = folder / "bench.json"
    path.write_text(json.dumps({"machine": "m", "rounds": 3, "results": results, "later": 1} | changes))
    return path


def test_a_record_comes_back_as_it_was() -> None:
    found = measures()
    assert recorded_measures(found.entry()) == found
    assert recorded_measures({}) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": -1}, "contradict"),
        ({"different": 2000}, "contradict"),
        ({"extra": 1}, "unknown extra"),
        ({"sites": {"a": {"bits": 9, "kind": "uniform", "db": 1.0}}}, "bits are 9"),
        ({"sites": {"a": {"bits": 4, "kind": "uniform", "db": 1e9}}}, "db is 1e\\+09"),
        ({"sites": {"a": {"bits": 4, "kind": "uniform", "db": 1.0, "clipped": 2.0}}}, "clipped is 2"),
        ({"sites": {"a": {"bits": 4, "kind": "x", "db": 1.0, "seen": {"low": 2, "high": 1}}}}, "low 2 is above"),
        (
            {"sites": {"a": {"bits": 4, "kind": "x", "db": 1, "seen": {"low": 0, "high": 1, "widths": [1]}}}},
            "widths",
        ),
        ({"sites": {"a" * 300: {"bits": 4, "kind": "x", "db": 1.0}}}, "a name of more than"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], said: str) -> None:
    entry = json.loads(SiteMeasures(4, 8, 10, 1, 0).entry()["repq.sites"]) | change
    with pytest.raises(ValueError, match=said):
        recorded_measures({"repq.sites": json.dumps(entry)})


@pytest.mark.parametrize(
    ("name", "block", "row"),
    [
        ("blocks.3.attn.qkv.input", "blocks.3", "attn.qkv.input"),
        ("layers.1.blocks.0.mlp.fc1.weight", "layers.1.blocks.0", "mlp.fc1.weight"),
        ("layers.1.downsample.reduction.weight", "", "layers.1.downsample.reduction.weight"),
        ("head.input", "", "head.input"),
    ],
)
def test_blocks_are_found_in_names(name: str, block: str, row: str) -> None:
    site = site_of_name(name, 4, "uniform")
    assert (site.block, site.row) == (block, row)


def test_files_of_older_exports_and_benches_are_read(tmp_path: Path) -> None:
    found = gather([write_tiny(tmp_path).path, bench(tmp_path)])
    assert found.models[0].measures is None
    assert [one.speedup for one in found.benches[0].results] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"results": []}, "holds 0 results"),
        ({"rounds": "3"}, "rounds is '3'"),
        ({"results": [{"label": "x"}]}, "lacks"),
        ({"results": [asdict(measured("x", 1.0, 0.0))]}, "cannot be measured"),
    ],
)
def test_a_bench_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        gather([bench(tmp_path, **changes)])


def test_commands_make_the_file_again() -> None:
    spec = {"weights": "pretrained", "kwargs": {"img_size": [48, 32], "num_classes": 5}, "checkpoint_sha256": "ab"}
    metadata = {"repq.model": "deit s", "repq.bits": "w4a4", "repq.method": "repq", "repq.seed": "3"}
    model = ModelFact(metadata | {"repq.spec": json.dumps(spec)}, "", "out.onnx", ())
    assert export_command(model) == (
        "repq-export 'deit s' --bits w4a4 --method repq --seed 3 --calib-data IMAGES --checkpoint WEIGHTS "
        "--img-size 48x32 --num-classes 5 -o out.onnx"
    )
    assert export_command(ModelFact(metadata | {"repq.spec": '{"weights": "own"}'}, "", "out.onnx", ())) is None


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = write_tiny(tmp_path).path, bench(tmp_path)

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["repq-report", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            command.main()
        return int(str(stop.value.code))

    page = path.with_suffix(".html")
    assert run(path, other, "--dry-run") == 0
    assert not page.exists()
    assert run(path, other) == 0
    assert run(path, other, "--json") == 0  # its own page is replaced
    assert "2.00×" in page.read_text(encoding="utf-8")
    page.write_text("mine")
    assert run(path) == 2
    assert "not of repq-deploy" in capsys.readouterr().err
    assert run(path, "--force") == 0
    assert run(path, "--against", "deit_s", "--force") == 2
    assert run(path, path) == 2
    assert run(other, "--data", "demo", "-o", tmp_path / "b.html") == 2
    assert "name an .onnx or .engine file" in capsys.readouterr().err
