"""Lists of steps that make no engine are refused, and the message names the step that is missing."""

import pytest

from repq_deploy.bits import BitWidths
from repq_deploy.calibrate import calibrate
from repq_deploy.errors import BadInput
from repq_deploy.methods import Method
from repq_deploy.steps import step
from tests.conftest import SPECS, float_model, images_for, quantized_model

FLOAT_WEIGHTS = step("ranges", weights=False)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((), "without a scale; list the steps ranges, fold"),
        ((FLOAT_WEIGHTS, step("fold")), "weight without a scale"),
        ((step("ranges"),), "8-bit zero point .* fold"),
        ((FLOAT_WEIGHTS, step("weights")), "has a scale for each channel, .* list fold before weights"),
        ((step("ranges"), step("reconstruct")), "list fold before reconstruct"),
        ((FLOAT_WEIGHTS, step("fold"), step("dual_clip")), "step dual_clip: .* list it before fold"),
        ((step("ranges", post_norm="tensor"), step("dual_clip")), "step dual_clip: .* list it before fold"),
        ((step("ranges"), step("fold"), step("ranges")), "have their ranges already"),
        ((step("weights"),), "step weights: .* has no scale yet; list ranges before weights"),
        ((FLOAT_WEIGHTS, step("fold"), step("reconstruct")), "list ranges and weights before reconstruct"),
        ((step("ranges"), step("rotate"), step("fold")), "step rotate: .* list it before ranges"),
        ((step("ranges"), step("fold"), step("center")), "step center: .* list it before ranges"),
    ],
    ids=[
        "none",
        "weights",
        "fold",
        "weights early",
        "training early",
        "clip late",
        "clip",
        "twice",
        "early",
        "too early",
        "rotate late",
        "center late",
    ],
)
def test_steps_that_do_not_fit_are_refused(steps, message):
    method = Method("mine", "log_sqrt2", steps)
    with pytest.raises(BadInput, match=message):
        calibrate(float_model("vit"), SPECS["vit"], images_for("vit"), bits=BitWidths.parse("w4a4"), method=method)


def test_channels_that_were_not_folded_are_named():
    # Nothing has 8 bits here, so channels are all that can be wrong.
    bits = BitWidths.parse("w4a4,patch_embed=w4a4,head=w4a4")
    with pytest.raises(
        BadInput, match=r"blocks\.0\.attn\.qkv\.input with a scale for each channel; list the step fold"
    ):
        calibrate(
            float_model("vit"),
            SPECS["vit"],
            images_for("vit"),
            bits=bits,
            method=Method("mine", "log_sqrt2", (step("ranges"),)),
        )


@pytest.mark.parametrize(
    ("family", "expected"),
    [("vit", ()), ("swin", ("residual stream not rotated: it has no one form that every writer and reader shares",))],
)
def test_what_the_architecture_refuses_is_kept_with_the_model(family, expected):
    method = Method("mine", "log2", (step("rotate"), step("center"), step("ranges"), step("fold")))
    assert quantized_model(family, "w8a8", method=method).provenance.refused == expected
