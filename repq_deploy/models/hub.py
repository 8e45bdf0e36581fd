"""Pretrained weights from the hub: found out to be out of reach within seconds, and never waited for without end.

The hub's client decides what is in its cache and what is new. This module asks first whether the hub answers at all,
watches the bytes arrive, and says in one line what went wrong.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repq_deploy.errors import first_line
from repq_deploy.system.stopping import when_stopped

__all__ = ["SECONDS", "STALLED", "HubError", "Report", "cache_alone", "ensure_cached"]

#: In which the hub has to answer, through whatever proxy the environment names.
SECONDS = 6.0
#: In which at least one new byte of a download has to arrive.
STALLED = 30.0
#: Bytes that are written to disk at a time, and seen to arrive: few, so that a slow line does not seem to stand still.
_CHUNK = 2**14
_POLL = 0.05

#: Called with the bytes that are there and the bytes in all, 0 where these are not known.
Report = Callable[[int, int], None]

_OFFLINE_ADVICE = "HF_HOME names a cache that has them, HF_HUB_OFFLINE=1 asks it alone"


class HubError(Exception):
    """Weights that cannot be had: why, and what helps beside a file of one's own."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice


def ensure_cached(hub_id: str, filenames: tuple[str, ...], *, report: Report, note: Callable[[str], None]) -> Path:
    """Bring the newest version of the first of ``filenames`` that the hub has into the client's cache.

    Where the hub does not answer, or refuses, what the cache holds is taken, and ``note`` is told.

    Args:
        hub_id: ``owner/name``, or ``owner/name@revision``.
        report: called a few times a second during a download.

    Returns:
        The file in the cache.

    Raises:
        HubError: the weights are not in the cache, and the hub is not within reach, refuses them, or does not go on
            sending them.
    """
    from huggingface_hub import constants  # noqa: PLC0415 - comes with timm; only this needs it

    repo, _, revision = hub_id.partition("@")
    if constants.HF_HUB_OFFLINE:
        return _cached(repo, filenames, revision) or _give_up(
            f"HF_HUB_OFFLINE is set, and they are not in the cache {constants.HF_HUB_CACHE}",
            "HF_HOME names another cache; without HF_HUB_OFFLINE they are downloaded",
        )
    try:
        name, size = _ask(repo, filenames, revision)
    except HubError as error:
        if (kept := _cached(repo, filenames, revision)) is None:
            raise
        note(f"{error}; took the weights that the cache holds, which HF_HUB_OFFLINE=1 takes at once")
        return kept
    return _Download(repo, name, revision, size).run(report)


@contextlib.contextmanager
def cache_alone() -> Iterator[None]:
    """Let the hub's client look into its cache alone for the duration of the block."""
    with _constants(HF_HUB_OFFLINE=True):
        yield


