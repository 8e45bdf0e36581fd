import signal
import subprocess
import sys

import pytest

from repq_deploy import __version__
from repq_deploy.cli.common import Verbose, entry_point, hardware_note, progress_bar, set_up
from repq_deploy.errors import BackendMissing, BadInput, RepqError, ValidationFailed


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


def test_bugs_keep_their_traceback(call):
    def verb() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(entry_point(verb, "repq-verb"))


@pytest.mark.parametrize(("quiet", "lines"), [(False, ["measuring 2/3"]), (True, [])])
def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(call, monkeypatch, quiet, lines):
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)

    def verb() -> None:
        set_up(verbose=False, quiet=quiet)
        with progress_bar() as progress:
            task = progress.add_task("waiting", total=3)
            progress.update(task, completed=1)
            monkeypatch.setattr("repq_deploy.cli.common.SECONDS_A_LINE", 0.0)
            progress.update(task, description="measuring", completed=2)

    done = call(entry_point(verb, "repq-verb"))
    assert (done.code, done.out, done.err.splitlines()) == (0, "", lines)


WAIT = """
import sys, time
from pathlib import Path
from repq_deploy.cli.common import entry_point
from repq_deploy.files import atomic_output

def verb(output: Path) -> None:
    with atomic_output(output) as temporary:
        temporary.write_bytes(b"half")
        print("writing", flush=True)
        time.sleep(60)

entry_point(verb, "repq-verb")()
"""


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
    assert done.out == f"repq-verb {__version__}\n"


@pytest.mark.parametrize(("bits", "noted"), [("w8a8", False), ("w4a8,head=w8a8", False), ("w8a8,head=w8a4", True)])
def test_the_note_is_for_activations_below_eight_bits(bits: str, noted: bool):
    assert bool(hardware_note(bits)) == noted
