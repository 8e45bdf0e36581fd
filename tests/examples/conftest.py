"""The engine of example 06, which others of the examples run in other languages."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.docs.pages import ROOT
from tests.docs.running import Page, lay_out
from tests.examples.commands import run_example

EXAMPLE = "06-plain-onnxruntime"


@pytest.fixture(scope="session")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A checkout in which the commands of example 06 have been run."""
    kept = Path(os.environ["REPQ_TESTS_EXPORTED"]) / "pages"
    kept.mkdir(exist_ok=True)
    root = tmp_path_factory.mktemp("edge")
    return run_example(lay_out(ROOT / "examples" / EXAMPLE / "README.md", root, kept), EXAMPLE)


@pytest.fixture(scope="session")
def expected(clothes: Page) -> NDArray[np.float32]:
    """Python's logits [2, 10] of the example's two images, boot and bag, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(clothes.folder / "clothes.onnxruntime.engine")
    images = [np.asarray(Image.open(clothes.folder / f"{name}.png").convert("RGB")) for name in ("boot", "bag")]
    return session.run(None, {"images": np.stack(images)})[0]
