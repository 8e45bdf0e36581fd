"""One replica: the service's own models and REST application, on a node to which its engines came as bytes.

Engines travel through Ray, so that no node needs a folder that all of them see. A replica writes them to a temporary
folder of its own, where they are checked as any files are: the engine against the SHA-256 of its manifest, and its
outputs against the reference, before the replica takes a request. It knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from starlette.types import ASGIApp

from repq_deploy.engines.manifest import manifest_path
from repq_deploy.errors import BadInput
from repq_deploy.serve.metrics import Metrics
from repq_deploy.serve.model import check_files
from repq_deploy.serve.repository import Repository
from repq_deploy.serve.rest import rest_app
from repq_deploy.serve.settings import ServeSettings
from repq_deploy.system.leftovers import temporary_folder, writing_temporarily

__all__ = ["EngineFiles", "Replica", "packed", "unpacked"]

#: The three files of an engine by their names; the first is the engine itself.
EngineFiles = Mapping[str, bytes]


def packed(settings: ServeSettings) -> dict[str, EngineFiles]:
    """The files of every engine of ``settings``, by the model's name.

    Raises:
        BadInput: as ``check_files``.
    """
    found: dict[str, EngineFiles] = {}
    for name, engine in settings.engines.items():
        reference = engine.with_name(check_files(engine).reference)
        try:
            found[name] = {path.name: path.read_bytes() for path in (engine, manifest_path(engine), reference)}
        except OSError as error:
            raise BadInput(f"engine {engine}: cannot be read: {error.strerror or error}") from error
    return found


def unpacked(files: Mapping[str, EngineFiles], folder: Path) -> dict[str, Path]:
    """Write the files of each engine to a folder of its own in ``folder``; the engines by the model's name."""
    engines = {}
    for number, (name, of_engine) in enumerate(files.items()):
        place = folder / str(number)
        with writing_temporarily():
            place.mkdir()
            for file, content in of_engine.items():
                (place / file).write_bytes(content)
        engines[name] = place / next(iter(of_engine))
    return engines


class Replica:
    """What Ray Serve makes on a node. It is there once every model has reproduced its reference.

    Raises:
        BadInput, BackendMissing, ValidationFailed: a model cannot be served on this node.
    """

    async def __init__(self, settings: ServeSettings, files: Mapping[str, EngineFiles]) -> None:  # type: ignore[misc]
        self._kept = ExitStack()
        folder = self._kept.enter_context(temporary_folder())
        metrics = Metrics()
        repository = Repository(replace(settings, engines=unpacked(files, folder)), metrics)
        self._app: ASGIApp = rest_app(repository, metrics)
        await repository.load_all()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What answers a request; Ray Serve asks for it by this name."""
        return self._app

    def __del__(self) -> None:
        """Ray Serve ends a replica once it has answered what it took."""
        self._kept.close()
