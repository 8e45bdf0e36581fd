"""Whether the hub of pretrained weights can be reached: known within seconds, not after minutes of retries."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

__all__ = ["SECONDS", "offline_unless_reachable"]

#: In which the hub has to answer, through whatever proxy the environment names.
SECONDS = 8.0


@contextlib.contextmanager
def offline_unless_reachable() -> Iterator[str | None]:
    """If the hub does not answer, let its client look into its cache alone for the duration of the block.

    Yields what to tell the user in that case, else None.
    """
    from huggingface_hub import constants  # noqa: PLC0415 - comes with timm; only this needs it

    before = constants.HF_HUB_OFFLINE
    said = None
    if not before and not _answers(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
        said = f"{constants.ENDPOINT} did not answer within {SECONDS:g} s"
    try:
        yield said
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    """Whether anything answers at ``url``. In a thread: the lookup of a name has no timeout of its own."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=SECONDS).close()  # noqa: S310 - the hub's own address
        except HTTPError:
            pass  # it is there
        except URLError as error:
            if not isinstance(error.reason, ssl.SSLError):  # a certificate of its own, which the client may know
                return
        except (OSError, ValueError):
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return answered.is_set()
