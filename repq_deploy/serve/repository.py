"""The models of a server by name: which is asked, which is ready, and how a new file takes the place of an old one.

A new version is opened and warmed up beside the old one, then it is what the name means; the old one answers what it
has taken, and ends. So no request is lost, and for that time both are in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from repq_deploy.engines.manifest import read_manifest
from repq_deploy.errors import RepqError
from repq_deploy.serve.answers import Answer, Wanted
from repq_deploy.serve.batching import Closed
from repq_deploy.serve.metrics import Metrics
from repq_deploy.serve.model import ServedModel, open_model
from repq_deploy.serve.refusals import Reason, Refused
from repq_deploy.serve.settings import ServeSettings
from repq_deploy.serve.tensors import Tensor

__all__ = ["Repository"]

logger = logging.getLogger(__name__)


class Repository:
    """The models of ``settings``. None is ready until it is loaded; everything else is called in one event loop."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self.settings, self._metrics = settings, metrics
        self._models: dict[str, ServedModel | None] = dict.fromkeys(settings.engines)
        self._loading = asyncio.Lock()
        self.stopping = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def ready(self) -> bool:
        """Whether every model is, and the server is not about to stop."""
        return not self.stopping and all(model is not None for model in self._models.values())

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model that ``name`` means now; ``version`` empty is any.

        Raises:
            Refused: there is none of that name or version, or it is not ready.
        """
        if name not in self._models:
            raise Refused(Reason.NOT_FOUND, f"model {name[:60]!r}: expected one of {', '.join(self._models)}")
        found = self._models[name]
        if found is None:
            raise Refused(Reason.NOT_READY, f"model {name}: is not ready")
        if version not in ("", found.version):
            raise Refused(Reason.NOT_FOUND, f"model {name}: version {version[:60]!r}, served is {found.version}")
        return found

    def index(self) -> list[dict[str, str]]:
        """Every model with its version and state, in the protocol's words."""
        return [
            {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "loading"}
            if model is None
            else {"name": name, "version": model.version, "state": "READY", "reason": ""}
            for name, model in self._models.items()
        ]

    async def infer(
        self, name: str, version: str, tensors: Sequence[Tensor], wanted: Sequence[Wanted], *, binary: bool = False
    ) -> tuple[ServedModel, list[Answer]]:
        """The model that answers a request, and what it answers, as ``ServedModel.infer``.

        Raises:
            Refused: it is not answered.
        """
        while True:
            model = self.model(name, version)
            try:
                return model, await model.infer(tensors, wanted, binary=binary)
            except Closed:  # between two versions; at the end of the server there is no next one
                if self._models[name] is model:
                    raise Refused(Reason.NOT_READY, "the server stops") from None

    async def load_all(self) -> None:
        """Load every model.

        Raises:
            BadInput, BackendMissing, ValidationFailed: as ``open_model``, of the first that cannot be served.
        """
        for name in self._models:
            await self._load(name)

    async def load(self, name: str) -> None:
        """Serve the file that is now in the place of the engine of ``name``; nothing is done where it is the same.

        Raises:
            Refused: there is no such model, or its new file cannot be served; then the old one still is.
        """
        if name not in self._models:
            raise Refused(Reason.NOT_FOUND, f"model {name[:60]!r}: expected one of {', '.join(self._models)}")
        try:
            await self._load(name)
        except RepqError as error:
            raise Refused(Reason.FAILED, str(error)) from error

    async def load_changed(self) -> None:
        """Load every model whose file has changed; what cannot be served is logged, and the old version serves on."""
        for name in self._models:
            try:
                await self.load(name)
            except Refused as refused:
                logger.warning("model %s: the new file is not served: %s", name, refused)

    async def close(self) -> None:
        """Answer what waits, and end."""
        self.stopping = True
        async with self._loading:
            for model in self._models.values():
                if model is not None:
                    await asyncio.to_thread(model.batcher.close)

    async def _load(self, name: str) -> None:
        engine, observe = self.settings.engines[name], self._metrics.of_batches(name)
        async with self._loading:
            old = self._models[name]
            if old is not None and read_manifest(engine).engine == old.manifest.engine:
                return
            new = await asyncio.to_thread(open_model, name, engine, self.settings, observe)
            self._models[name] = new
            self._metrics.serves(new, old)
            if old is not None:
                logger.warning("model %s: version %s takes the place of %s", name, new.version, old.version)
                await asyncio.to_thread(old.batcher.close)
