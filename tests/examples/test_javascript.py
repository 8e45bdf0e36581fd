"""The programs of examples/10-javascript, in Node and in Chromium, with the packages that its lock file names."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repq_deploy.engines.backends.onnxruntime import BACKEND
from tests.docs.pages import ROOT
from tests.docs.running import Page
from tests.examples.commands import logits_of, run_example
from tests.report.browser import Browser, chromium, opened

EXAMPLE = "10-javascript"
_NPM = {
    **dict.fromkeys(("npm_config_audit", "npm_config_fund"), "false"),
    "npm_config_prefer_offline": "true",
    "npm_config_cache": str(Path.home() / ".npm"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node and npm"),
]


@pytest.fixture(scope="module")
def installed(clothes: Page) -> Iterator[Page]:
    """The example with its packages, in which its commands have been run."""
    reached = subprocess.run(["npm", "ping"], capture_output=True, text=True, check=False)  # noqa: S607
    if reached.returncode != 0:
        pytest.skip(f"npm does not reach its registry: {reached.stderr.splitlines()[0]}")
    page = run_example(clothes, EXAMPLE, "Node", programs=("node", "npm"), variables=_NPM, network=True)
    yield page
    shutil.rmtree(page.folder / "node_modules")  # several hundred megabytes


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(installed: Page) -> Iterator[str]:
    """The example's folder on a port of this machine alone."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(installed.folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_node_gives_the_logits_of_python(installed: Page, expected: NDArray[np.float32]) -> None:
    words = ("node", "classify.js", "clothes.onnxruntime.engine", "--logits", "boot.png", "bag.png")
    found = np.array(logits_of(installed, *words), np.float32)
    if BACKEND.saturates():  # other kernels, which versions may change
        np.testing.assert_allclose(found, expected, atol=0.1)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(chromium() is None, reason="no chromium: apt-get install chromium")
def test_a_browser_gives_the_logits_of_python_within_ties(
    server: str, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    with opened(tmp_path) as browser:
        browser.call("Page.navigate", url=f"{server}/index.html?engine=clothes.onnxruntime.engine")
        until = time.monotonic() + 60
        while browser.value("typeof window.logits") != "function":
            assert time.monotonic() < until, browser.complaints()
            time.sleep(0.05)
        found = [_answer(browser, f"fetch('{name}.png').then(r => r.blob()).then(logits)") for name in ("boot", "bag")]
        assert browser.complaints() == []
        assert {url.split("/")[2] for url in browser.requests() if url.startswith("http")} == {server.split("/")[2]}
    found = np.array(found, np.float32)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    np.testing.assert_allclose(found, expected, atol=0.1)


def _answer(browser: Browser, promise: str) -> list[float]:
    expression = f"{promise}.then(found => [...found])"
    answer = browser.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
    assert "exceptionDetails" not in answer, answer
    return answer["result"]["value"]


def test_the_packages_are_pinned_and_name_no_host() -> None:
    package = json.loads((ROOT / "examples" / EXAMPLE / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((ROOT / "examples" / EXAMPLE / "package-lock.json").read_text(encoding="utf-8"))
    assert lock["packages"][""]["dependencies"] == package["dependencies"]
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    for name, entry in lock["packages"].items():
        assert not name or ("integrity" in entry and "resolved" not in entry), name
