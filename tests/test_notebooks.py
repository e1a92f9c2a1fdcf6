"Every notebook runs from top to bottom, once, on the sample or on what SKIN_LESION_DATA names; two run in JupyterLab where that is tested."
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import test_jupyterlab
from conftest import CHROMIUM, NOTEBOOKS, ROOT

ELSEWHERE = test_jupyterlab.NOTEBOOKS if CHROMIUM and find_spec("playwright") and not os.environ.get("SKIN_LESION_DATA") else []
HERE = [path.name for path in NOTEBOOKS if path.name not in ELSEWHERE]


@pytest.fixture(scope="module")
def nbdev_test():
    "What nbdev_test said: the notebooks that it went through, those that failed, and its output."
    command = [Path(sys.executable).with_name("nbdev_test"), "--n_workers", "1", "--do_print", "--file_re", f"^({'|'.join(map(re.escape, HERE))})$"]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    completed = {Path(name).name for name in re.findall(r"^- Completed (.+)$", result.stdout, re.MULTILINE)}
    failed = set(result.stdout.partition("nbdev Tests Failed On The Following Notebooks")[2].split())
    return completed, failed, result.stdout


@pytest.mark.parametrize("name", HERE)
def test_notebook(nbdev_test, name):
    completed, failed, output = nbdev_test
    assert name in completed - failed, output
