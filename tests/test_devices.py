"""Calibration and search on another device than the CPU: nothing is made on a fixed one, draws do not depend on it.

The device is emulated (``other_device``); with a GPU at hand, ``benchmarks/gpu/calibrate.py`` is the same on CUDA.
"""

import contextlib

import pytest
import torch

from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import calibrate
from repq_deploy.devices import CPU, find_device
from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.methods import Method, find_method
from repq_deploy.models.families import find_sites
from repq_deploy.search.relevance import relevance_shares
from repq_deploy.search.sensitivity import sensitivities
from repq_deploy.search.space import parse_choices, search_sites
from repq_deploy.steps import step
from tests.conftest import SPECS, float_model, images_for
from tests.other_device import DEVICE, OtherDevice

FLOAT_WEIGHTS, FOLD = step("ranges", weights=False), step("fold")


def training(**options: object) -> Method:
    return Method("trained", "log_sqrt2", (step("ranges"), FOLD, step("reconstruct", epochs=1, batch=2, **options)))


METHODS = {
    **{name: find_method(name) for name in ("percentile", "minmax", "repq", "erq", "mixq", "best")},
    "refined": Method("refined", "tan", (FLOAT_WEIGHTS, FOLD, step("weights", rounding="refined", ridge=0.1))),
    "clipped": Method("clipped", "log2", (FLOAT_WEIGHTS, step("dual_clip", steps=3), FOLD, step("weights"))),
    "gelu": Method("gelu", "adalog", (step("ranges", gelu="adalog"), FOLD, step("bias_correction"))),
    "float prefix": Method("prefix", "uniform", (FLOAT_WEIGHTS, FOLD, step("weights", prefix="float"))),
    "block": training(unit="block", loss="mse", drop=0.5),
    "fisher": training(unit="block", loss="fisher"),
    "model": training(unit="model", loss="feature"),
}


@pytest.fixture
def other_device(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_: contextlib.nullcontext())  # none for a device like this
    with OtherDevice():
        yield DEVICE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "family"),
    [*((method, "vit") for method in METHODS.values()), (METHODS["repq"], "swin"), (METHODS["best"], "dinov2")],
    ids=[*METHODS, "swin", "dinov2"],
)
def test_a_calibration_elsewhere_is_the_calibration_here(method, family, other_device):
    """But for what the last bit moves: sums in another order, and with them a rounding here and there."""
    arguments = (SPECS[family], images_for(family, 2))
    bits = BitWidths.parse("w4a4")
    here = calibrate(float_model(family), *arguments, bits=bits, method=method).model.state_dict()
    model = calibrate(float_model(family), *arguments, bits=bits, method=method, device=other_device)
    there = model.model.state_dict()
    assert {type(tensor) for tensor in there.values()} == {torch.Tensor}  # back on the CPU
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        apart = (there[name] - tensor).norm() / tensor.norm().clamp_min(1e-3)
        assert apart < 0.05, f"{name} is {float(apart):.2g} apart"


def test_the_emulated_device_meets_no_cpu_tensor(other_device):
    there = torch.ones(3).to(other_device)
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    assert float((there + 1).cpu().sum()) == 6


@pytest.mark.slow
def test_a_search_elsewhere_is_the_search_here(other_device):
    model, images = float_model("vit"), images_for("vit")
    structure = find_sites(model)
    sites = search_sites(model, structure, images[:1], choices=parse_choices("4,8"), preset="paper")
    measured = [
        sensitivities(model, SPECS["vit"], images, sites, preset="paper", device=device)
        for device in (CPU, other_device)
    ]
    assert measured[1] == pytest.approx(measured[0], rel=1e-2)
    here = relevance_shares(model, structure, images)
    there = relevance_shares(model.to(other_device), structure, images)
    assert there == pytest.approx(here, rel=1e-5)


def test_names_of_devices():
    assert find_device("cpu") == CPU
    assert find_device("auto") in (CPU, torch.device("cuda"))
    for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "meta", "cpu:0", ""):
        with pytest.raises(BadInput, match="expected cpu, cuda"):
            find_device(name)
    with pytest.raises(BackendMissing, match=r"cuda:999: torch .* finds .* use --device cpu"):
        find_device("cuda:999")
