"The site: nbdev's own processing of the notebooks, rendered without Quarto; with Quarto where it is installed."
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import yaml
from conftest import NBS, NOTEBOOKS, ROOT, SETTINGS, copy_checkout

HIDDEN = re.compile(r"^#\|\s*(hide\s*$|default_exp|exporti?\b|output: false|include: false)", re.MULTILINE)
PROCESS = """
import nbdev.doclinks
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs

refresh_quarto_yml()
nbdev.doclinks._build_modidx()
nbdev_sidebar.__wrapped__()
proc_nbs(n_workers=0)
"""

LOOK = """async () => {
    const pictures = [...document.images]
    pictures.forEach(picture => { picture.loading = 'eager' })
    const loaded = picture => picture.complete || new Promise(done => { picture.onload = picture.onerror = done; setTimeout(done, 5000) })
    await Promise.all(pictures.map(loaded))
    return {
        ids: [...document.querySelectorAll('[id]')].map(element => element.id),
        links: [...document.querySelectorAll('a[href]')].map(link => link.href),
        broken: pictures.filter(picture => !picture.naturalWidth).map(picture => picture.src.slice(0, 80)),
    }
}"""
CUT = """() => {
    const scrolls = element => element && (/auto|scroll/.test(getComputedStyle(element).overflowX) || scrolls(element.parentElement))
    const cut = [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
    return [document.documentElement.scrollWidth - innerWidth, ...cut.map(element => element.outerHTML.slice(0, 100))]
}"""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}


def run(*command, cwd):
    "Run a command on a copy of the repository, with that copy's library and tools."
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), str(cwd / "tools")])}
    result = subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The processed notebooks, the folder of their pages, and what smalldocs has to say about them."
    checkout = copy_checkout(tmp_path_factory.mktemp("docs"))
    run(sys.executable, "-c", PROCESS, cwd=checkout)
    said = run(Path(sys.executable).with_name("smalldocs"), "render", "_proc", cwd=checkout)
    return checkout / "_proc", checkout / "_proc" / "_docs", said


def front_matter(site, path):
    "The front matter that nbdev gives a page."
    return nbformat.read(site[0] / path.relative_to(NBS), as_version=4).cells[0].source


def page(site, path):
    "The rendered page of a notebook."
    return (site[1] / path.relative_to(NBS).with_suffix(".html")).read_text(encoding="utf-8")


def shown_outputs(path):
    "The saved outputs of the cells that a reader sees."
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and not HIDDEN.search(c.source)]
    return [output.get("data", {}) for cell in cells for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_page_has_title_and_description(site, path):
    name = re.sub(r"^\d+[a-z]?_", "", path.stem)
    assert re.search(r"^title: \S", front_matter(site, path), re.MULTILINE), "the notebook needs an H1"
    assert re.search(r"^description: \S", front_matter(site, path), re.MULTILINE), "the H1 needs a line that starts with >"
    assert f"output-file: {name}.html" in front_matter(site, path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_page_shows_the_saved_outputs(site, path):
    html, outputs = page(site, path), shown_outputs(path)
    pictures = [o["image/png"].replace("\n", "") for o in outputs if "image/png" in o]
    assert [p[:40] for p in pictures if p not in html] == []
    tables = sum('class="dataframe"' in o.get("text/html", "") for o in outputs)
    assert html.count('class="dataframe') >= tables


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name != "index.ipynb"], ids=lambda p: p.name)
def test_page_documents_what_the_module_exports(site, path):
    module = ROOT / "skin_lesion" / f"{re.sub(r'^[0-9]+[a-z]?_', '', path.stem)}.py"
    if not module.exists():
        pytest.skip(f"{path.name} makes no module")
    public = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", module.read_text(encoding="utf-8"), re.MULTILINE)
    html = page(site, path)
    assert [name for name in public if not re.search(rf'<h3 id="{name.lower()}(-\d+)?"', html)] == []
    assert "](http" not in re.sub(r"<[^>]+>", "", html), "a link that is not rendered"


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if re.match(r"0[0-6]_", p.name)], ids=lambda p: p.name)
def test_every_section_has_a_picture_or_a_table(path):
    proofs, section = {}, None
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            section = cell.source.removeprefix("## ").splitlines()[0]
            proofs[section] = 0
        elif cell.cell_type == "markdown":
            proofs[section] = proofs.get(section, 0) + ("|---" in cell.source)
        elif not HIDDEN.search(cell.source):
            shown = [kind for output in cell.outputs for kind in output.get("data", {})]
            proofs[section] = proofs.get(section, 0) + sum(kind == "text/html" or kind.startswith("image/") for kind in shown)
    assert [section for section, n in proofs.items() if section and not n] == []


def test_every_notebook_is_in_the_sidebar(site):
    sidebar = (site[0] / "sidebar.yml").read_text(encoding="utf-8")
    assert [name for path in NOTEBOOKS if (name := path.relative_to(NBS).as_posix()) not in sidebar] == []


