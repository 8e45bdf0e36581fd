"""The step that trains a quantized model to give the float model's outputs again, from unlabelled images.

Units are trained one after the other; a unit is a block, as in BRECQ and QDrop, or the whole model. Straight-through
gradients move the weights, biases, norms and scales of a unit, so that its output behind the quantized units before it
is that of the float model. Zero points stay.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repq_deploy.bits import MAX_BITS
from repq_deploy.calibration.losses import LOSSES, Loss
from repq_deploy.calibration.run import BATCH, Calibration, forward_in_batches, require_folded, require_scales
from repq_deploy.errors import BadInput
from repq_deploy.hooks import hooks
from repq_deploy.models.families import stages
from repq_deploy.models.sites import Stage
from repq_deploy.quant.layers import QuantConv2d, QuantLinear
from repq_deploy.quant.quantizers import Quantizer, UniformQuantizer

__all__ = ["reconstruct"]

logger = logging.getLogger(__name__)

#: Steps over which the learning rates rise to their full size.
WARM_UP = 10


def reconstruct(
    run: Calibration,
    *,
    unit: Literal["block", "model"] = "model",
    loss: Literal["mse", "fisher", "feature"] = "feature",
    epochs: float = 20,
    batch: int = BATCH,
    micro_batch: int = 8,
    weight_rate: float = 1e-2,
    scale_rate: float = 1e-3,
    drop: float = 0.0,
    below: int = MAX_BITS + 1,
) -> None:
    """Train every unit, one after the other.

    Args:
        unit: what is trained at once: a stage of the model, or all of it.
        loss: see ``repq_deploy.calibration.losses``.
        epochs: passes over the images, for each unit.
        batch: images in each step of the optimizer (Adam, cosine decay).
        micro_batch: images that go through the unit at once; bounds the memory (with 8, DeiT-B and 1,024 images
            stay below 8 GB).
        weight_rate: the learning rate of weights, in units of their grid.
        scale_rate: the learning rate of scales, biases and norms, relative to the mean size of their tensor. A scale
            stays at least as large as this rate.
        drop: probability that an element skips its activation quantizer while training (QDrop).
        below: a unit whose quantizers all have this many bits or more is not trained. Where rounding errors are small,
            fitting the calibration images can cost other images more than it gains (ViT-S/14 at w6a6).
    """
    if drop > 1:
        raise BadInput(f"step reconstruct: drop is {drop}, expected a probability of at most 1")
    require_scales(run, "reconstruct", weights=True)
    require_folded(run, "reconstruct")
    ours, theirs = stages(run.model.model), stages(run.float_model)
    groups = [range(len(ours))] if unit == "model" else [range(i, i + 1) for i in range(len(ours))]
    generator = torch.Generator().manual_seed(run.seed)
    inputs = float_inputs = run.images
    steps = max(1, round(epochs * len(inputs) / batch))
    way = weight_rate * sum(_rate(step, steps) for step in range(steps))
    if way < 0.5 and _fewest_bits(run, ours) < below:
        logger.warning(
            "step reconstruct: in %d steps a weight moves by at most %.2g of its grid, and 0.5 changes a code; more "
            "images (now %d) or epochs (%g) make more steps",
            steps,
            way,
            len(inputs),
            epochs,
        )
    mark = run.work.resumed()
    for index, group in enumerate(groups):
        ours_here, theirs_here = [ours[i] for i in group], [theirs[i] for i in group]
        if index >= mark.done and _fewest_bits(run, ours_here) < below:
            measure = LOSSES[loss](theirs_here, theirs[group.stop :], float_inputs, run.device)
            _train(
                run,
                ours_here,
                measure,
                inputs,
                generator,
                steps=steps,
                batch=batch,
                micro_batch=micro_batch,
                weight_rate=weight_rate,
                scale_rate=scale_rate,
                drop=drop,
                index=index,
                saved=mark.extra if index == mark.done else {},
                doing="reconstructing" if unit == "model" else f"reconstructing {ours_here[0].name}",
            )
        if group.stop < len(ours):
            inputs = forward_in_batches(ours_here, inputs, run.device)
            float_inputs = forward_in_batches(theirs_here, float_inputs, run.device)


def _fewest_bits(run: Calibration, unit: Sequence[Stage]) -> int:
    """The fewest bits of a quantizer in the unit; 0 where it has none, as norms are trained all the same."""
    quantizers = run.model.quantizers().items()
    return min((q.bits for name, q in quantizers if any(stage.holds(name) for stage in unit)), default=0)


def _train(
    run: Calibration,
    unit: Sequence[Stage],
    measure: Loss,
    inputs: Tensor,
    generator: torch.Generator,
    *,
    steps: int,
    batch: int,
    micro_batch: int,
    weight_rate: float,
    scale_rate: float,
    drop: float,
    index: int,
    saved: Mapping[str, Tensor],
    doing: str,
) -> None:
    groups = _groups(run.model.model, unit, weight_rate, scale_rate)
    if not groups:  # a stage without parameters of its own
        return
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    order = torch.empty(0, dtype=torch.long)
    first = 0
    if saved:
        first, order = int(saved["step"]), saved["order"]
        generator.set_state(saved["generator"])
        _restore(optimizer, schedule, saved, first)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quantizing_in_float32(run.model.model))
        if drop > 0:
            stack.enter_context(_dropping(run.model.model, unit, drop, generator))
        for step in range(first, steps):
            run.report(doing, step, steps)
            if step > first and run.work.due:
                position = {"step": torch.tensor(step), "order": order, "generator": generator.get_state()}
                run.work.save(index, {**position, **_moments(optimizer)})
            if len(order) < batch:
                order = torch.cat([order, torch.randperm(len(inputs), generator=generator)])
            chosen, order = order[:batch], order[batch:]
            optimizer.zero_grad()
            for part in chosen.split(micro_batch):
                # Products in bfloat16 are faster; quantizers, norms and losses stay in float32.
                with torch.autocast(run.device.type, torch.bfloat16):
                    outputs = _outputs(unit, inputs[part].to(run.device))
                error = measure(outputs, part)
                if not torch.isfinite(error):
                    raise BadInput(
                        f"step reconstruct: the training diverged ({doing}, step {step} of {steps}: the loss is "
                        f"{error.item()}); give it a lower weight_rate (now {weight_rate:g}) or scale_rate "
                        f"({scale_rate:g})"
                    )
                (error * (len(part) / len(chosen))).backward()
            optimizer.step()
            for group in groups:
                if group["positive"]:
                    group["params"][0].data.clamp_(min=group["initial_lr"])
            schedule.step()
    run.report(doing, steps, steps)
    for group in groups:
        group["params"][0].requires_grad_(False).grad = None


def _rate(step: int, steps: int) -> float:
    """The learning rate at a step, in parts of its full size: a warm-up, and a cosine to zero."""
    return 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / WARM_UP)


def _outputs(unit: Sequence[Stage], x: Tensor) -> list[Tensor]:
    """The output of every stage of the unit, in float32."""
    values = itertools.accumulate(unit, lambda value, stage: stage.forward(value), initial=x)
    return [value.float() for value in itertools.islice(values, 1, None)]


def _moments(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Adam's state, by the number of the parameter, and the learning rates it began with."""
    rates = torch.tensor([group["initial_lr"] for group in optimizer.param_groups], dtype=torch.float64)
    states = (optimizer.state[group["params"][0]] for group in optimizer.param_groups)
    names = ("exp_avg", "exp_avg_sq")
    return {"rates": rates} | {f"{i}.{name}": state[name] for i, state in enumerate(states) for name in names}


