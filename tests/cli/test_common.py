import errno
import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from repq_deploy import __version__
from repq_deploy.cli import streams
from repq_deploy.cli.common import Verbose, hardware_note, image_size, set_up
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import StdoutFailed
from repq_deploy.errors import BackendMissing, BadInput, RepqError, ValidationFailed
from repq_deploy.system.files import existing_file


@pytest.mark.parametrize(("error", "code"), [(BadInput, 2), (ValidationFailed, 1), (BackendMissing, 3)])
def test_errors_are_one_line_with_their_exit_code(call, error: type[RepqError], code: int):
    def verb() -> None:
        raise error("x: found this; do that")

    done = call(entry_point(verb, "repq-verb"))
    assert (done.code, done.out, done.err) == (code, "", "repq-verb: error: x: found this; do that\n")


def test_verbose_adds_the_traceback_and_keeps_the_exit_code(call):
    def verb(verbose: Verbose = False) -> None:
        set_up(verbose=verbose, quiet=False)
        raise BadInput("x: found this; do that")

    done = call(entry_point(verb, "repq-verb"), "-v")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.endswith("repq-verb: error: x: found this; do that\n")


def test_an_empty_value_is_not_the_default(call):
    def verb(bits: str = "w8a8", calib_data: str | None = None) -> None:
        raise AssertionError

    for option in ("--bits", "--calib-data"):
        done = call(entry_point(verb, "repq-verb"), option, "")
        assert (done.code, done.out) == (2, "")
        assert done.err.splitlines()[-1].startswith(f"repq-verb: error: {option}: is empty; give a value")


def test_a_defect_is_one_line_that_says_so(call):
    def verb(verbose: Verbose = False) -> None:
        set_up(verbose=verbose, quiet=False)
        raise ZeroDivisionError("of\x1b[31m two\nlines")

    done = call(entry_point(verb, "repq-verb"))
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(
        r"repq-verb: error: a defect of ours, .*: ZeroDivisionError in test_common\.py:\d+ "
        r"\(of\\x1b\[31m two lines\); please report it, with what -v prints\n",
        done.err,
    )
    assert "Traceback" in call(entry_point(verb, "repq-verb"), "-v").err


def test_a_wrong_command_line_is_one_line(call):
    def verb(file: Path, bits: int = 8) -> None:
        raise AssertionError

    set_up(verbose=False, quiet=False)
    for arguments, words in (
        ((), "Missing argument 'file'; see repq-verb --help"),
        (("m", "--none"), "No such option: --none"),
        (("m", "--bits", "x"), "valid integer"),
        (("a\nb",), "a\\nb: has control characters"),
        (("m" * 5000,), "File name too long"),
    ):

        def named(file: Path, bits: int = 8) -> None:
            existing_file(file, "model")
            raise AssertionError

        done = call(entry_point(named, "repq-verb"), *arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("repq-verb: error: ") and words in done.err
        assert done.err.count("\n") == 1 and len(done.err) < 400


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [
        (">/dev/full", 2, "a note\nrepq-verb: error: stdout: No space left on device\n"),
        ("2>/dev/full", 0, ""),
        (">&-", 0, "a note\n"),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("| true", 141, "a note\n"),
    ],
)
def test_streams_that_take_nothing(tmp_path, redirection, code, words):
    """The file is right in every case: a closed stream's number must not become the file's."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom repq_deploy.cli.common import console\n"
        "from repq_deploy.cli.entry import entry_point\nfrom repq_deploy.cli.streams import say\n"
        "from repq_deploy.system.files import write_atomically\n"
        "def verb(output: Path) -> None:\n    console.print('a note')\n    write_atomically(output, b'all')\n"
        "    say(*['x' * 99] * 999)\n"
        "entry_point(verb, 'repq-verb')()\n"
    )
    (tmp_path / "verb.py").write_text(script)
    command = f"set -o pipefail; {sys.executable} verb.py m.onnx {redirection}"
    done = subprocess.run(["/bin/bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, words)
    assert (tmp_path / "m.onnx").read_bytes() == b"all"


@pytest.mark.parametrize(("system", "error"), [("win32", SystemExit), ("linux", StdoutFailed)])
def test_windows_says_invalid_argument_of_a_reader_that_has_gone(monkeypatch, system, error):
    discarded: list[int] = []
    monkeypatch.setattr(streams, "_discard", discarded.append)
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(error, match="141" if error is SystemExit else "stdout: Invalid argument"):
        streams._stdout_failed(OSError(errno.EINVAL, "Invalid argument"))
    assert discarded == [1]


def test_names_that_a_pipe_of_windows_cannot_take_are_escaped(monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="cp1252", newline=""))
    monkeypatch.setattr(sys, "platform", "win32")
    with streams.guarded_streams():
        streams.say("caf\u00e9 \u732b.onnx")
    assert pipe.getvalue() == b"caf\xe9 \\u732b.onnx\n"


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept there")
def test_what_a_killed_command_left_is_swept_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    waiting = WAIT.replace("with atomic", "with temporary_folder(), atomic").replace(
        "from repq_deploy.system.files",
        "from repq_deploy.system.leftovers import temporary_folder\nfrom repq_deploy.system.files",
    )
    command = [sys.executable, "-c", waiting, str(tmp_path / "m.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "writing\n"
            assert sum("repq-" in path.name for path in tmp_path.rglob("*")) == 4  # it took nothing from the first
            other.kill()
        process.kill()
    (tmp_path / ".repq-1-mine.part").touch()  # of a process that runs
    (tmp_path / "repq-notes").touch()
    done = subprocess.run(
        [sys.executable, "-c", WAIT.replace("time.sleep(60)", ""), str(tmp_path / "m.onnx")],
        check=True,
        capture_output=True,
    )
    assert done.stderr == b""
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == [".repq-1-mine.part", "m.onnx", "repq-notes", "temporary"]


WAIT = """
import sys, time
from pathlib import Path
from repq_deploy.cli.entry import entry_point
from repq_deploy.system.files import atomic_output

def verb(output: Path) -> None:
    with atomic_output(output) as temporary:
        temporary.write_bytes(b"half")
        print("writing", flush=True)
        time.sleep(60)

entry_point(verb, "repq-verb")()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process there is asked before it is ended")
def test_a_terminated_command_leaves_no_half_written_file(tmp_path):
    command = [sys.executable, "-c", WAIT, str(tmp_path / "m.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_interrupt_and_version(call):
    def verb() -> None:
        raise KeyboardInterrupt

    done = call(entry_point(verb, "repq-verb"))
    assert (done.code, done.err) == (
        130,
        "repq-verb: interrupted; what was finished is kept, nothing is half written\n",
    )
    done = call(entry_point(verb, "repq-verb"), "--version")
    assert (done.code, done.out, done.err) == (0, f"repq-verb {__version__}\n", "")


def test_the_version_is_shown_beside_other_words_and_in_the_help(call):
    def verb(file: Path, bits: int = 8) -> None:
        raise AssertionError

    assert call(entry_point(verb, "repq-verb"), "--bits", "4", "--version").out == f"repq-verb {__version__}\n"
    assert "Show the version of repq-deploy, and exit." in call(entry_point(verb, "repq-verb"), "--help").out


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("384", 384), ("480x224", (480, 224)), (" 48X32 ", (48, 32)), ("007", 7)]
)
def test_image_sizes(text, size):
    assert image_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "2x2x2", "-1", "1e3", "9" * 5000, "224,224"])
def test_other_image_sizes_are_refused(text):
    with pytest.raises(BadInput, match=r"--img-size .*: expected pixels such as 384"):
        image_size(text)


@pytest.mark.parametrize(("bits", "noted"), [("w8a8", False), ("w4a8,head=w8a8", False), ("w8a8,head=w8a4", True)])
def test_the_note_is_for_activations_below_eight_bits(bits: str, noted: bool):
    assert bool(hardware_note(bits)) == noted
