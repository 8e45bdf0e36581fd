import onnx
import pytest
import torch

from repq_deploy.search.search import Limits, open_search
from repq_deploy.search.space import parse_choices
from tests.conftest import SPECS, exported, images_for


@pytest.mark.parametrize("preset", ["deploy", "paper"])
def test_the_size_that_is_spent_is_what_the_file_stores(family, preset, monkeypatch):
    """But for shapes and activations' scales, which are nothing on a model of full size."""
    monkeypatch.setattr("repq_deploy.search.search.load_sample", _sample(family))
    limits = Limits(megabytes=1.0)
    choices = parse_choices("4,8")
    search = open_search(
        SPECS[family], None, choices=choices, limits=limits, preset=preset, calib_data="", num_calib=1, seed=0
    )
    everywhere = {site.name: next(bits for bits in site.choices if bits.weight == 4) for site in search.sites}
    spent = 1e6 * search.budgets[0].spent(search.sites, everywhere)

    graph = exported(family, "w4a4", preset=preset).graph
    stored = sum(
        onnx.numpy_helper.to_array(constant).nbytes
        if constant.data_type not in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
        else len(constant.raw_data)
        for constant in graph.initializer
        if constant.dims and constant.data_type != onnx.TensorProto.INT64
    )
    assert stored == pytest.approx(spent, rel=0.03)  # INT4 has zero points of half a byte


@pytest.mark.parametrize("preset", ["deploy", "paper"])
def test_bit_operations_count_the_sites_that_stay_at_8_bits(family, preset, monkeypatch):
    monkeypatch.setattr("repq_deploy.search.search.load_sample", _sample(family))
    search = open_search(
        SPECS[family],
        None,
        choices=parse_choices("4,8"),
        limits=Limits(giga_bit_operations=1.0),
        preset=preset,
        calib_data="",
        num_calib=1,
        seed=0,
    )
    everywhere = {site.name: site.choices[-1] for site in search.sites}
    model = search.model
    macs = 0

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += module.weight[0].numel() * output.numel()

    for site in search.structure.linears:
        model.get_submodule(site.name).register_forward_hook(count)
    with torch.no_grad():
        model(search.images[:1])
    attention = sum(site.macs for site in search.sites if site.role == "attention")
    assert 1e9 * search.budgets[0].spent(search.sites, everywhere) == pytest.approx(64 * (macs + attention), rel=1e-12)


def _sample(family: str):
    class Sample:
        pixels = images_for(family, 1).numpy()

    return lambda *_, **__: Sample
