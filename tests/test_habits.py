"What a page tells a reader to type exists, exit codes are said, the shell completes."
import os
import re
import subprocess
import sys

import pytest
import typer
from conftest import NBS, ROOT, SETTINGS
from typer.testing import CliRunner

from skin_lesion.app import app

PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
COMMANDS = typer.main.get_command(app).commands


def told(pattern):
    "(page, what it tells to type) wherever a page says something like it."
    return [(name, found) for name in PAGES for found in re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"))]


def test_commands_that_pages_show_exist():
    shown = told(r"skin-lesion ([a-z]+)((?:[^`\n#]* --[a-z-]+)*)")
    assert len(shown) >= 5
    for name, (command, words) in shown:
        assert command in COMMANDS, (name, command)
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts} | {"--help"}
        assert set(re.findall(r"--[a-z-]+", words)) <= known, (name, command, words)


def test_make_targets_that_pages_show_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = told(r"(?:`|^ {4}|\n)make ([a-z-]+)")
    assert {target for _, target in shown} >= {"demo", "test"}
    assert [(name, target) for name, target in shown if target not in targets] == []


def test_help_says_the_exit_codes():
    said = re.sub(r"\W+", " ", CliRunner().invoke(app, ["--help"]).output)
    assert "0 done 1 some inputs failed 2 wrong usage" in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands(shell):
    line = "skin-lesion do"
    words = {"COMP_WORDS": line, "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    command = [sys.executable, "-c", "from skin_lesion.app import main; main()"]
    done = subprocess.run(command, env=os.environ | words | {"_SKIN_LESION_COMPLETE": f"complete_{shell}"}, capture_output=True, text=True)
    assert {"doctor", "download"} <= set(re.findall(r"\w+", done.stdout)), done.stderr
    assert "verify" not in done.stdout.split()


def test_citation_agrees_with_the_package():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    home = (NBS / "index.ipynb").read_text(encoding="utf-8")
    assert f"version: {SETTINGS['version']}\n" in citation
    assert f"version = {{{SETTINGS['version']}}}" in home and SETTINGS["git_url"].split("%")[0] in citation


@pytest.mark.parametrize("name", ["test.yaml", "site.yaml"])
def test_workflows_pin_actions_and_hold_no_secret(name):
    workflow = (ROOT / ".github/workflows" / name).read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", workflow)
    assert used and [action for action in used if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action)] == []
    assert "secrets." not in workflow and "\npermissions:\n  contents: read\n" in workflow
