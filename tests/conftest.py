"What the tests of the repository share."
import importlib.util
import os
import random
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
import soak

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `make` does: processes that are compared compute alike

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if not any(part.startswith(".") for part in path.relative_to(NBS).parts))
BACKENDS = {"tensorflow": ".venv", "jax": ".venv-jax", "torch": ".venv-torch"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CHROMIUM_FLAGS += ["--disable-component-update", "--disable-sync"]
LONGEST = ["notebooks", "jupyterlab", "models", "serve", "export", "kills", "gradcam", "protocols", "docs", "features"]  # files of tests
MADE = {".git", *BACKENDS.values(), ".venv-audit", ".coverage", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__"}
MADE |= {"_proc", "_docs", "build", "dist", "runs"}


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


def python_with(backend):
    "The Python of an environment that has a backend: this one, or what `make` put beside it."
    if importlib.util.find_spec(backend):
        return sys.executable
    target = "test" if backend == "tensorflow" else f"test-{backend}"
    folder = ROOT / BACKENDS[backend]
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if any(folder.glob("setup-*")) and python.exists():
        return str(python)
    pytest.skip(f"no environment with {backend}; make {target} makes one in {folder.name}")


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


def pytest_collection_modifyitems(items):
    "The longest files first: the processes that share them end together."
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    "Every test starts from the same seed, whatever ran before it, also for the fixtures of its module; Keras is not loaded for that."
    if keras := sys.modules.get("keras"):
        return keras.utils.set_random_seed(0)
    random.seed(0)
    np.random.seed(0)


def pytest_terminal_summary(terminalreporter):
    "After `make soak`, what was tried and what became of it."
    if soak.LONG and soak.COUNTS:
        terminalreporter.section("faults")
        terminalreporter.write_line(soak.summary())


@pytest.fixture(scope="module")
def browser():
    "Chromium without a screen."
    if CHROMIUM is None:
        pytest.skip("no Chromium here; apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here; make setup")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()