def _restore(optimizer: torch.optim.Adam, schedule: Any, saved: Mapping[str, Tensor], step: int) -> None:
    for number, group in enumerate(optimizer.param_groups):
        parameter = group["params"][0]
        moments = {name: saved[f"{number}.{name}"].to(parameter.device) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
        group["initial_lr"] = float(saved["rates"][number])
        group["lr"] = group["initial_lr"] * schedule.lr_lambdas[0](step)
    schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    schedule.last_epoch = step


def _groups(model: nn.Module, unit: Sequence[Stage], weight_rate: float, scale_rate: float) -> list[dict[str, Any]]:
    """One parameter group for each tensor that is trained, its learning rate in proportion to what it holds."""
    groups: list[dict[str, Any]] = []

    def train(parameter: Tensor, rate: float, *, positive: bool = False) -> None:
        groups.append({"params": [parameter.requires_grad_()], "lr": rate, "positive": positive})

    for name, module in model.named_modules():
        if not any(stage.holds(name) for stage in unit):
            continue
        if isinstance(module, UniformQuantizer):
            train(module.scale, scale_rate * float(module.scale.mean()), positive=True)
        elif isinstance(module, QuantLinear | QuantConv2d):
            train(module.weight, weight_rate * float(module.weight_quantizer.scale.mean()))
            if module.bias is not None:
                train(module.bias, scale_rate * float(module.bias.abs().mean()))
        elif (
            isinstance(scale := getattr(module, "weight", None), nn.Parameter) and scale.ndim == 1
        ):  # norms of any kind
            for parameter in (scale, getattr(module, "bias", None)):
                if parameter is not None:
                    train(parameter, scale_rate * float(parameter.abs().mean()))
    return groups


@contextlib.contextmanager
def _quantizing_in_float32(model: nn.Module) -> Iterator[None]:
    """Give quantizers float32: in bfloat16, which has 8 bits, their codes would be others than the exported graph's."""
    with hooks(
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        for module in model.modules()
        if isinstance(module, Quantizer)
    ):
        yield


@contextlib.contextmanager
def _dropping(model: nn.Module, unit: Sequence[Stage], drop: float, generator: torch.Generator) -> Iterator[None]:
    """QDrop (arXiv 2203.05740): each element skips its activation quantizer with probability ``drop``."""

    def mix(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        dropped = torch.rand(output.shape, generator=generator) < drop  # drawn on the CPU: the same on every device
        return torch.where(dropped.to(output.device), inputs[0], output)

    with hooks(
        module.register_forward_hook(mix)
        for name, module in model.named_modules()
        if isinstance(module, Quantizer) and not module.is_weight and any(stage.holds(name) for stage in unit)
    ):
        yield
