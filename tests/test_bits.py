import pytest

from repq_deploy.bits import BitWidths, SiteBits, smallest_activation_bits
from repq_deploy.errors import BadInput


def test_overrides_win_in_order_over_default_and_preset():
    bits = BitWidths.parse("w4a6, head=w6a6, blocks.0.*=w8a8, blocks.0.mlp.fc2=w2a3")
    assert bits.of("blocks.1.attn.qkv", "qkv") == SiteBits(4, 6)
    assert bits.of("head", "head") == SiteBits(6, 6)
    assert bits.of("blocks.0.attn.qkv", "qkv") == SiteBits(8, 8)
    assert bits.of("blocks.0.mlp.fc2", "fc2") == SiteBits(2, 3)


def test_presets_differ_in_patch_embed_head_and_symmetry():
    deploy, paper = BitWidths.parse("w4a4"), BitWidths.parse("w4a4", preset="paper")
    assert deploy.of("patch_embed.proj", "patch_embed") == SiteBits(8, 8)
    assert paper.of("patch_embed.proj", "patch_embed") == SiteBits(4, 8)
    assert deploy.of("head", "head") == SiteBits(8, 8)
    assert paper.of("head", "head") == SiteBits(4, 4)
    assert deploy.symmetric_weights(4)
    assert not paper.symmetric_weights(4)
    assert paper.symmetric_weights(8)


def test_round_trip():
    bits = BitWidths.parse("w4a4,head=w8a8", preset="paper")
    assert BitWidths.parse(str(bits), preset=bits.preset) == bits


def test_unmatched_overrides_are_found():
    bits = BitWidths.parse("w4a4,haed=w8a8,fc1=w8a8")
    assert bits.unmatched([("head", "head"), ("blocks.0.mlp.fc1", "fc1")]) == ["haed"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w9a4", "weight width 9 is outside 2 to 8"),
        ("w4a1", "activation width 1 is outside"),
        ("4", "not of the form wXaY"),
        ("w4a4,head", "not PATTERN=wXaY"),
        ("w4a4,head=8", "not of the form"),
        ("", "not of the form"),
    ],
)
def test_bad_text_is_refused(text, message):
    with pytest.raises(BadInput, match=message):
        BitWidths.parse(text)


def test_unknown_preset_is_refused():
    with pytest.raises(BadInput, match="expected one of deploy, paper"):
        BitWidths.parse("w4a4", preset="fast")


@pytest.mark.parametrize(
    ("bits", "expected"), [("w8a8", 8), ("w4a4,head=w8a8", 4), ("w8a8,blocks.0.*=w4a3", 3), ("", 8)]
)
def test_smallest_activation_bits(bits: str, expected: int):
    assert smallest_activation_bits(bits) == expected
