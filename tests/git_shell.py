"""Type shell commands with git and `peft-regress`, and follow those that a message prints."""

import re
import shlex
import subprocess
import sys

import pytest

from peft_regress.cli.main import main

_SHELL = rf"""set -e
export GIT_EDITOR=true
peft-regress() {{ "{sys.executable}" -m peft_regress "$@"; }}
git() {{ command git -c user.name=n -c user.email=e@x -c init.defaultBranch=main "$@"; }}"""


def run_in(folder, script):
    """Type a script in a folder; return what it prints."""
    command = ["bash", "-c", f"{_SHELL}\n{script}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def follow(message):
    """Type the last commands of a message as it prints them, in the working folder."""
    printed = re.findall(r"`([^`]*)`", message)
    assert printed, message
    for command in printed[-1].split(" && "):
        words = shlex.split(command)
        if words[0] == "peft-regress":
            with pytest.raises(SystemExit) as done:
                main(words[1:])
            assert not done.value.code, command
        else:
            run_in(".", command)
