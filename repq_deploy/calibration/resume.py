"""A folder in which a calibration saves its state from time to time, so that a killed calibration can resume.

Each calibration has one safetensors file, named by a hash of everything that decides its result. The file is removed
once the result has been written.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from repq_deploy.devices import device_of
from repq_deploy.errors import BadInput
from repq_deploy.quant.model import QuantizedModel
from repq_deploy.quant.structure import Structure, restore, structure_of
from repq_deploy.records import decode, parse_json
from repq_deploy.system.files import atomic_output, check_writable

__all__ = ["Mark", "WorkFolder"]

logger = logging.getLogger(__name__)

#: Seconds between two saves within a step.
INTERVAL = 30.0


@dataclass(frozen=True)
class Mark:
    """How far a calibration is: the number ``step`` of the current step, how much of that step is ``done``, and the
    ``extra`` tensors that it needs to resume."""

    step: int = 0
    done: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class WorkFolder:
    """Keeps the state of one calibration in ``folder``, which is made if it is missing; None keeps nothing.

    The caller calls ``finish`` once the result has been written. Until then the folder also keeps the state of a
    calibration that is complete.
    """

    model: QuantizedModel
    float_model: nn.Module

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.file: Path | None = None
        self.step = 0
        self._resumed = Mark()
        self._saved = time.monotonic()

    def open(self, key: str, model: QuantizedModel, reference: nn.Module) -> None:
        """Begin to keep the state of ``model`` and its float ``reference``; ``key`` is a hash of all that decides the
        result.

        Raises:
            BadInput: the folder cannot be made or written to.
        """
        self.model, self.float_model = model, reference
        if self.folder is None:
            return
        self.file = self.folder / f"calibration-{key[:24]}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"work folder {self.folder}: cannot be made ({error.strerror or error})") from error
        check_writable(self.file)

    def resume(self) -> int:
        """Load the saved state and return the step to resume with: 0 if there is no file, or a damaged one."""
        if self.file is None or not self.file.exists():
            return 0
        try:
            with safe_open(self.file, framework="pt") as opened:
                state = parse_json((opened.metadata() or {})["state"])
                of_model, of_reference = (decode(Structure, state[key], key) for key in ("model", "reference"))
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            logger.warning("work folder: %s is damaged (%s); the calibration begins again", self.file, error)
            return 0
        if sys.platform == "win32":  # a file that is mapped is neither replaced nor removed there
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        device = device_of(self.float_model)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "reference": {}, "extra": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = tensor
        restore(self.model.model, self.model.sites, of_model, parts["model"])
        restore(self.float_model, self.model.sites, of_reference, parts["reference"])
        self.model.model.to(device)
        self.float_model.to(device)
        self.step = state["step"]
        self._resumed = Mark(state["step"], state["done"], parts["extra"])
        return self.step

    def begin(self, step: int) -> None:
        """Note that ``step`` of the method begins and that all steps before it are done."""
        if step != self.step:
            self.step = step
            self.save(0)

    def complete(self, steps: int) -> None:
        """All ``steps`` are done: save that, and let go of both models."""
        self.begin(steps)
        del self.model, self.float_model

    def resumed(self) -> Mark:
        """The mark at which the current step resumes; ``done`` is 0 at its beginning. Only the first call gets it."""
        mark, self._resumed = self._resumed, Mark()
        return mark if mark.step == self.step else Mark(self.step)

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return self.file is not None and time.monotonic() - self._saved > INTERVAL

    def save(self, done: int, extra: Mapping[str, Tensor] | None = None) -> None:
        """Write the state to the file atomically; ``done`` is how much of the current step is done."""
        if self.file is None:
            return
        state = {
            "step": self.step,
            "done": done,
            "model": asdict(structure_of(self.model.model, self.model.sites)),
            "reference": asdict(structure_of(self.float_model, self.model.sites)),
        }
        parts = {
            "model": self.model.model.state_dict(),
            "reference": self.float_model.state_dict(),
            "extra": dict(extra or {}),
        }
        tensors = {
            f"{kind}/{name}": tensor.detach().clone(memory_format=torch.contiguous_format)
            for kind, named in parts.items()
            for name, tensor in named.items()
        }
        with atomic_output(self.file) as temporary:
            save_file(tensors, temporary, metadata={"state": json.dumps(state)})
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Remove the state: nothing of the calibration is needed any more."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
