"""Forward hooks of torch that are there for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle

__all__ = ["hooks"]


@contextmanager
def hooks(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end of the block, however it ends; ``handles`` is what registering them returned."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield
