"""What is a command on a page, and when an output is the one that is shown."""

from __future__ import annotations

import pytest

from tests.docs.outputs import difference
from tests.docs.pages import Command, blocks, programs

PAGE = """
```
one --option   # and why
# nothing
two \\
  more
```

<!-- not run: needs a GPU -->
```console
$ three
said

$ four \\
> more
```

```text
no command
```

* in a list

  ```bash
  five
  ```
"""


def test_blocks_hold_commands_and_what_they_print():
    first, second, third = blocks(PAGE)
    assert first.commands == (Command("one --option   # and why"), Command("two \\\n  more"))
    assert (first.line, first.reason) == (2, None)
    assert second.commands == (Command("three", ("said", "")), Command("four \\\nmore"))
    assert second.reason == "needs a GPU"
    assert (third.commands, third.reason) == ((Command("five"),), None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("repq-eval a.onnx --data demo  # c", [["repq-eval", "a.onnx", "--data", "demo"]]),
        ("A=1 one 'x y' | two > file && three", [["one", "x y"], ["two", ">", "file"], ["three"]]),
        ("one \\\n  --more", [["one", "--more"]]),
    ],
)
def test_programs_of_a_line(line: str, expected: list[list[str]]):
    assert programs(line) == expected


@pytest.mark.parametrize(
    ("shown", "printed", "holds"),
    [
        (["wrote a.onnx: 0.5 MB in 2.0 s"], "wrote a.onnx: 0.8 MB  in 17.31 s\n", True),
        (["wrote a.onnx: 0.5 MB"], "wrote b.onnx: 0.5 MB", False),
        (["top-1 90.25 %, 2000 images"], "top-1 89.10 %, 2001 images", True),
        (["top-1 90.25 %"], "top-1 88.10 %", False),
        (["2000 images"], "1900 images", False),
        (["cosine 0.98"], "cosine 0.91", True),
        (["cosine 0.98"], "cosine 0.71", False),
        (["w4a4"], "w6a6", False),
        (["PASSED: SQNR 33.7 dB is at least 6.0 dB"], "PASSED: SQNR 138.9 dB is at least 6.0 dB", True),
        (["PASSED: SQNR 33.7 dB is at least 6.0 dB"], "FAILED: SQNR 3.7 dB is at least 6.0 dB", False),
        (["version 1.31.1"], "version 2.0.0", True),
        (["a", "...", "d"], "a\nb\nc\nd", True),
        (["a", "..."], "a\nb", True),
        (["a", "...", "e"], "a\nb", False),
        (["a"], "a\nb", False),
        (["a", "b"], "a", False),
        (["a ... c"], "a b c", True),
        (["...", "a", "b"], "a\na\nb", True),
        (["a", "", "b"], "a\n\n\nb\n", True),
    ],
)
def test_outputs_agree(shown: list[str], printed: str, holds: bool):
    assert (difference(tuple(shown), printed) is None) == holds


def test_measurements_may_be_any_number():
    assert difference(("  1  a.onnx  0.97",), " 1 a.onnx 7.5") is not None
    assert difference(("  1  a.onnx  0.97",), " 1 a.onnx 7.5", any_number=True) is None
    assert difference(("  1  a.onnx  0.97",), " 1 b.onnx 7.5", any_number=True) is not None
    assert difference(("1  a 1.63x  45",), "1 a 0.99x 109", any_number=True) is None
