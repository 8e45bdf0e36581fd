"""``repq-search`` in process and killed from outside: what it writes, and one clear line for every bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from repq_deploy.bits import BitWidths
from repq_deploy.cli import search
from repq_deploy.errors import BadInput
from repq_deploy.recipes import load_recipe

QUICK = ("demo", "--preset", "paper", "--choices", "3,8", "--num-calib", 4, "--seed", 1)


@pytest.fixture
def run(call):
    def _run(*arguments: object):
        return call(search.main, *arguments)

    return _run


def test_it_writes_a_recipe_that_keeps_the_budget(run, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    done = run(*QUICK, "--avg-bits", 4, "--recipe", recipe, "--work-dir", tmp_path / "work", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["spent"]["average bits of weights"] <= 4
    assert result["spent"]["average bits of activations"] <= 4
    saved = load_recipe(recipe)
    assert (saved.bits, saved.preset, saved.method) == (result["bits"], "paper", "best")
    widths = BitWidths.parse(saved.bits, preset=saved.preset)
    total = sum(site["parameters"] for site in result["sites"])
    spent = sum(site["parameters"] * int(site["bits"][1]) for site in result["sites"] if site["bits"][0] == "w")
    assert spent / total == pytest.approx(result["spent"]["average bits of weights"])
    assert str(widths) == saved.bits
    assert sum(site["relevance"] for site in result["sites"]) == pytest.approx(1)
    # Another budget needs no more measurements; people read a table.
    again = run(*QUICK, "--max-size", "0.6MB", "--recipe", recipe, "--work-dir", tmp_path / "work")
    assert again.code == 0, again.err
    assert "blocks.0.attn.qkv" in again.out
    assert f"next: repq-export MODEL --recipe {recipe} -o OUTPUT.onnx" in again.out


def test_it_plots(run, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.svg"
    done = run(*QUICK, "--max-bitops", 1.5, "--recipe", tmp_path / "r.yaml", "--plot", plot, "--json")
    assert done.code == 0, done.err
    assert plot.read_text().startswith("<?xml")


def test_top1_of_a_plot_is_kept_for_a_plot_that_was_killed(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    classes, plot, work = tmp_path / "images", tmp_path / "plot.svg", tmp_path / "work"
    for index in range(10):
        (classes / f"class-{index}").mkdir(parents=True)
        Image.new("RGB", (32, 32), (25 * index, 80, 255 - 25 * index)).save(classes / f"class-{index}" / "0.png")
    options = ("--avg-bits", 4, "--method", "minmax", "--recipe", tmp_path / "r.yaml", "--work-dir", work)
    done = run(*QUICK, *options, "--plot", plot, "--plot-data", classes)
    assert done.code == 0, done.err
    assert "top-1 (%)" in plot.read_text()
    kept = [json.loads(file.read_text()) for file in work.glob("*/top1-*.json")]
    assert kept
    assert all(top1 in range(0, 101, 10) for top1 in kept)
    plot.unlink()
    monkeypatch.setattr(
        "repq_deploy.search.trade_off.calibrate", mock.Mock(side_effect=AssertionError("measured again"))
    )
    done = run(*QUICK, *options, "--plot", plot, "--plot-data", classes)
    assert done.code == 0, done.err
    assert plot.exists()


def test_dry_run_measures_and_writes_nothing(run, tmp_path):
    done = run(*QUICK, "--avg-bits", 4, "--recipe", tmp_path / "r.yaml", "--dry-run", "--json")
    plan = json.loads(done.out)
    assert plan["measurements"] == 2 * len(plan["sites"])
    assert plan["sites"]["blocks.0.attn"] == ["a3", "a8"]
    assert plan["budgets"]["average bits of weights"] == [4, 3, 8]
    assert list(tmp_path.iterdir()) == []


def test_a_latency_budget(run, tmp_path):
    plan = json.loads(run(*QUICK, "--avg-bits", 4, "--recipe", tmp_path / "r.yaml", "--dry-run", "--json").out)
    times = {site: {bits: 0.01 * int(bits[1]) for bits in choices} for site, choices in plan["sites"].items()}
    table = tmp_path / "latency.json"
    table.write_text(json.dumps({"fixed_ms": 0.5, "sites": times}))
    options = (*QUICK, "--recipe", tmp_path / "r.yaml", "--latency-table", table)
    done = run(*options, "--max-latency", "2ms", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    expected = 0.5 + sum(times[site["site"]][site["bits"]] for site in result["sites"])
    assert result["spent"]["latency"] == pytest.approx(expected)
    assert expected <= 2
    done = run(*options, "--max-latency", "0.6ms")
    assert done.code == 2
    assert "the choices cost from" in done.err
    del times["head"]
    table.write_text(json.dumps({"sites": times}))
    done = run(*options, "--max-latency", "2ms")
    assert done.code == 2
    assert "no times of site head" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no budget"),
        (("--avg-bits", 2), "average bits of weights 2 bits: the choices cost from 3 to 8 bits"),
        (("--avg-bits", "inf"), "--avg-bits inf: expected a finite number"),
        (("--max-size", "20"), "expected a size such as 20MB"),
        (("--max-size", "1KB"), "allow at least"),
        (("--max-latency", "5ms"), "go together"),
        (("--avg-bits", 4, "--choices", "4"), "at least two"),
        (("--avg-bits", 4, "--method", "none"), "method 'none'"),
        (("--avg-bits", 4, "--plot", "plot.bmp"), "expected one of .png"),
        (("--avg-bits", 4, "--plot-data", "demo"), "give both"),
        (("--avg-bits", 4, "--preset", "none"), "preset 'none'"),
        (("--avg-bits", 4, "--choices", "w4"), "not of the form wXaY"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, message):
    done = run(*QUICK, *arguments, "--recipe", tmp_path / "r.yaml")
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_sensitivity_alone_needs_no_relevance(run, tmp_path, monkeypatch):
    """Which not every model has: LRP lacks a rule for QuickGELU, for instance."""
    monkeypatch.setattr("repq_deploy.search.search.relevance_shares", mock.Mock(side_effect=AssertionError("computed")))
    done = run(*QUICK, "--avg-bits", 4, "--recipe", tmp_path / "r.yaml", "--tau", 0, "--json")
    assert done.code == 0, done.err
    assert {site["relevance"] for site in json.loads(done.out)["sites"]} == {None}


def test_a_model_without_rules_is_told_of_sensitivity_alone(run, tmp_path, monkeypatch):
    no_rule = BadInput("relevance: the model calls sigmoid, which has no propagation rule")
    monkeypatch.setattr("repq_deploy.search.search.relevance_shares", mock.Mock(side_effect=no_rule))
    done = run(*QUICK, "--avg-bits", 4, "--recipe", tmp_path / "r.yaml")
    assert done.code == 2
    assert "no propagation rule; --tau 0 allocates" in done.err


def test_a_cluster_is_checked_before_the_sweep(run, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("repq_deploy.search.search.Search.relevance", mock.Mock(side_effect=AssertionError("computed")))
    done = run(*QUICK, "--avg-bits", 4, "--recipe", tmp_path / "r.yaml", "--ray", "127.0.0.1:1")
    assert done.code == 2
    assert "no cluster there" in done.err


def test_images_for_the_plot_are_checked_before_the_sweep(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(
        "repq_deploy.search.search.Search.sensitivities", mock.Mock(side_effect=AssertionError("measured"))
    )
    plot = ("--plot", tmp_path / "plot.svg", "--plot-data", tmp_path / "nowhere")
    done = run(*QUICK, "--avg-bits", 4, "--recipe", tmp_path / "r.yaml", *plot)
    assert done.code == 2
    assert "nowhere" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_one_process_four_and_a_cluster_of_two_nodes_give_the_same_recipe(run, tmp_path):
    def recipe(name, *options):
        done = run(*QUICK, "--avg-bits", 4, "--recipe", tmp_path / name, *options)
        assert done.code == 0, done.err
        return (tmp_path / name).read_bytes()

    expected = recipe("one.yaml")
    assert recipe("four.yaml", "--workers", 4) == expected
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        assert len(cluster.list_all_nodes()) == 2
        assert recipe("ray.yaml", "--ray", cluster.address) == expected
    finally:
        cluster.shutdown()


def command(*arguments: object) -> list[str]:
    code = "from repq_deploy.cli.search import main; main()"
    return [sys.executable, "-c", code, *map(str, QUICK), "--avg-bits", "4", *map(str, arguments)]


@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_with_the_same_recipe(run, tmp_path):
    """Killed without warning while processes measure for it, it leaves whole results and no process behind."""
    work, killed, complete = tmp_path / "work", tmp_path / "killed.yaml", tmp_path / "complete.yaml"
    child = subprocess.Popen(command("--recipe", killed, "--work-dir", work, "--workers", 2))
    deadline = time.monotonic() + 120
    while len(list(work.rglob("*@*.json"))) < 3:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not killed.exists()
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("*@*.json")}
    assert run(*QUICK, "--avg-bits", 4, "--recipe", killed, "--work-dir", work).code == 0
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    assert run(*QUICK, "--avg-bits", 4, "--recipe", complete).code == 0
    assert killed.read_bytes() == complete.read_bytes()
