"""``repq`` is the commands under one name: same words, same exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from repq_deploy import __version__
from repq_deploy.cli.main import main
from repq_deploy.cli.shell.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_is_a_verb():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"].pop("repq") == "repq_deploy.cli.main:main"
    verbs = {f"repq-{verb.name}": f"{verb.module}:main" for verb in VERBS}
    assert project["scripts"].items() <= verbs.items()
    for verb in VERBS:
        assert import_module(verb.module).main.name.replace(" ", "-") == f"repq-{verb.name}"


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("export", ("demo",)),
        ("export", ("demo", "-o", "m.onnx", "--float", "--bits", "w4a4")),
        ("inspect", ("none.onnx",)),
        ("bench", ("none.onnx", "--batch", "x")),
        ("eval", ("demo", "--data", "demo", "--nothing")),
    ],
)
def test_a_verb_fails_as_its_command_does(call, tmp_path, monkeypatch, verb, words):
    monkeypatch.chdir(tmp_path)
    module = next(one.module for one in VERBS if one.name == verb)
    own, under = call(import_module(module).main, *words), call(main, verb, *words)
    assert own.code == under.code == 2 and own.out == under.out == ""
    assert own.err.startswith(f"repq-{verb}: error: ")
    assert under.err == own.err.replace(f"repq-{verb}: ", f"repq {verb}: ").replace(
        f"see repq-{verb} --help", f"see repq {verb} --help"
    )


def test_help_and_version(call):
    helped = call(main, "--help")
    assert helped.code == 0
    assert all(f"  {verb.name} " in helped.out and verb.summary in helped.out for verb in VERBS)
    assert max(map(len, helped.out.splitlines())) <= 100
    assert call(main, "--version").out == f"repq {__version__}\n"
    assert call(main, "export", "--version").out == f"repq export {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "expected a verb: export, build-engine, eval, "),
        (("exprot",), "'exprot': no such verb; did you mean export?"),
        (("xyz",), "'xyz': no such verb; expected export, "),
        (("--nothing",), "No such option: --nothing"),
        (("--version", "x"), "--version: has more words after it than it takes"),
        (("--show-completion", "tcsh"), "shell 'tcsh': expected one of bash, zsh, fish"),
    ],
)
def test_what_is_no_verb(call, words, said):
    done = call(main, *words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith(f"repq: error: {said}")


def test_versions_say_what_is_installed(call):
    found = json.loads(call(main, "versions", "--json").out)
    assert found["repq-deploy"] == __version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["onnx"] and "torch" in found["packages"]
    assert f"onnx                     {found['packages']['onnx']}" in call(main, "versions").out.splitlines()


def test_it_is_a_module_too_and_imports_no_torch():
    command = [sys.executable, "-X", "importtime", "-m", "repq_deploy", "versions"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("repq-deploy ")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "repq_deploy.cli.common" in imported
    assert imported.isdisjoint({"torch", "onnx", "onnxruntime", "timm", "openvino"})
