"""What is offered for the next word, and that Bash offers it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from repq_deploy.cli.shell import scripts, values
from repq_deploy.cli.shell.completion import ASKED, FILES, complete
from repq_deploy.cli.shell.verbs import VERBS
from repq_deploy.errors import BadInput
from repq_deploy.export.opsets import OPSETS
from repq_deploy.methods import METHODS
from repq_deploy.models.zoo import ALIASES
from repq_deploy.quant.softmax import SOFTMAX_KINDS


def offered(verb: str, *words: str) -> list[str]:
    module = next(one.module for one in VERBS if one.name == verb)
    return [word for word, _ in complete(import_module(module).main.parser().params, words)]


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (("export", "deit"), ["deit_t", "deit_s", "deit_b", FILES]),
        (("export", "deit_s", ""), []),
        (("export", "--method", "best"), ["best", "best-high"]),
        (("export", "--method", "=", "re"), ["repq", "repquant"]),
        (("export", "--method", "="), [*values.METHODS]),
        (("export", "--method=re"), ["--method=repq", "--method=repquant"]),
        (("export", "--force="), []),
        (("export", "--bits", "w4a4", "sw"), ["swin_t", "swin_s", "swin_b", FILES]),
        (("export", "--recipe", ""), [FILES]),
        (("export", "--no-p"), ["--no-pretrained"]),
        (("export", "--seed", "1", "--se"), []),
        (("build-engine", "m.onnx", "--backend", "openvino", "--back"), ["--backend"]),  # it can be repeated
        (("build-engine", "--cpu", "v"), ["vnni"]),
        (("build-engine", ""), [FILES]),
        (("bench", "a.engine", "b"), [FILES]),
        (("eval", "demo", "--data", ""), ["demo", FILES]),
        (("eval", "swin_t", "--against", "d"), ["demo", "deit_t", "deit_s", "deit_b", FILES]),
        (("inspect", "--passes", "open"), ["openvino"]),
        (("versions", ""), []),
    ],
)
def test_the_next_word(words, offers):
    assert offered(*words) == offers


def test_every_option_is_offered_once_and_not_again():
    assert {"--bits", "--version", "--help", "--ema", "--no-ema"} <= set(offered("export", "demo", "-"))
    assert {"--ema", "--no-ema"}.isdisjoint(offered("export", "--no-ema", "-"))


def test_the_lists_are_those_of_the_code():
    assert tuple(METHODS) == values.METHODS
    assert values.SOFTMAX == SOFTMAX_KINDS
    assert ("demo", *ALIASES) == values.MODELS
    assert values.values_of("--opset") == tuple(map(str, sorted(OPSETS)))


def test_every_list_is_of_something():
    parameters = [one for verb in VERBS for one in import_module(verb.module).main.parser().params]
    assert set(values.VALUES) <= {name for one in parameters for name in (*one.opts, one.name.upper())}


def test_completion_is_quick():
    """It imports nothing that takes long."""
    code = (
        "import os, sys; os.environ['{}'] = 'bash'; sys.argv = ['repq', *{!r}]; from repq_deploy.cli.main import main;"
        "main(); print(*sorted({{'torch', 'onnx', 'onnxruntime', 'timm', 'typer', 'numpy'}} & sys.modules.keys()))"
    )
    for words, slow in ((["ex"], []), (["export", "--method", "er"], ["numpy", "typer"])):
        done = subprocess.run([sys.executable, "-c", code.format(ASKED, words)], capture_output=True, check=True)
        assert done.stdout.decode().splitlines()[-1].split() == slow


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no Bash here")
def test_bash_offers_words_and_files(tmp_path):
    command = tmp_path / "repq"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m repq_deploy "$@"\n')
    command.chmod(0o755)
    (tmp_path / "of two words.onnx").touch()
    script = scripts.script_for("bash") + (
        'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _repq_complete; printf "%s\\n" "${COMPREPLY[@]}"; }\n'
        "try ./repq ex; try ./repq export --method = er; try ./repq inspect of\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["/bin/bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == ["export", "erq", "of two words.onnx"]


@pytest.mark.parametrize("shell", sorted(scripts.SHELLS))
def test_a_shell_is_told_once(tmp_path, monkeypatch, shell):
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / ".bashrc").write_text("alias x=y")
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    first, second = scripts.install(), scripts.install()
    kept = Path(first[0].removeprefix("wrote "))
    assert kept.read_text() == scripts.script_for(shell)
    assert all(f"repq-{verb.name}" in kept.read_text() for verb in VERBS)
    assert len(second) == 2
    if shell == "bash":
        assert (tmp_path / ".bashrc").read_text() == f'alias x=y\nsource "{kept}"\n'
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n", str(kept)], check=True)


def test_other_shells_are_refused():
    with pytest.raises(BadInput, match="shell 'tcsh': expected one of bash, zsh, fish"):
        scripts.script_for("tcsh")
