import pytest

from repq_deploy import __version__
from repq_deploy.cli.common import entry_point, hardware_note
from repq_deploy.errors import BackendMissing, BadInput, RepqError, ValidationFailed


@pytest.mark.parametrize(("error", "code"), [(BadInput, 2), (ValidationFailed, 1), (BackendMissing, 3)])
def test_errors_are_one_line_with_their_exit_code(call, error: type[RepqError], code: int):
    def verb(verbose: bool = False) -> None:
        raise error("x: found this; do that")

    done = call(entry_point(verb, "repq-verb"))
    assert (done.code, done.out, done.err) == (code, "", "repq-verb: error: x: found this; do that\n")
    with pytest.raises(error):
        call(entry_point(verb, "repq-verb"), "--verbose")


def test_bugs_keep_their_traceback(call):
    def verb() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(entry_point(verb, "repq-verb"))


def test_interrupt_and_version(call):
    def verb() -> None:
        raise KeyboardInterrupt

    done = call(entry_point(verb, "repq-verb"))
    assert done.code == 130
    done = call(entry_point(verb, "repq-verb"), "--version")
    assert done.out == f"repq-verb {__version__}\n"


@pytest.mark.parametrize(("bits", "noted"), [("w8a8", False), ("w4a8,head=w8a8", False), ("w8a8,head=w8a4", True)])
def test_the_note_is_for_activations_below_eight_bits(bits: str, noted: bool):
    assert bool(hardware_note(bits)) == noted
