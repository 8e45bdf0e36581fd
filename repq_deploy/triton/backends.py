"""Which backend of Triton loads an engine of ours."""

from __future__ import annotations

from repq_deploy.engines.backends import Backend, TritonBackend, all_backends
from repq_deploy.errors import BadInput

__all__ = ["triton_backend"]


def triton_backend(backend: Backend, name: str | None = None) -> TritonBackend:
    """The backend of Triton called ``name`` for engines of ``backend``; None: the first of those it has.

    Raises:
        BadInput: there is none that loads such engines; it says why.
    """
    if not backend.triton:
        others = " or ".join(sorted(one.name for one in all_backends() if one.triton))
        reason = backend.no_triton or f"no backend of Triton loads them; use --backend {others}"
        raise BadInput(f"--triton-repository: engines of {backend.name}: {reason}")
    found = next((one for one in backend.triton if name in (None, one.name)), None)
    if found is None:
        names = " or ".join(one.name for one in backend.triton)
        raise BadInput(f"--triton-backend {str(name)[:40]}: engines of {backend.name} are loaded by {names} only")
    return found
