"What the tests of the repository share."
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]
MADE = {".git", ".venv", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__", "_proc", "_docs", "build", "dist", "runs"}


def git(*arguments):
    "What git prints, or None where this is no checkout."
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return None
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else None


def source_files():
    "Every file of the repository: those that git does not ignore, or all that is not made by a tool."
    listed = git("ls-files", "--cached", "--others", "--exclude-standard")
    if listed is None:
        files = [p.relative_to(ROOT) for p in ROOT.rglob("*")]
        listed = "\n".join(str(p) for p in files if not MADE & set(p.parts) and not p.parts[0].endswith(".egg-info"))
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def copy_checkout(folder):
    "A copy of the repository below a folder, to be changed at will."
    for path in source_files():
        target = folder / "skin_lesion" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return folder / "skin_lesion"


@pytest.fixture
def checkout(tmp_path):
    "A copy of the repository for one test."
    return copy_checkout(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def unchanged_tree():
    "No test leaves a trace in the repository."
    before = git("status", "--porcelain"), git("diff", "--stat")
    yield
    assert (git("status", "--porcelain"), git("diff", "--stat")) == before
