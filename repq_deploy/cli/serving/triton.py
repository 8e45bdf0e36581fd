"""``--triton-repository`` of ``repq-build-engine``: the engine also goes into a model repository of Triton."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repq_deploy.engines.build import BuiltEngine
from repq_deploy.engines.prove_engine import FAILED
from repq_deploy.errors import BadInput
from repq_deploy.triton.repository import Repository, plan_repository, write_version

if TYPE_CHECKING:
    from repq_deploy.engines.api import PlannedEngine

__all__ = ["add_version", "repository_for"]


def repository_for(
    planned: Sequence[PlannedEngine], folder: Path | None, triton: str | None, *, force: bool
) -> Repository | None:
    """Where the one engine that is ``planned`` goes; None where it is not asked for.

    Raises:
        BadInput: Triton cannot serve it, or the folder is not one for it.
    """
    if folder is None:
        if triton is not None:
            raise BadInput(f"--triton-backend {triton}: is for --triton-repository; name its folder, or leave it out")
        return None
    if len(planned) > 1:
        raise BadInput(
            f"--triton-repository {folder}: holds one engine a model, found {len(planned)} times --backend; "
            "build them one by one, each into a repository of its own"
        )
    plan = planned[0].plan
    return plan_repository(folder, plan.engine, plan.backend, plan.profile, triton=triton, force=force)


def add_version(repository: Repository | None, built: BuiltEngine) -> str | None:
    """The folder of the version that ``built`` became; None where there is no repository, or it failed validation."""
    if repository is None or built.manifest.validation.verdict == FAILED:
        return None
    return str(write_version(repository, built.engine, built.manifest))
