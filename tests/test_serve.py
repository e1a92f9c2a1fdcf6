"The web demo as it is met: by a browser, and by whoever knocks at its door."
import base64
import csv
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from skin_lesion.data import CLASS_NAMES, CLASSES, load_table, pixels
from skin_lesion.sample import data_folder

pytest.importorskip("gradio", reason="no gradio here; pip install 'skin_lesion[demo]'")

ODD = "<img src=x onerror=alert(1)> ${1+1} {{value}}.jpg"
SAID = "does not look like a dermatoscopic photograph"

# Writes down whom the server's process wants to reach, and which pages it forgets.
WATCHED = """
import socket, sys
from skin_lesion import serve
from skin_lesion.app import main

log = open(sys.argv.pop(1), "a", buffering=1)
connect, resolve, drop = socket.socket.connect, socket.getaddrinfo, serve.Pages.drop

def watched_connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1"):
        log.write(f"reached out to {address}\\n")
    return connect(self, address)

def watched_resolve(host, *rest, **options):
    if host not in ("127.0.0.1", "localhost", None):
        log.write(f"asked for {host}\\n")
    return resolve(host, *rest, **options)

def watched_drop(self, page):
    log.write(f"forgot {page} of {sorted(self.answers)}\\n")
    drop(self, page)

socket.socket.connect, socket.getaddrinfo, serve.Pages.drop = watched_connect, watched_resolve, watched_drop
main()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "A lesion of the sample, one under an odd name, noise, and a file that is no photo."
    from PIL import Image

    folder, found = tmp_path_factory.mktemp("photos"), load_table(data_folder("sample"))["path"]
    shutil.copy(found.iloc[0], folder / "lesion.jpg")
    shutil.copy(found.iloc[1], folder / ODD)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(folder / "noise.png")
    (folder / "bad.jpg").write_text("no photo")
    return [folder / name for name in ("lesion.jpg", ODD, "noise.png", "bad.jpg")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A run folder with a network that never learned, and with what it would call familiar."
    from dataclasses import asdict

    import keras

    from skin_lesion import models, predict

    keras.utils.set_random_seed(0)
    folder, table = tmp_path_factory.mktemp("run"), load_table(data_folder("sample"))
    network, info = models.create("cnn", 48), models.Info("cnn", 48, prevalence=(0.05, 0.05, 0.1, 0.05, 0.6, 0.05, 0.1))
    models.save(network, folder / "model.keras", info)
    features = predict.photo_features(network, pixels(table, 48), np.arange(0, len(table), 2))
    known = predict.learn_familiarity(features, features, accepted=1.0)
    np.savez_compressed(folder / "familiarity.npz", **asdict(known))
    return folder


class Server:
    "`skin-lesion serve` in a process of its own, with a folder of its own for temporary files."

    def __init__(self, folder, model, *options):
        self.temporary, self.log = folder / "tmp", folder / "log"
        self.temporary.mkdir()
        words = ["serve", "--model", str(model), "--port", "0", "--json", *options]
        environment = os.environ | {"TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
        command, self.errors = [sys.executable, "-c", WATCHED, str(self.log), *words], folder / "errors"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        self.address = json.loads(line)["address"]
        self.host, self.port = self.address.removeprefix("http://").split(":")

    def ask(self, method, path, content=None, **headers):
        "Status and content of the answer; the path is sent as it stands."
        connection = http.client.HTTPConnection(self.host, int(self.port), timeout=60)
        try:
            connection.request(method, path, content, headers, encode_chunked=True)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def upload(self, *files, **headers):
        "Status, and the paths under which the files lie, or the complaint."
        edge = uuid.uuid4().hex
        parts = [f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{f.name}"\r\n\r\n'.encode() + f.read_bytes() for f in files]
        content = b"\r\n".join([*parts, f"--{edge}--\r\n".encode()])
        status, said = self.ask("POST", "/gradio_api/upload", content, **{"Content-Type": f"multipart/form-data; boundary={edge}"}, **headers)
        return status, json.loads(said) if status == 200 else said.decode()

    def send(self, event, data, page, **headers):
        "Status of a message, and what came of it."
        body = json.dumps({"fn_index": event, "data": data, "session_hash": page, "trigger_id": None, "event_data": None})
        status, said = self.ask("POST", "/gradio_api/queue/join", body, **{"Content-Type": "application/json"}, **headers)
        if status != 200:
            return status, said.decode()
        _, stream = self.ask("GET", f"/gradio_api/queue/data?session_hash={page}")
        told = [json.loads(line.removeprefix("data: ")) for line in stream.decode().splitlines() if line.startswith("data: ")]
        return status, next(message for message in told if message["msg"] == "process_completed")

    def left(self):
        "Names of the files in its temporary folder."
        return [path.name for path in self.temporary.rglob("*") if path.is_file()]

    def end(self, how):
        "Its exit, after a signal."
        self.process.send_signal(how)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory, model):
    found = Server(tmp_path_factory.mktemp("server"), model)
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture(scope="module")
def small(tmp_path_factory, model):
    "A server that takes little at once."
    found = Server(tmp_path_factory.mktemp("small"), model, "--max-megabytes", "0.1")
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    "Two files, each of which it would take."
    files = [tmp_path_factory.mktemp("large") / name for name in ("a.jpg", "b.jpg")]
    for file in files:
        file.write_bytes(bytes(70_000))
    return files


def dropped(paths, names):
    "What a page sends once files were uploaded."
    return [[{"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}} for path, name in zip(paths, names, strict=True)]]


def test_only_this_computer_reaches_it(server):
    assert server.host == "127.0.0.1"
    assert server.ask("GET", "/")[0] == 200
    other = http.client.HTTPConnection("127.0.0.2", int(server.port), timeout=5)  # reached by a server that listens on every address
    with pytest.raises(OSError):
        other.request("GET", "/")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=https://example.com/x.jpg",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=https://example.com/x.jpg",
        "/static/../../../../../../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/static//etc/passwd",
        "/gradio_api/stream/a/b/1/playlist.m3u8",
        "/gradio_api/component_server",
        "/gradio_api/runs",
        "/monitoring/summary",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_other_file_is_served(server, path):
    status, said = server.ask("GET", path)
    assert status == 404 and b"root:" not in said


def test_an_upload_is_not_served_and_a_page_answers_it_once(server, photos):
    status, paths = server.upload(*photos)
    assert status == 200 and len(server.left()) == 4
    assert server.ask("GET", f"/gradio_api/file={paths[0]}")[0] == 404
    for _ in range(2):
        status, message = server.send(0, dropped(paths, [p.name for p in photos]), "apage")
        assert status == 200 and message["success"], message
        assert server.left() == []
        empty, table, *_ = message["output"]["data"]
        assert empty is None
        paths = server.upload(*photos)[1]
    server.send(0, dropped(paths, [p.name for p in photos]), "apage")
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(re.search('base64,([^"]+)', table)[1]).decode())))
    assert [row["photo"] for row in rows] == [p.name for p in photos]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True]
    assert [row["familiar"] for row in rows] == ["True", "True", "False", ""]
    assert SAID in table and str(server.temporary) not in table and ODD not in table
    status, message = server.send(2, [0, "mel"], "apage")
    assert message["success"] and "data:image/png;base64," in message["output"]["data"][0]
    status, message = server.send(2, [0, "mel"], "anotherpage")
    assert not message["success"] and "no longer kept" in message["output"]["error"]
    status, message = server.send(2, [0, "../mel"], "apage")
    assert not message["success"] and "Unknown diagnosis" in message["output"]["error"]
    assert server.left() == []


@pytest.mark.parametrize("event", [0, 1, 2])
@pytest.mark.parametrize("path", ["/etc/passwd", "https://example.com/x.jpg", "http://127.0.0.1/x.jpg", 1])
def test_nothing_can_be_named_that_was_not_uploaded(server, event, path):
    status, said = server.send(event, [dropped([path], ["x.jpg"]), "mel"], "apage")
    assert (status, said) == (403, "Only what was uploaded can be named.")
    assert server.left() == []


@pytest.mark.parametrize("headers", [{"Origin": "https://example.com"}, {"Origin": "null"}, {"Host": "example.com"}, {"Host": "127.0.0.1.com:80"}])
def test_another_site_is_sent_away(server, photos, headers):
    assert server.ask("GET", "/config", **headers)[0] == 403
    assert server.upload(photos[0], **headers)[0] == 403
    assert server.left() == []


def test_browsers_are_told_to_load_nothing_from_elsewhere(server):
    connection = http.client.HTTPConnection(server.host, int(server.port))
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert "default-src 'self'" in answer.getheader("content-security-policy") and answer.getheader("cache-control") == "no-store"
    assert not re.search(rb"<(?:script|link|img)[^>]+(?:src|href)=.https?:", answer.read())


def test_a_large_upload_is_refused(small, photos, large):
    status, said = small.upload(*large)
    assert status == 413 and "at most 0.1 MB" in said and small.left() == []
    assert small.ask("POST", "/gradio_api/upload", iter([b"x" * 90_000] * 3), **{"Transfer-Encoding": "chunked"})[0] == 411
    assert small.left() == []
    assert small.upload(photos[3])[0] == 200 and len(small.left()) == 1


SCREENS = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}


@pytest.fixture(params=SCREENS)
def page(request, browser, server):
    "The page in a window; at its end nothing may have gone wrong or have been fetched from elsewhere."
    context = browser.new_context(viewport=SCREENS[request.param], accept_downloads=True)
    page, troubles, hosts = context.new_page(), [], set()
    page.set_default_timeout(120_000)  # beside other tests, on two cores
    page.on("console", lambda message: message.type == "error" and troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda asked: hosts.add(re.match(r"\w+:(//[^/]+)?", asked.url)[0]))
    page.on("response", lambda answer: answer.status >= 400 and troubles.append(f"{answer.status} {answer.url}"))
    page.goto(server.address)
    page.screen = request.param
    yield page
    context.close()
    assert troubles == []
    assert hosts - {"data:", f"blob:{server.address}"} == {server.address}


def look(page, name):
    "A picture of the whole page where SKIN_LESION_SCREENSHOTS names a folder; and nothing sticks out of the window."
    if folder := os.environ.get("SKIN_LESION_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}_{page.screen}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def saved(download):
    "Rows of a table that was downloaded."
    return list(csv.DictReader(io.StringIO(Path(download.path()).read_text(encoding="utf-8"))))


def chooser(page, ask):
    "The window for files that an action opens. It is asked for again where the page was drawn but not yet listening."
    from playwright.sync_api import TimeoutError as NothingOpened

    for _ in range(20):
        with suppress(NothingOpened), page.expect_file_chooser(timeout=5000) as opened:
            ask()
            return opened.value
    pytest.fail("The button opens no window for files")


def test_by_mouse(page, server, photos):
    page.get_by_text("No diagnosis.").wait_for()
    look(page, "empty")
    chooser(page, page.locator("#photos button").first.click).set_files(photos)
    rows = page.locator("#table tbody tr")
    rows.nth(3).wait_for()
    said = rows.all_inner_texts()
    assert "lesion.jpg" in said[0] and ODD in said[1] and SAID in said[2] and "Could not be read" in said[3]
    page.locator("#picture img").wait_for()
    assert page.locator("#answer tbody tr").count() == len(CLASSES)
    look(page, "answered")
    with page.expect_download() as download:
        page.get_by_text("Download the table").click()
    assert [row["photo"] for row in saved(download.value)] == [p.name for p in photos]
    for dx in ("mel", "bcc", "df"):  # each is chosen while the one before is drawn: the last one counts
        page.locator("#kind").get_by_text(CLASS_NAMES[dx]).click()
    page.locator(f"#picture img[alt*='Grad-CAM for {CLASS_NAMES['df']}']").wait_for()
    assert page.locator("#picture img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 900
    for number, words in ((2, SAID), (3, "Could not be read")):
        page.locator("#photo input").click()
        page.get_by_role("option").nth(number).click()
        page.locator("#answer").get_by_text(words).wait_for()
        look(page, f"photo_{number + 1}")
    page.locator("#kind").wait_for(state="hidden")
    assert page.locator("#picture img").count() == 0
    assert server.left() == []


def tab_to(page, selector, key="Tab"):
    "Press Tab until something is in focus."
    for _ in range(40):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"Tab never reaches {selector}")


def test_by_keyboard(page, photos):
    page.locator("#photos button").first.wait_for()

    def enter():
        tab_to(page, "#photos button")
        page.keyboard.press("Enter")

    chooser(page, enter).set_files(photos)
    page.locator("#picture img").wait_for()
    tab_to(page, "a.download")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert len(saved(download.value)) == len(photos)
    tab_to(page, "#photo input")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator("#picture img[alt*='onerror']").wait_for()
    tab_to(page, "#kind input[value=df]")
    page.keyboard.press("Space")
    page.locator(f"#picture img[alt*='onerror'][alt*='Grad-CAM for {CLASS_NAMES['df']}']").wait_for()


def test_a_closed_page_is_forgotten(server, browser, photos):
    page = browser.new_page()
    page.goto(server.address)
    page.locator("#photos input[type=file]").set_input_files(photos[0])
    page.locator("#picture img").wait_for()
    forgotten = len(server.log.read_text().splitlines())
    page.close()
    deadline = time.time() + 20
    while len(server.log.read_text().splitlines()) == forgotten and time.time() < deadline:
        time.sleep(0.2)
    assert "forgot" in server.log.read_text().splitlines()[-1]


def test_too_large_is_said_on_the_page(small, browser, large):
    page = browser.new_page()
    page.goto(small.address)
    page.locator("#photos input[type=file]").set_input_files(large)
    page.get_by_text("at most 0.1 MB").first.wait_for()
    page.close()


def test_a_signal_ends_it_and_takes_what_was_uploaded(small, photos):
    small.upload(photos[3])
    assert small.left() == ["bad.jpg"]
    small.end(signal.SIGTERM)
    assert list(small.temporary.glob("skin_lesion_*")) == []
    assert not re.search("Traceback|ERROR", small.errors.read_text())


def test_the_server_reached_out_to_nobody_and_complained_of_nothing(server):
    assert [line for line in server.log.read_text().splitlines() if not line.startswith("forgot")] == []
    assert not re.search("Traceback|ERROR", server.errors.read_text())
