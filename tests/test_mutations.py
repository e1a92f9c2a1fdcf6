"The tests notice: a central line of the library is broken on purpose, and a test that is named beforehand turns red."
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from mutations import MUTATIONS
from soak import LONG, fault


@pytest.mark.parametrize("name", MUTATIONS if LONG else list(MUTATIONS)[:3])
def test_a_broken_line_turns_a_test_red(name, tmp_path):
    module, line, broken, test = MUTATIONS[name]
    for folder in ("skin_lesion", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("settings.ini", "pytest.ini"):
        shutil.copy(ROOT / file, tmp_path)
    source = (tmp_path / "skin_lesion" / module).read_text(encoding="utf-8")
    assert source.count(line) == 1, "the line has changed: name it anew in tests/mutations.py"
    (tmp_path / "skin_lesion" / module).write_text(source.replace(line, broken), encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=first", f"tests/{test}"]
    surroundings = {**os.environ, "SOAK": "0", "PYTHONPATH": str(tmp_path)}
    with fault("broken lines"):
        done = subprocess.run(words, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
        assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