def _cached(repo: str, filenames: tuple[str, ...], revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    found = (try_to_load_from_cache(repo, name, revision=revision or None) for name in filenames)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _ask(repo: str, filenames: tuple[str, ...], revision: str) -> tuple[str, int]:
    """Which of the files the hub has, and its bytes; 0 where it does not say."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url  # noqa: PLC0415

    for name in filenames:
        url = hf_hub_url(repo, name, revision=revision or None)
        asked = _InThread(functools.partial(get_hf_file_metadata, url, timeout=SECONDS))
        # In a thread: the lookup of a name has no timeout of its own, and redirects begin anew.
        if not asked.ended.wait(SECONDS):
            _give_up(f"{constants.ENDPOINT} did not answer within {SECONDS:g} s", _OFFLINE_ADVICE)
        if asked.error is None:
            if asked.result.commit_hash is None or asked.result.etag is None:
                _give_up(
                    f"what answers at {constants.ENDPOINT} is no model hub, maybe a proxy's own page", _OFFLINE_ADVICE
                )
            return name, asked.result.size or 0
        status = getattr(getattr(asked.error, "response", None), "status_code", None)
        if status != 404:
            _refused(constants.ENDPOINT, status, asked.error)
    return _give_up(f"{constants.ENDPOINT} has no {' or '.join(filenames)} of {repo} (404)", "")


def _refused(endpoint: str, status: int | None, error: BaseException) -> None:
    if status in (401, 403):
        _give_up(
            f"{endpoint} refuses them ({status})",
            "if they are for registered users, accept their licence on the hub and set HF_TOKEN",
        )
    if status is not None:
        _give_up(f"{endpoint} answered with status {status}", f"try again later; {_OFFLINE_ADVICE}")
    _give_up(f"{endpoint} cannot be reached: {first_line(error, 120)}", _OFFLINE_ADVICE)


def _give_up(reason: str, advice: str) -> Any:
    raise HubError(reason, advice)


class _InThread:
    """A call in a thread of its own, which ends with the process if it does not end before."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.ended = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.result = call()
            except BaseException as error:
                self.error = error
            self.ended.set()

        threading.Thread(target=run, daemon=True).start()


@dataclass
class _Download:
    """One file on its way into the cache.

    What is on disk tells how far it is, whoever fetches it: where another process has begun, the client waits for it.
    """

    repo: str
    name: str
    revision: str
    size: int
    begun: bool = False
    given_up: bool = False
    before: dict[Path, int] = field(default_factory=dict)

    def run(self, report: Report) -> Path:
        from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415

        self.before = self._parts()
        fetch: dict[str, Any] = {"revision": self.revision or None, "tqdm_class": self._bar()}
        with _quiet(), _plain(), when_stopped(self._clear):
            download = _InThread(lambda: hf_hub_download(self.repo, self.name, **fetch))
            most, last = -1, time.monotonic()
            while not download.ended.wait(_POLL):
                # Only more than ever before counts: a server that begins anew each time would go on for ever.
                if (there := self._arrived()) > most:
                    most, last = there, time.monotonic()
                    report(there, self.size)
                if time.monotonic() - last > STALLED:
                    self.given_up = True
                    self._clear()
                    _give_up(
                        f"{constants.ENDPOINT} has sent nothing for {STALLED:g} s, after {there / 1e6:.1f} of "
                        f"{self.size / 1e6:.1f} MB",
                        f"try again; {_OFFLINE_ADVICE}",
                    )
        if download.error is not None:
            _give_up(f"{constants.ENDPOINT}: {first_line(download.error, 160)}", f"try again; {_OFFLINE_ADVICE}")
        report(self.size, self.size)
        return Path(download.result)

    def _parts(self) -> dict[Path, int]:
        """The unfinished files of this repository in the cache, and their bytes."""
        from huggingface_hub import constants  # noqa: PLC0415

        found = {}
        folder = Path(constants.HF_HUB_CACHE) / f"models--{self.repo.replace('/', '--')}" / "blobs"
        for path in folder.glob("*.incomplete"):
            with contextlib.suppress(OSError):  # finished meanwhile
                found[path] = path.stat().st_size
        return found

    def _arrived(self) -> int:
        return max((size for path, size in self._parts().items() if self.before.get(path) != size), default=0)

    def _clear(self) -> None:
        """Remove what has arrived, if it is ours: nobody goes on with it."""
        for path in (self._parts().keys() - self.before.keys()) if self.begun else ():
            with contextlib.suppress(OSError):
                path.unlink()

    def _bar(self) -> type:
        """A bar that shows nothing: it tells that the download is ours, and ends it once it is given up."""
        from huggingface_hub.utils import tqdm  # noqa: PLC0415

        download = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **options: Any) -> None:
                download.begun = True
                super().__init__(*args, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                if download.given_up:
                    raise ConnectionAbortedError("given up")
                return bool(super().update(n))

        return Bar


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """Download by plain HTTP, whose bytes can be watched as they come."""
    with _constants(HF_HUB_DISABLE_XET=True, DOWNLOAD_CHUNK_SIZE=_CHUNK):
        yield


@contextlib.contextmanager
def _constants(**changes: Any) -> Iterator[None]:
    """Other values for settings that the hub's client reads when it needs them."""
    from huggingface_hub import constants  # noqa: PLC0415

    before = {name: getattr(constants, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(constants, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client's log of retries to itself: what comes of them is said once."""
    from huggingface_hub.utils import logging  # noqa: PLC0415

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
