"The notebooks as they are used: a JupyterLab server, a browser, Run All."
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from conftest import ROOT

from skin_lesion.data import cache_folder

NOTEBOOKS = ["00_data.ipynb", "04_gradcam.ipynb"]
TOKEN = "a-token-for-the-test"
MINUTES = 15


def free_port():
    "A port of this machine that nobody listens on."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def without_outputs(name, folder):
    "A copy of a notebook as it is before it was ever run."
    notebook = nbformat.read(ROOT / "nbs" / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / name)


def wait_for(url, server, seconds=120):
    "Until the server answers."
    deadline = time.time() + seconds
    while time.time() < deadline and server.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start: {server.stdout.read() if server.poll() is not None else 'no answer'}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "A real server on copies of the notebooks, with a home of its own: (its address, the notebooks' folder)."
    home = tmp_path_factory.mktemp("home")
    notebooks = tmp_path_factory.mktemp("nbs")
    for name in NOTEBOOKS:
        without_outputs(name, notebooks)
    quiet = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"checkForUpdates": false, "fetchNews": "false"}')
    port = free_port()
    own = {"HOME": home, "JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_DATA_DIR": home / "data", "JUPYTER_RUNTIME_DIR": home / "runtime"}
    own |= {"IPYTHONDIR": home / "ipython", "JUPYTERLAB_SETTINGS_DIR": home / "settings", "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces"}
    own |= {"SKIN_LESION_CACHE": cache_folder(), "PYTHONPATH": ROOT, "JUPYTER_NO_CONFIG": "1"}
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    options += ["--no-browser", "--allow-root", f"--ServerApp.root_dir={notebooks}", "--LabApp.extension_manager=readonly"]
    environment = {key: value for key, value in os.environ.items() if key != "SKIN_LESION_DATA"} | {k: str(v) for k, v in own.items()}
    command = [sys.executable, "-m", "jupyter", "lab", *options]
    process = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api/status?token={TOKEN}", process)
        yield address, notebooks
    finally:
        process.terminate()
        process.communicate(timeout=60)


def read(path):
    "The code cells of a notebook file."
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def ran(cell):
    "Whether a code cell was run, or is empty."
    return cell["execution_count"] is not None or not "".join(cell["source"]).strip()


def open_notebook(browser, address, name):
    "A page that shows one notebook, whose kernel is ready, in a workspace of its own."
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(f"{address}/lab/workspaces/{name.removesuffix('.ipynb')}/tree/{name}?token={TOKEN}")
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
    return page


def click_run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def run_all(page, path):
    "Run > Run All Cells, wait, save: the code cells as they were saved."
    click_run_all(page)
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
    page.wait_for_function("[...document.querySelectorAll('.jp-Notebook .jp-InputPrompt')].some(p => /\\[[*\\d]/.test(p.textContent))")
    waiting = "![...document.querySelectorAll('.jp-Notebook .jp-InputPrompt')].some(p => p.textContent.includes('*'))"
    page.wait_for_function(waiting, timeout=MINUTES * 60_000, polling=500)
    assert prompts.count() > 10
    page.keyboard.press("Control+s")
    deadline = time.time() + 60
    while (cells := read(path)) and not all(ran(cell) for cell in cells) and time.time() < deadline:
        time.sleep(0.5)
    return cells


def looked_at(page):
    "Width and height on screen, and whether it was decoded, of every figure that the notebook shows."
    figures = page.locator(".jp-Notebook .jp-OutputArea-output img")
    sizes = []
    for i in range(figures.count()):
        figures.nth(i).evaluate("image => image.scrollIntoView({block: 'center'})")
        figures.nth(i).wait_for(state="visible")
        box = figures.nth(i).bounding_box()
        sizes.append((box["width"], box["height"], figures.nth(i).evaluate("image => image.complete && image.naturalWidth > 0")))
    return sizes


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all(browser, server, name, tmp_path):
    address, notebooks = server
    page = open_notebook(browser, address, name)
    cells = run_all(page, notebooks / name)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output["evalue"] for output in outputs if output["output_type"] == "error"] == []
    assert page.locator(".jp-Notebook .jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert ["".join(cell["source"]) for cell in cells if not ran(cell)] == []
    pictures = [output for output in outputs if any(kind.startswith("image/") for kind in output.get("data", {}))]
    sizes = looked_at(page)
    page.screenshot(path=tmp_path / "page.png")
    assert len(sizes) == len(pictures) >= 3
    assert [size for size in sizes if min(size[:2]) < 50 or not size[2]] == []
    assert not [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    page.close()


def test_progress_is_seen_in_the_browser(browser, server, tmp_path):
    address, notebooks = server
    code = "import time\nfrom skin_lesion.data import progress\nfor _ in progress(range(4), desc='counting'): time.sleep(0.2)"
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata=kernel), notebooks / "progress.ipynb")
    page = open_notebook(browser, address, "progress.ipynb")
    click_run_all(page)
    shown = page.locator(".jp-Notebook .jp-OutputArea-output").filter(has_text=re.compile("counting: 100%"))
    try:
        shown.wait_for()
    finally:
        page.screenshot(path=tmp_path / "page.png")
    assert shown.inner_text().count("counting") == 1, "the bar stays on one line"
    page.close()


def test_no_notebook_needs_widgets():
    sources = [*(ROOT / "nbs").rglob("*.ipynb"), *(ROOT / "skin_lesion").glob("*.py")]
    named = re.compile(r"ipywidgets|tqdm\.(auto|autonotebook|notebook)|vnd\.jupyter\.widget-view")
    assert [path.name for path in sources if named.search(path.read_text(encoding="utf-8"))] == []
    assert not re.search(r"^ipywidgets==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_make_lab_opens_the_notebooks():
    said = subprocess.run(["make", "--no-print-directory", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1].split() == [".venv/bin/jupyter", "lab", "nbs"]
