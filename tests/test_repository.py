"The repository holds together: notebooks, library, README, lock and settings say the same."
import filecmp
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NOTEBOOKS, ROOT, SETTINGS, source_files

HOSTS = re.compile(r"(--|^)(extra-)?index-url\b|--find-links|https?://", re.MULTILINE)
MACHINE = re.compile(r"(?<![\w.])/(root|work|home/\w+|Users/\w+)/")


def tool(name, *arguments, cwd):
    "Run a program of this environment; nothing may fail."
    command = [Path(sys.executable).with_name(name), *arguments]
    result = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout


def changed(folder, copy, pattern):
    "Names of the files that differ between a folder and its copy, or are only in one of them."
    names = {p.relative_to(base).as_posix() for base in (folder, copy) for p in base.glob(pattern) if p.is_file()}
    return sorted(names - set(filecmp.cmpfiles(folder, copy, names, shallow=False)[0]))


def requirement_names(key):
    "The packages that settings.ini lists under a key, without their versions."
    return [re.match(r"[\w.-]+", word).group().lower() for word in SETTINGS[key].split()]


def test_library_is_what_the_notebooks_export(checkout):
    tool("nbdev_export", cwd=checkout)
    assert changed(ROOT, checkout, "skin_lesion/**/*.py") == []
    assert changed(ROOT, checkout, "*.*") == []


def test_notebooks_are_clean(checkout):
    tool("nbdev_clean", cwd=checkout)
    assert changed(ROOT, checkout, "nbs/**/*.ipynb") == [], "run nbdev_clean"


def test_readme_is_made_from_index(checkout):
    tool("python", "tools/readme.py", cwd=checkout)
    assert changed(ROOT, checkout, "README.md") + changed(ROOT, checkout, "index_files/*") == [], "run make readme"


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_to_files_resolve(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)#\s]+)|(?:src|href)=\"([^\"#]+)", text)
    missing = [a or b for a, b in links if "://" not in a + b and not (ROOT / (a or b)).exists()]
    assert missing == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_is_saved_with_its_outputs(path):
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert any(cell["outputs"] for cell in cells), "run make notebooks"
    assert path.stat().st_size <= 1.5e6
    errors = [o["evalue"] for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
    assert errors == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_what_is_expected_to_fail_is_run(path):
    "`expect_fail` belongs behind `with`: on a line of its own it tries nothing."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [line for cell in cells for line in cell["source"] if line.lstrip().startswith("expect_fail(")] == []


def test_site_settings_agree():
    assert (ROOT / "nbs/_quarto.yml").read_bytes() == (ROOT / "_quarto.yml").read_bytes(), "cp _quarto.yml nbs/"
    url = f"https://github.com/{SETTINGS['user']}/{SETTINGS['repo']}"
    assert f"href: {url}\n" in (ROOT / "_quarto.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_lock_names_every_direct_dependency_and_no_host(backend):
    name = "requirements.lock" if backend == "tensorflow" else f"requirements-{backend}.lock"
    lock = (ROOT / name).read_text(encoding="utf-8")
    assert not HOSTS.search(lock)
    locked = {name.lower() for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    keys = ["requirements", "lite_requirements", "dev_requirements"]
    keys += ["demo_requirements", "export_requirements"] if backend == "tensorflow" else [f"{backend}_requirements"]
    direct = {n for key in keys for n in requirement_names(key)} - ({"tensorflow"} if backend != "tensorflow" else set())
    assert direct - locked == set(), "run make lock"
    assert {n for n in locked if n in {"tensorflow", "jax", "torch"} or n.startswith(("nvidia", "cuda", "triton"))} == {backend}


def test_python_versions_agree():
    makefile, setup, workflow = (
        (ROOT / p).read_text(encoding="utf-8") for p in ("Makefile", "setup.py", ".github/workflows/test.yaml")
    )
    low, high = re.search(r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)", makefile).groups()
    assert SETTINGS["min_python"] == f"3.{low}"
    assert f"<3.{int(high) + 1}" in setup
    assert re.findall(r'"3\.(\d+)"', workflow) == [str(v) for v in range(int(low), int(high) + 1)]


def test_no_file_names_a_machine():
    found = []
    for path in source_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        if MACHINE.search(text) or str(ROOT) in text:
            found.append(path.relative_to(ROOT).as_posix())
    assert found == []


def test_style():
    tool("ruff", "check", "--no-cache", "--output-format", "concise", cwd=ROOT)


def test_licence_is_mit():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License") and "Permission is hereby granted, free of charge" in text
    assert SETTINGS["license"] == "mit"


IMPORT = """
import sys, time
start = time.process_time(), time.perf_counter()
import {module}
print(min(time.process_time() - start[0], time.perf_counter() - start[1]))
print(*sorted({{"tensorflow", "keras", "jax", "torch"}} & set(sys.modules)))
"""


def import_module(module):
    "Seconds that an import takes in a process of its own (clock or processor, the less disturbed), and the frameworks that it loads."
    command = [sys.executable, "-c", IMPORT.format(module=module)]
    seconds, frameworks = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return float(seconds), frameworks


def test_data_is_imported_fast_and_without_a_framework():
    imports, bare = [import_module("skin_lesion.data") for _ in range(4)], [import_module("cv2, pandas, PIL.Image, tqdm") for _ in range(2)]
    assert {frameworks for _, frameworks in imports} == {""}
    slow_machine = 1.6 * min(seconds for seconds, _ in bare)
    assert min(seconds for seconds, _ in imports) < max(1.5, slow_machine)


@pytest.mark.parametrize("module", ["evaluate", "sample"])
def test_light_modules_load_no_framework(module):
    if not (ROOT / "skin_lesion" / f"{module}.py").exists():
        pytest.skip(f"no module {module} yet")
    assert import_module(f"skin_lesion.{module}")[1] == ""
