"""An engine that is ready to serve: opened once for each worker, and proven on this machine before it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from repq_deploy.engines.batching import Runner
from repq_deploy.engines.manifest import Manifest, read_manifest
from repq_deploy.engines.prove_engine import PASSED, compare_each
from repq_deploy.engines.reference import Reference, read_reference, run_batches
from repq_deploy.engines.runner import check_engine, load_engine
from repq_deploy.errors import BadInput, ValidationFailed, one_line
from repq_deploy.export.names import recorded_task
from repq_deploy.serve.answers import Answer, Wanted, answers, check_wanted
from repq_deploy.serve.batching import Batcher
from repq_deploy.serve.refusals import Reason, Refused
from repq_deploy.serve.settings import ServeSettings, session_options
from repq_deploy.serve.tensors import Tensor, images_of, input_metadata, output_metadata
from repq_deploy.system.files import existing_file

__all__ = ["Observe", "ServedModel", "check_files", "open_model"]

#: Called after each batch with its number of images and the seconds that the engine took.
Observe = Callable[[int, float], None]

#: Digits of the engine's SHA-256 that are its version.
_VERSION_DIGITS = 12


class ServedModel:
    """One version of a model, under the name that clients call it by.

    Attributes:
        version: the first digits of the SHA-256 of the engine's file, so that it is the same on every machine.
        input, outputs: what it takes and gives.
        largest: the most images that one request may have.
        classes: the names of a classifier's outputs; empty where they are not known.
    """

    def __init__(self, name: str, manifest: Manifest, batcher: Batcher) -> None:
        self.name, self.manifest, self.batcher = name, manifest, batcher
        self.version = manifest.engine.sha256[:_VERSION_DIGITS]
        self.input = input_metadata(manifest)
        self.outputs = output_metadata(manifest.named)
        self.largest = manifest.profile.max
        self.classes = manifest.class_names
        self._named = manifest.named

    async def infer(self, tensors: Sequence[Tensor], wanted: Sequence[Wanted], *, binary: bool) -> list[Answer]:
        """The outputs that are ``wanted``, or all of them, ``binary`` or not, for the inputs that a client sent.

        Raises:
            Refused: other inputs than it takes, outputs that it has not, or too many wait already.
            Closed: another version has taken this one's place; ask that.
        """
        wanted = wanted or [Wanted(each.name, binary=binary) for each in self.outputs]
        check_wanted(wanted, self._named.shapes)
        waiting = self.batcher.submit(images_of(tensors, self.input, self.largest))
        try:
            rows = await asyncio.wrap_future(waiting)
        except Exception as error:  # each runtime has its own
            raise Refused(Reason.FAILED, f"the engine failed: {one_line(error, 300)}") from error
        return answers(self._named.named(rows), wanted, self.classes)


def check_files(engine: Path) -> Manifest:
    """The manifest of an engine whose three files are there and fit each other, without opening it.

    Raises:
        BadInput: one is missing, altered, or belongs to another.
    """
    existing_file(engine, "engine")
    manifest = read_manifest(engine)
    check_engine(engine, manifest)
    _reference(engine, manifest)
    return manifest


def open_model(
    name: str, engine: Path, settings: ServeSettings, observe: Observe = lambda images, seconds: None
) -> ServedModel:
    """Open the engine once for each worker and warm it up: each instance reproduces the outputs of the reference.

    Raises:
        BadInput, BackendMissing: as ``engines.runner.open_runner``, or the reference is missing or another's.
        ValidationFailed: the engine does not compute on this machine what it should.
    """
    manifest = check_files(engine)
    reference = _reference(engine, manifest)
    options, batch = session_options(manifest, settings), settings.batch or manifest.profile.opt
    runners = [load_engine(engine, manifest, session=options) for _ in range(settings.workers)]
    for runner in runners:
        _warm_up(runner, engine, manifest, reference, batch)
    batcher = Batcher(runners, batch=batch, queue=settings.queue, delay_s=settings.delay_ms / 1e3, observe=observe)
    return ServedModel(name, manifest, batcher)


def _warm_up(runner: Runner, engine: Path, manifest: Manifest, reference: Reference, batch: int) -> None:
    """Compare with the reference, and run a batch as large as those to come, for which runtimes allocate memory."""
    outputs = run_batches(runner, reference.images)
    allowed, task = manifest.validation.tolerance, recorded_task(manifest.metadata)
    found = compare_each(reference.logits, outputs, allowed, task, manifest.named)
    if found.verdict != PASSED:
        raise ValidationFailed(
            f"engine {engine}: does not reproduce its reference on this machine: {found.reason}; rebuild it here with: "
            f"repq-build-engine {manifest.source.name} --backend {manifest.backend}"
        )
    runner(np.resize(reference.images, (batch, *reference.images.shape[1:])))


def _reference(engine: Path, manifest: Manifest) -> Reference:
    path = engine.with_name(manifest.reference)
    reference = read_reference(path)
    if reference.source_sha256 != manifest.source.sha256:
        raise BadInput(f"reference {path}: belongs to another model than engine {engine.name}; copy the right one")
    return reference
