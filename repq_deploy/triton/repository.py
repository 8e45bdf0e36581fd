"""Engines in a model repository of Triton: a folder a model, in it a folder a version, and nothing half written.

::

    DIR/deit_s/config.pbtxt
    DIR/deit_s/labels.txt
    DIR/deit_s/warmup/reference_0
    DIR/deit_s/1/model.onnx, manifest.json, reference.npz

A version appears in one step, after all else: until then a server that watches the folder goes on with the last one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from repq_deploy.engines.backends import Backend, TritonBackend
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.manifest import Manifest
from repq_deploy.engines.prove_engine import FAILED
from repq_deploy.engines.reference import read_reference
from repq_deploy.errors import BadInput
from repq_deploy.system.files import kind_of, write_atomically
from repq_deploy.system.leftovers import temporary_folder
from repq_deploy.triton.backends import triton_backend
from repq_deploy.triton.config import LABELS, MARK, REFERENCE, config_text

__all__ = ["Repository", "plan_repository", "write_version"]

_CONFIG, _MANIFEST, _REFERENCE, _WARMUP = "config.pbtxt", "manifest.json", "reference.npz", "warmup"
_READABLE = 0o777


@dataclass(frozen=True)
class Repository:
    """Where an engine goes: the ``folder`` of its model, and the backend of Triton that loads it."""

    folder: Path
    backend: TritonBackend
    force: bool = False

    def versions(self) -> list[int]:
        """The versions that are there, oldest first; Triton takes folders called by a number, without zeros ahead."""
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0")


def plan_repository(
    folder: Path, engine: Path, backend: Backend, profile: Profile, *, triton: str | None = None, force: bool = False
) -> Repository:
    """Check all that can be checked before the engine is built; write nothing.

    Args:
        folder: the repository; it is made where it is missing.
        engine: the path of the engine, whose name before ``.<backend>`` is the model's.
        backend: our backend of the engine.
        triton: the backend of Triton, None for the runtime's own.
        force: write into a model's folder that repq-deploy did not make, or whose versions are of another model.

    Raises:
        BadInput: Triton cannot serve such an engine, or the folder is not one for it.
    """
    found = triton_backend(backend, triton)
    if profile.min > 1:
        raise BadInput(f"--triton-repository: --min-batch {profile.min}: Triton also sends batches of 1; use 1")
    for place, what in ((folder.absolute().parent, "folder of --triton-repository"), (folder, "--triton-repository")):
        there = kind_of(place, what)
        if there not in ("folder", None if place == folder else "folder"):
            raise BadInput(f"{what} {place}: expected a folder, found {there or 'nothing'}")
    name, dot, _ = engine.name.rpartition(f".{backend.name}")
    if not dot:
        raise BadInput(f"engine {engine}: expected a name that ends in .{backend.name}.engine")
    repository = Repository(folder / name, found, force)
    writable = next(place for place in (repository.folder, folder, folder.absolute().parent) if place.exists())
    if not os.access(writable, os.W_OK):
        raise BadInput(f"--triton-repository {folder}: cannot write into {writable}")
    config = repository.folder / _CONFIG
    if not force and repository.folder.exists() and not (config.is_file() and _has_mark(config)):
        raise BadInput(f"model {repository.folder}: is there, and not of repq-deploy; name another folder, or --force")
    return repository


def write_version(repository: Repository, engine: Path, manifest: Manifest) -> Path:
    """Put ``engine``, with its manifest and reference beside it, into the repository; the folder of its version.

    It is the next number, and older versions stay; an engine that is the newest version already stays that version.

    Raises:
        BadInput: the engine failed its validation, the newest version there is of another model, or nothing can be
            written.
    """
    if manifest.validation.verdict == FAILED:
        raise BadInput(f"engine {engine}: {FAILED}: {manifest.validation.reason}; it is not put into a repository")
    reference_file = engine.with_name(manifest.reference)
    reference = read_reference(reference_file)
    versions, backend, model = repository.versions(), repository.backend, repository.folder
    if versions:
        _check_interface(repository, versions[-1], manifest)
    newest = model / str(versions[-1] if versions else 0)
    is_there = _holds(newest, backend, manifest)
    version = newest if is_there else model / str((versions[-1] if versions else 0) + 1)
    names = manifest.class_names
    try:
        with _made(model):
            (model / _WARMUP).mkdir(exist_ok=True)
            write_atomically(model / _WARMUP / REFERENCE, reference.images[:1].tobytes())
            if names:
                write_atomically(model / LABELS, "".join(f"{name}\n" for name in names).encode())
            config = config_text(model.name, manifest, backend, labels=bool(names))
            write_atomically(model / _CONFIG, config.encode())
            if not is_there:
                with temporary_folder(model) as folder:
                    shutil.copyfile(engine, folder / backend.file)
                    shutil.copyfile(reference_file, folder / _REFERENCE)
                    (folder / _MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
                    if backend.program is not None:
                        (folder / "model.py").write_bytes((files(__package__) / backend.program).read_bytes())
                    folder.chmod(_READABLE & ~_umask())
                    folder.rename(version)
    except OSError as error:
        raise BadInput(f"--triton-repository {model}: {error.strerror or error}; no version was written") from error
    return version


@contextmanager
def _made(model: Path) -> Iterator[None]:
    """The folder of a model, which goes again if it is new and the block fails."""
    is_new = not model.exists()
    model.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(model, ignore_errors=True)
        raise


def _has_mark(config: Path) -> bool:
    with config.open("rb") as stream:
        return stream.read(len(MARK)) == MARK.encode()


def _holds(version: Path, backend: TritonBackend, manifest: Manifest) -> bool:
    """Whether a version is this very engine, for this backend."""
    found = _manifest_of(version)
    return found is not None and found.engine == manifest.engine and (version / backend.file).is_file()


def _check_interface(repository: Repository, version: int, manifest: Manifest) -> None:
    """Refuse to put two models under one name: who sends it images must not care which version answers."""
    folder = repository.folder / str(version)
    found = _manifest_of(folder)
    same = found is not None and (found.input, found.named) == (manifest.input, manifest.named)
    if repository.force or (same and (folder / repository.backend.file).is_file()):
        return
    raise BadInput(
        f"model {repository.folder}: its version {version} takes other images, gives other outputs or is for another "
        "backend of Triton; name another folder, or --force"
    )


def _manifest_of(version: Path) -> Manifest | None:
    try:
        text = (version / _MANIFEST).read_text(encoding="utf-8")
        return Manifest.from_json(text, name=str(version / _MANIFEST))
    except (OSError, UnicodeDecodeError, BadInput):
        return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
