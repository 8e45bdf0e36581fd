"""Each wrong input of the table: one line that says what is wrong, the right exit code, and nothing lost or left."""

import re
import shlex
from pathlib import Path

import pytest

from tests.robustness.cases import CASES, Case
from tests.robustness.conftest import Run, check_ended, contents

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input_is_refused(case: Case, warm: Run, folder: Path) -> None:
    case.prepare(folder)
    before = contents(folder)
    ended = warm(folder, *shlex.split(case.command))
    check_ended(ended, before, contents(folder), {case.code})
    assert re.search(case.words, ended.err.splitlines()[-1]), ended.err[-600:]
    assert set(contents(folder)) == set(before), "something was written"
