"""Variants of a run: pytest finds the plugin that shuffles the cases."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import variants


def test_the_plugin_of_a_variant_is_on_the_path_of_its_pytest(monkeypatch):
    calls = []

    def run(command, **settings):
        calls.append((command, settings["env"]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(variants.subprocess, "run", run)
    assert variants.run("shuffled") == 0
    ((command, environment),) = calls
    plugin = command[command.index("-p") + 1]
    folders = environment["PYTHONPATH"].split(os.pathsep)
    assert any((Path(folder) / f"{plugin}.py").is_file() for folder in folders)
