"""What the steps of a method work on: the model, its float reference, the images, and a walk through both models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repq_deploy.calibration.resume import WorkFolder
from repq_deploy.devices import device_of
from repq_deploy.errors import BadInput
from repq_deploy.hooks import hooks
from repq_deploy.models.families import stages
from repq_deploy.models.sites import LinearSite, Stage, forward_through
from repq_deploy.quant.layers import QuantConv2d, QuantLinear
from repq_deploy.quant.model import QuantizedModel

__all__ = [
    "BATCH",
    "Calibration",
    "Position",
    "Report",
    "captured_inputs",
    "channel_wise",
    "forward_in_batches",
    "refuse_scales",
    "require_folded",
    "require_scales",
    "walk",
]

#: Images that go through a model at once.
BATCH = 32

#: Called with what is being done, how much of it is done, and how much there is.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Calibration:
    """A calibration under way.

    Attributes:
        model: the model that is quantized, in place.
        float_model: the float model it started from, with the same module names. It is rotated and centred like
            ``model``, and never quantized.
        images: normalized images [N, 3, H, W], float32, on the CPU; batches of them go to the models' device.
        seed: the seed of everything random.
        report: the callback of the progress bar.
        work: the folder that keeps the state, so that a killed calibration can resume.
    """

    model: QuantizedModel
    float_model: nn.Module
    images: Tensor
    seed: int
    report: Report
    work: WorkFolder

    @property
    def device(self) -> torch.device:
        """Where both models are."""
        return device_of(self.float_model)


def require_scales(run: Calibration, step: str, *, weights: bool) -> None:
    """Refuse a ``step`` of a recipe while an activation, or with ``weights`` also a weight, has no scale yet.

    Raises:
        BadInput: naming a quantizer without a scale.
    """
    for name, quantizer in run.model.quantizers().items():
        if not quantizer.calibrated and (weights or not quantizer.is_weight):
            raise BadInput(f"step {step}: {name} has no scale yet; list ranges{' and weights' * weights} before {step}")


def channel_wise(layer: QuantLinear | QuantConv2d) -> bool:
    """Whether the layer's input has a scale for each channel, which ``fold`` has not moved yet."""
    return layer.input_quantizer.axis is not None


def require_folded(run: Calibration, step: str) -> None:
    """Refuse a ``step`` that fits weights to their inputs while ``fold`` would still change both.

    Raises:
        BadInput: naming a layer whose input has a scale for each channel.
    """
    if name := next((site.name for site, layer, _ in run.model.linears() if channel_wise(layer)), None):
        raise BadInput(f"step {step}: {name} has a scale for each channel, which fold moves; list fold before {step}")


def refuse_scales(run: Calibration, step: str) -> None:
    """Refuse a ``step`` that changes what the scales were found for.

    Raises:
        BadInput: naming a quantizer that has its scale.
    """
    if name := next((name for name, quantizer in run.model.quantizers().items() if quantizer.calibrated), None):
        raise BadInput(f"step {step}: {name} has its scale already, which {step} would spoil; list it before ranges")


@dataclass(frozen=True)
class Position:
    """One stop of the walk: a stage of both models, each with the inputs [N, ...] that its earlier stages compute."""

    stage: Stage
    float_stage: Stage
    inputs: Tensor
    float_inputs: Tensor
    device: torch.device

    def linears(self, model: QuantizedModel) -> list[tuple[LinearSite, QuantLinear | QuantConv2d]]:
        """The linear sites of this stage, in the order of its forward pass, with their layers."""
        return [(site, layer) for site, layer, _ in model.linears() if self.stage.holds(site.name)]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the inputs of both models, as pairs, on the models' device."""
        for ours, theirs in zip(self.inputs.split(BATCH), self.float_inputs.split(BATCH), strict=True):
            yield ours.to(self.device), theirs.to(self.device)


@torch.no_grad()
def walk(run: Calibration, doing: str, *, images: int | None = None) -> Iterator[Position]:
    """Visit the stages in forward order, so that the caller can change one stage at a time.

    The inputs of a stage are computed by the stages before it as the caller has left them. So a stage sees the error of
    all changes before it and can make up for it. Memory holds the inputs of one stage, for all images. A walk that was
    killed begins at the stage that it had reached. ``images`` is how many are looked at, at most; None for all.
    """
    theirs = stages(run.float_model)
    inputs = float_inputs = run.images[:images]
    done = run.work.resumed().done
    for index, (stage, reference) in enumerate(zip(stages(run.model.model), theirs, strict=True)):
        run.report(doing, index, len(theirs))
        if index >= done:
            yield Position(stage, reference, inputs, float_inputs, run.device)
            if run.work.due:
                run.work.save(index + 1)
        inputs = forward_in_batches([stage], inputs, run.device)
        float_inputs = forward_in_batches([reference], float_inputs, run.device)
    run.report(doing, len(theirs), len(theirs))


@torch.no_grad()
def forward_in_batches(unit: Sequence[Stage], inputs: Tensor, device: torch.device) -> Tensor:
    """The outputs of consecutive stages for all ``inputs``, which go to ``device`` a batch at a time."""
    return torch.cat([forward_through(unit, batch.to(device)) for batch in inputs.split(BATCH)])


class _Captured(Exception):
    """Everything asked for was seen; the rest of the stage need not run."""


def captured_inputs(stage: Stage, x: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    """Run a stage on ``x`` and return the inputs of its ``modules``, which are in the order of its forward pass."""
    captured: list[Tensor] = []

    def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured.append(inputs[0])
        if module is modules[-1]:
            raise _Captured

    with hooks(module.register_forward_pre_hook(capture) for module in modules), contextlib.suppress(_Captured):
        stage.forward(x)
    return captured
