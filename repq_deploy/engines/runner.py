"""Opening an engine: check that it is the one its manifest describes, then load it with its backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.batching import Runner
from repq_deploy.engines.cpu import KIND_WORDS, can_run
from repq_deploy.engines.manifest import Manifest, manifest_path, read_manifest
from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.export.names import recorded_outputs
from repq_deploy.system.files import existing_file, sha256_of

__all__ = ["Runner", "check_engine", "load_engine", "open_engine", "open_like", "open_runner"]


def open_engine(
    path: Path | str, *, session: Mapping[str, str] | None = None
) -> tuple[Callable[[NDArray[Any]], Any], Manifest]:
    """The engine file ``path``, ready to run, and its manifest.

    It is called with images [N, ...] as ``manifest.input`` says, float32 [N, 3, H, W] or bytes, any number of them,
    and gives logits float32 [N, classes]; one that names its outputs, such as features, gives a dictionary of arrays
    float32 [N, ...].

    Args:
        session: options beside those of the manifest, such as the number of threads.

    Raises:
        BadInput, BackendMissing: as ``open_runner``.
    """
    runner, manifest = open_runner(Path(path), session=session)
    if recorded_outputs(manifest.metadata) is None:
        return runner, manifest
    return lambda images: manifest.named.named(runner(images)), manifest


def open_runner(path: Path, *, session: Mapping[str, str] | None = None) -> tuple[Runner, Manifest]:
    """The engine file ``path`` as what gives all its outputs ``joined``, and its manifest.

    Raises:
        BadInput: the engine or its manifest is missing, altered, truncated, or of another runtime version.
        BackendMissing: its runtime is not installed, or the GPU it needs is not there.
    """
    existing_file(path, "engine")
    manifest = read_manifest(path)
    check_engine(path, manifest)
    return load_engine(path, manifest, session=session), manifest


def check_engine(path: Path, manifest: Manifest) -> None:
    """Raise BadInput where the engine file ``path`` is not what its manifest describes."""
    try:
        content = sha256_of(path)
    except OSError as error:
        raise BadInput(f"engine {path}: cannot be read: {error.strerror or error}") from error
    if content != manifest.engine.sha256:
        raise BadInput(
            f"engine {path}: its content ({path.stat().st_size} bytes) is not what {manifest_path(path).name} "
            "describes: "
            "truncated, altered or of another build; copy both again, or rebuild with repq-build-engine"
        )


def load_engine(engine: bytes | Path, manifest: Manifest, *, session: Mapping[str, str] | None = None) -> Runner:
    """Load an engine, given by its bytes or its file, that is known to be the one of the manifest."""
    backend = backend_named(manifest.backend)
    built, found = manifest.versions.get(backend.name), backend.version()
    if not backend.portable and built != found:
        raise BadInput(
            f"engine {manifest.engine.name}: built with {backend.name} {built}, found {found}, which cannot load it; "
            f"rebuild with: repq-build-engine {manifest.source.name} --backend {backend.name}"
        )
    if manifest.cpu is not None and not can_run(manifest.cpu, saturates=backend.saturates()):
        raise BackendMissing(
            f"engine {manifest.engine.name}: is for {KIND_WORDS.get(manifest.cpu, manifest.cpu)}; on this CPU "
            f"{backend.name} saturates its products of bytes; build it for any CPU: repq-build-engine "
            f"{manifest.source.name} --backend {backend.name} --cpu any; or export --bits w7a8, which is exact and "
            "fast on every CPU"
        )
    return open_like(manifest, engine, session=session)


def open_like(manifest: Manifest, file: bytes | Path, *, session: Mapping[str, str] | None = None) -> Runner:
    """``file``, of the same inputs and outputs as the engine of ``manifest``, opened as that engine is."""
    return backend_named(manifest.backend).open(
        file,
        profile=manifest.profile,
        images=manifest.input,
        session={**manifest.session, **(session or {})},
        outputs=manifest.named.names,
    )
