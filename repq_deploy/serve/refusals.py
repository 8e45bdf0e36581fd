"""Why a request gets no answer: one kind of error, which REST and gRPC say in the codes of their own."""

from __future__ import annotations

from enum import Enum

__all__ = ["Reason", "Refused"]


class Reason(Enum):
    """What kept a request from being answered."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    BUSY = "busy"
    NOT_READY = "not_ready"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


class Refused(Exception):
    """A request that is not answered; the message says in one line what was found and what was expected."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
