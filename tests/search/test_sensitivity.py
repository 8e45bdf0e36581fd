"""Sensitivities: what is measured, that it is the same for any number of workers, and that a killed sweep resumes."""

import copy
import json

import pytest
import torch
from safetensors.torch import load

from repq_deploy.bits import BitWidths, SiteBits
from repq_deploy.models.families import find_sites
from repq_deploy.quant.model import wrap
from repq_deploy.quant.ranges import log2_finder, percentile_finder
from repq_deploy.search import sensitivity
from repq_deploy.search.sensitivity import bundle, sensitivities
from repq_deploy.search.space import parse_choices, search_sites
from tests.conftest import SPECS, float_model, images_for
from tests.models.windowed import images_of, model_of, spec_of


def space(family: str, choices: str = "3,8", preset: str = "paper"):
    model, images = float_model(family), images_for(family)
    sites = search_sites(model, find_sites(model), images[:1], choices=parse_choices(choices), preset=preset)
    return model, images, sites


def measure(family: str, choices: str = "3,8", **options):
    model, images, sites = space(family, choices)
    return sensitivities(model, SPECS[family], images, sites, preset="paper", **options)


def test_every_site_is_measured_and_fewer_bits_hurt_more(family):
    model, images, sites = space(family)
    before = copy.deepcopy(model.state_dict())
    found = sensitivities(model, SPECS[family], images, sites, preset="paper")
    assert set(found) == {(site.name, bits) for site in sites for bits in site.choices}
    low = sum(found[site.name, site.choices[0]] for site in sites)
    high = sum(found[site.name, site.choices[-1]] for site in sites)
    assert 0 < high < 0.1 * low
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["padded", "v2", "cr"])
def test_windows_are_measured_as_the_model_runs_them(name):
    """Padded tokens keep meaning zeros under the fold of one site, and q and k of cosine attention their 8 bits."""
    model, images = model_of(name), images_of(name)
    sites = search_sites(model, find_sites(model), images[:1], choices=parse_choices("3,8"), preset="paper")
    expected = model(images)
    found = sensitivities(model, spec_of(name), images, sites, preset="paper")
    for role in {site.role for site in sites}:
        low, high = (
            sum(found[site.name, site.choices[index]] for site in sites if site.role == role) for index in (0, -1)
        )
        assert 0 < high < 0.1 * low, role
    packed = load(bundle(model, spec_of(name), images, sites, preset="paper"))
    for site in sites:
        if site.role == "attention":
            few, many = (packed[f"range/{site.name}.q.{bits}.scale"] for bits in (3, 8))
            assert torch.equal(few, many) == (name != "padded")
    assert torch.equal(model(images), expected)


def install(wrapped, quantizers: dict) -> None:
    """Let only these of a wrapped model's quantizers quantize; the others hand their input on."""
    for name, module in list(wrapped.named_modules()):
        for leaf in [child for child, _ in module.named_children() if child.endswith("_quantizer")]:
            setattr(module, leaf, quantizers.get(f"{name}.{leaf}", torch.nn.Identity()))


@pytest.mark.parametrize("name", ["blocks.1.mlp.fc2", "blocks.0.attn"])
@torch.no_grad()
def test_a_measurement_is_the_squared_error_of_the_centred_logits_with_that_site_quantized(name):
    """Against a wrapped model, unfolded, with each quantizer of the site calibrated on float inputs."""
    model, images = float_model("vit"), images_for("vit")
    reference = model(images).double().numpy()
    wrapped = wrap(model, SPECS["vit"], BitWidths.parse("w3a3", preset="paper"), softmax="log_sqrt2")
    own = {
        path: m for path, m in wrapped.named_modules() if path.rpartition(".")[0] == f"model.{name}" and "quant" in path
    }
    assert len(own) == (4 if name.endswith("attn") else 2)
    for path, quantizer in own.items():
        axis = 0 if "weight" in path else None
        find = log2_finder(3, 2) if "p_quant" in path else percentile_finder(3, axis=axis)
        install(wrapped, {path: quantizer})
        adopt = quantizer.register_forward_pre_hook(lambda own, inputs, find=find: own.adopt(find(inputs[0])))
        wrapped(images)
        adopt.remove()
    install(wrapped, own)
    difference = wrapped(images).double().numpy() - reference
    expected = difference.var(axis=1).mean()
    assert measure("vit")[name, SiteBits(3, 3)] == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_ranges_are_those_of_the_first_batch_and_logits_those_of_all_images():
    model, images, sites = space("vit")
    many = torch.randn(35, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    found = load(bundle(model, SPECS["vit"], many, sites, preset="paper"))
    first = load(bundle(model, SPECS["vit"], many[:32], sites, preset="paper"))
    ranges = [name for name in found if name.startswith("range/")]
    assert len(ranges) > len(sites)
    assert all(torch.equal(found[name], first[name]) for name in ranges)
    torch.testing.assert_close(found["logits"], model(many))


def test_any_number_of_processes_gives_the_same_bits():
    assert measure("vit", workers=2) == measure("vit", workers=1)


def test_a_killed_sweep_resumes(tmp_path, monkeypatch):
    complete = measure("vit")

    def killed(done: int, _total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure("vit", work_dir=tmp_path, on_result=killed)
    kept = sorted(tmp_path.rglob("*.json"))
    assert len(kept) == 7
    assert not list(tmp_path.rglob("*.part"))
    done = []
    spread = sensitivity.spread

    def counted(factory, payload, items, **options):
        done.extend(items)
        return spread(factory, payload, items, **options)

    monkeypatch.setattr(sensitivity, "spread", counted)
    monkeypatch.setattr(sensitivity, "bundle", lambda *_, **__: pytest.fail("ranges were searched again"))
    assert measure("vit", work_dir=tmp_path) == complete
    assert len(done) == len(complete) - 7
    assert measure("vit", work_dir=tmp_path) == complete
    assert len(done) == len(complete) - 7


def test_a_damaged_measurement_is_made_again(tmp_path):
    complete = measure("vit", work_dir=tmp_path)
    for number, path in enumerate(sorted(tmp_path.rglob("*.json"))[:3]):
        path.write_text(("", "{}", '{"error": [1')[number])
    assert measure("vit", work_dir=tmp_path) == complete


def test_a_damaged_bundle_is_made_again(tmp_path):
    def killed(done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure("vit", "3,4", work_dir=tmp_path, on_result=killed)
    (bundle,) = tmp_path.rglob("bundle-*")
    bundle.write_bytes(bundle.read_bytes()[:1000])
    assert measure("vit", "3,4", work_dir=tmp_path) == measure("vit", "3,4")


def test_other_choices_do_not_reuse_ranges(tmp_path):
    """The patch embedding, whose input always has 8 bits, does not make up for those that are missing."""

    def killed(done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure("vit", "3,4", work_dir=tmp_path, on_result=killed)
    assert list(tmp_path.rglob("bundle-*"))
    assert measure("vit", "3,4,8", work_dir=tmp_path) == measure("vit", "3,4,8")


def test_other_weights_do_not_reuse_results(tmp_path):
    measure("vit", work_dir=tmp_path)
    model, images, sites = space("vit")
    model.head.weight.data *= 2
    sensitivities(model, SPECS["vit"], images, sites, preset="paper", work_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    values = [json.loads(path.read_text())["error"] for path in tmp_path.rglob("blocks.0.attn.qkv@w3a3.json")]
    assert len(set(values)) == 2
