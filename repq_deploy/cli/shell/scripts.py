"""The scripts with which shells complete the commands' words, and where each shell loads its own from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repq_deploy.cli.shell.completion import ASKED, FILES
from repq_deploy.cli.shell.verbs import VERBS
from repq_deploy.errors import BadInput
from repq_deploy.system.files import write_atomically

__all__ = ["SHELLS", "install", "script_for"]

_BASH = """\
_repq_complete() {
    local line current="${COMP_WORDS[COMP_CWORD]}"
    [[ $current == = ]] && current=
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == FILES ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
        else
            COMPREPLY+=("${line%%$'\\t'*}")
        fi
    done < <(ASKED=bash "${COMP_WORDS[0]/#\\~/$HOME}" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o bashdefault -F _repq_complete COMMANDS
"""

_ZSH = """\
_repq_complete() {
    local line files
    local -a offers
    while IFS= read -r line; do
        if [[ $line == FILES ]]; then
            files=1
        else
            line=${line//:/\\\\:}
            offers+=("${line/$'\\t'/:}")
        fi
    done < <(ASKED=zsh ${~words[1]} "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#offers )) && _describe -V repq offers
    [[ -n $files ]] && _files
    return 0
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _repq_complete COMMANDS
"""

_FISH = """\
function __repq_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -lx ASKED fish
    for line in ($words[1] $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = FILES
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
for name in COMMANDS
    complete -c $name -f -a '(__repq_complete)'
end
"""


@dataclass(frozen=True)
class Shell:
    """A shell's script, where it is kept, and the file of the user's that loads it, if one must."""

    script: str
    kept: Callable[[Path], Path]
    loaded_by: Callable[[Path], Path] | None


def _folder(variable: str, otherwise: str, inner: str) -> Callable[[Path], Path]:
    return lambda home: Path(os.environ.get(variable) or home / otherwise) / inner


_DATA = _folder("XDG_DATA_HOME", ".local/share", "repq-deploy")
_CONFIG = _folder("XDG_CONFIG_HOME", ".config", "fish/conf.d")
_ZSH_HOME = _folder("ZDOTDIR", "", "")

SHELLS = {
    "bash": Shell(_BASH, lambda home: _DATA(home) / "completion.bash", lambda home: home / ".bashrc"),
    "zsh": Shell(_ZSH, lambda home: _DATA(home) / "completion.zsh", lambda home: _ZSH_HOME(home) / ".zshrc"),
    # All files of this folder are loaded.
    "fish": Shell(_FISH, lambda home: _CONFIG(home) / "repq-deploy.fish", None),
}


def script_for(shell: str | None = None) -> str:
    """The script of a shell, of the user's own by default.

    Raises:
        BadInput: a shell that there is no script for.
    """
    commands = " ".join(["repq", *(f"repq-{verb.name}" for verb in VERBS)])
    script = SHELLS[_known(shell)].script
    return script.replace("FILES", FILES).replace("ASKED", ASKED).replace("COMMANDS", commands)


def install(shell: str | None = None) -> list[str]:
    """Write a shell's script to the user's folder and have the shell load it; says what was done, a line each.

    A second time only the script is written again.

    Raises:
        BadInput: a shell that there is no script for.
    """
    name, home = _known(shell), Path.home()
    kept = SHELLS[name].kept(home)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, script_for(name).encode())
    said = [f"wrote {kept}"]
    if (loads := SHELLS[name].loaded_by) is not None:
        profile, line = loads(home), f'source "{kept}"'
        text = profile.read_text(encoding="utf-8") if profile.exists() else ""
        if line not in text.splitlines():
            with profile.open("a", encoding="utf-8") as file:
                file.write(f"{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n")
            said.append(f"added to {profile}: {line}")
    return [*said, f"completion works in every {name} that is started from now on"]


def _known(shell: str | None) -> str:
    name = Path(os.environ.get("SHELL", "")).name if shell is None else shell
    if name not in SHELLS:
        raise BadInput(f"shell {name[:40]!r}: expected one of {', '.join(SHELLS)}; name it after the option")
    return name
