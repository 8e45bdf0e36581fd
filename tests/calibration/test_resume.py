import gc
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import calibrate
from repq_deploy.calibration.resume import WorkFolder
from repq_deploy.errors import BadInput
from repq_deploy.methods import Method
from repq_deploy.steps import step
from tests.conftest import SPECS, float_model, images_for, quantized_model

METHOD = Method(
    "test",
    "log_sqrt2",
    (
        step("rotate"),
        step("center"),
        step("ranges", weights=False),
        step("fold"),
        step("weights", ridge=1.0, rounding="gptq"),
        # Rates at which the training shows: weights move by grid steps, all else by per cents.
        step("reconstruct", unit="block", epochs=3, batch=2, weight_rate=0.5, scale_rate=0.02),
        step("reconstruct", unit="model", epochs=3, batch=2, weight_rate=0.5, scale_rate=0.02),
    ),
)


BLOCKS = Method(
    "blocks",
    "log_sqrt2",
    (
        step("ranges", find="minmax", attention="head", gelu="adalog", weights=False),
        step("fold"),
        step("weights", rounding="adaround"),
        step("bias_correction"),
    ),
)


CLIPPED = Method(
    "clipped",
    "log_sqrt2",
    (step("ranges", weights=False), step("dual_clip", steps=5), step("fold"), step("weights")),
)


class Killed(Exception):
    pass


def run(folder, *, die_at: int | None = None, method: Method = METHOD, seed: int = 0):
    """The calibration, killed at its ``die_at``-th report."""
    reports = 0

    def report(*_: object) -> None:
        nonlocal reports
        reports += 1
        if reports == die_at:
            raise Killed

    bits, work = BitWidths.parse("w4a4"), WorkFolder(folder)
    model = calibrate(
        float_model("vit"),
        SPECS["vit"],
        images_for("vit"),
        bits=bits,
        method=method,
        seed=seed,
        work=work,
        report=report,
    )
    return model, reports


@pytest.fixture(scope="module")
def whole():
    """The state at the end, that before the training, and how often is reported."""
    model, reports = run(None)
    untrained, _ = run(None, method=replace(METHOD, steps=METHOD.steps[:-2]))
    return model.model.state_dict(), untrained.model.state_dict(), reports


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.7, 0.8, 0.95])
def test_a_killed_calibration_goes_on_and_ends_the_same(monkeypatch, tmp_path, whole, share):
    monkeypatch.setattr("repq_deploy.calibration.resume.INTERVAL", 0.0)
    expected, untrained, reports = whole
    with pytest.raises(Killed):
        run(tmp_path, die_at=int(share * reports))
    assert len(list(tmp_path.iterdir())) == 1
    model, left = run(tmp_path)
    assert left < reports or share < 0.3  # the first steps are saved as a whole
    found = model.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        moved = (tensor - untrained[name]).norm()
        assert (found[name] - tensor).norm() <= 0.01 * moved + 1e-6 * tensor.norm(), name
    assert (expected["blocks.1.mlp.fc1.weight"] != untrained["blocks.1.mlp.fc1.weight"]).any()


@pytest.mark.parametrize("method", [METHOD, BLOCKS], ids=["vectors", "structure"])
def test_a_complete_calibration_is_kept_until_its_result_is_safe(tmp_path, method):
    whole, _ = run(tmp_path, method=method)
    model, left = run(tmp_path, method=method)
    assert left == 0
    found, expected = model.model.state_dict(), whole.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_clipping_draws_the_same_rows_when_it_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr("repq_deploy.calibration.resume.INTERVAL", 0.0)
    whole, reports = run(None, method=CLIPPED)
    walked = 5  # reports of each of the walks of dual_clip and weights, at the end
    with pytest.raises(Killed):
        run(tmp_path, die_at=reports - 2 * walked + 3, method=CLIPPED)
    model, left = run(tmp_path, method=CLIPPED)
    assert left < reports
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(model.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("share", [0.7, 0.8, 0.95])
def test_structure_that_a_step_changed_is_taken_up(monkeypatch, tmp_path, share):
    """Logarithmic quantizers, scales by head, biases and the kind of search."""
    monkeypatch.setattr("repq_deploy.calibration.resume.INTERVAL", 0.0)
    whole, reports = run(None, method=BLOCKS)
    with pytest.raises(Killed):
        run(tmp_path, die_at=int(share * reports), method=BLOCKS)
    model, left = run(tmp_path, method=BLOCKS)
    assert left < reports
    expected, found = whole.model.state_dict(), model.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    kinds = [[getattr(q, "range_kind", None) for q in each.quantizers().values()] for each in (whole, model)]
    assert kinds[0] == kinds[1]
    assert "minmax" in kinds[0]


def test_another_seed_does_not_take_up_the_state(monkeypatch, tmp_path):
    monkeypatch.setattr("repq_deploy.calibration.resume.INTERVAL", 0.0)
    with pytest.raises(Killed):
        run(tmp_path, die_at=12)
    (state,) = tmp_path.iterdir()
    before = state.read_bytes()
    _, whole = run(None, seed=1)
    _, reports = run(tmp_path, seed=1)
    assert reports == whole
    assert state.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch):
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", denied)
    with pytest.raises(BadInput, match=r"cannot write into .*Permission denied"):
        run(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped is told by /proc")
@pytest.mark.parametrize(("system", "mapped"), [("linux", True), ("win32", False)])
def test_windows_does_not_keep_the_file_mapped(tmp_path, monkeypatch, system, mapped):
    """There it could be neither replaced nor removed."""
    model = quantized_model("vit")
    work = WorkFolder(tmp_path)
    work.open("key", model, float_model("vit"))
    work.begin(1)
    expected = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    again = WorkFolder(tmp_path)
    again.open("key", quantized_model("vit"), float_model("vit"))
    monkeypatch.setattr(sys, "platform", system)
    assert again.resume() == 1
    gc.collect()
    assert (str(again.file) in Path("/proc/self/maps").read_text()) is mapped
    found = again.model.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_damaged_state_is_said_and_done_again(tmp_path, monkeypatch, caplog, whole):
    monkeypatch.setattr("repq_deploy.calibration.resume.INTERVAL", 0.0)
    with pytest.raises(Killed):
        run(tmp_path, die_at=12)
    (state,) = tmp_path.iterdir()
    state.write_bytes(state.read_bytes()[:100])
    model, reports = run(tmp_path)
    assert "is damaged" in caplog.text
    assert "the calibration begins again" in caplog.text
    expected, _, all_reports = whole
    assert reports == all_reports
    assert all(torch.equal(found, expected[name]) for name, found in model.model.state_dict().items())