def test_internal_links_resolve(site):
    quarto_only = re.compile(r"output-file is not read|(lightbox|html-math-method|format\.html\.grid) is ignored")
    assert [line for line in site[2].splitlines() if line.startswith("warning:") and not quarto_only.search(line)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_links_between_notebooks_hold_on_github_too(path):
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"]
    links = re.findall(r"\]\(([^)\s]+)", "".join("".join(c["source"]) for c in cells))
    assert [link for link in links if "://" not in link and re.search(r"\.html\b", link)] == [], "link to the .ipynb"


def test_symbols_link_to_their_pages(site):
    base = f"https://{SETTINGS['user']}.github.io/{SETTINGS['repo']}/"
    html = {re.search(r"output-file: (\S+)", front_matter(site, p)).group(1): page(site, p) for p in NOTEBOOKS}
    links = {link for text in html.values() for link in re.findall(rf'href="{base}([^"]+)"', text)}
    missing = [link for link in links if f'id="{link.partition("#")[2]}"' not in html.get(link.partition("#")[0], "")]
    assert missing == []


def test_pages_name_no_machine(site):
    assert [path.name for path in site[1].rglob("*.html") if "site-packages" in path.read_text(encoding="utf-8")] == []


def test_notebooks_are_read_in_the_order_of_their_numbers(site):
    contents = yaml.safe_load((site[0] / "sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    numbered = [name for name in contents if isinstance(name, str) and name.endswith(".ipynb")]
    assert numbered == ["index.ipynb", *sorted(set(numbered) - {"index.ipynb"})]


def test_what_is_new_is_the_changelog(site):
    html = re.sub(r"<[^>]+>|\W", "", (site[1] / "changes.html").read_text(encoding="utf-8"))
    said = re.findall(r"^- (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [line for line in said if re.sub(r"\W", "", line)[:40] not in html] == []


def test_settings_ask_for_search_and_for_light_and_dark():
    settings = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert settings["website"]["navbar"]["search"] and settings["website"]["page-navigation"]
    assert {"light", "dark"} <= set(settings["format"]["html"]["theme"])


@pytest.fixture(scope="module")
def address(site):
    "The address at which the pages are served."
    handler = partial(SimpleHTTPRequestHandler, directory=site[1])
    handler.func.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def open_tab(browser, address, errors):
    "A tab without the world outside, whose errors are noted."
    tab = browser.new_page(viewport=WIDE)
    tab.set_default_timeout(120_000)
    tab.route(lambda url: not url.startswith(address), lambda route: route.fulfill(status=200, body=""))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("response", lambda response: errors.append(f"{response.status} {response.url}") if response.status >= 400 else None)
    return tab


@pytest.fixture(scope="module")
def seen(browser, address):
    "What a reader meets who starts at home and follows every link: {page: links, ids, broken pictures, errors, what is cut at each width}."
    seen, ahead, errors = {}, ["index.html"], []
    tab = open_tab(browser, address, errors)
    while ahead:
        name = ahead.pop()
        tab.set_viewport_size(WIDE)
        tab.goto(address + name)
        found = tab.evaluate(LOOK)
        found["links"] = [unquote(link.removeprefix(address)) for link in found["links"] if link.startswith(address)]
        cut = {}
        for width in (WIDE, NARROW):
            tab.set_viewport_size(width)
            cut[width["width"]] = tab.evaluate(CUT)
        seen[name] = {**found, "cut": cut, "errors": list(errors)}
        errors.clear()
        pages = {link.partition("#")[0] or "index.html" for link in found["links"]}
        ahead += [page for page in sorted(pages) if page.endswith(".html") and page not in seen and page not in ahead]
    return seen


def test_every_page_is_reached_from_home(seen):
    names = {path.relative_to(NBS).with_suffix(".html").as_posix() for path in NOTEBOOKS}
    assert names | {"changes.html"} <= set(seen)


def test_links_lead_somewhere(seen, site):
    broken = []
    for name, found in seen.items():
        for link in found["links"]:
            target, _, anchor = link.partition("#")
            target = target or "index.html"
            there = anchor in ["", *seen[target]["ids"]] if target in seen else (site[1] / target).is_file()
            if not there:
                broken.append((name, link))
    assert broken == []


def test_pictures_are_shown(seen):
    assert {name: found["broken"] for name, found in seen.items() if found["broken"]} == {}


def test_pages_log_no_error(seen):
    assert {name: found["errors"] for name, found in seen.items() if found["errors"]} == {}


@pytest.mark.parametrize("width", [WIDE["width"], NARROW["width"]])
def test_pages_fit_the_screen(seen, width):
    assert {name: found["cut"][width] for name, found in seen.items() if found["cut"][width] != [0]} == {}


@pytest.mark.skipif(not shutil.which("quarto"), reason="Quarto is not installed")
def test_quarto_builds_the_site(checkout):
    run(Path(sys.executable).with_name("nbdev_docs"), cwd=checkout)
    pages = [p.relative_to(NBS).with_name(re.sub(r"^\d+[a-z]?_", "", p.stem) + ".html") for p in NOTEBOOKS]
    assert [page.as_posix() for page in pages if not (checkout / "_docs" / page).exists()] == []
