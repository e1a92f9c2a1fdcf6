"The download against servers that stall, cut off, send something else, start over or refuse; and zip files that are not what they seem."
import hashlib
import http.server
import json
import re
import stat
import sys
import threading
import time
import types
import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from skin_lesion import data, download
from skin_lesion.app import app

TABLE = b"lesion_id,image_id,dx\nL1,A,nv\nL2,B,mel\n"


def zipped(members):
    "The bytes of a zip file."
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def photo(seed):
    "A JPEG of noise, about 300 kB."
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (450, 600, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


CONTENTS = {
    "/meta": ("HAM10000_metadata.csv", TABLE),
    "/1": ("HAM10000_images_part_1.zip", zipped({"A.jpg": photo(0)})),
    "/2": ("HAM10000_images_part_2.zip", zipped({"part_2/B.jpg": photo(1)})),
}


class Server(http.server.ThreadingHTTPServer):
    "Serves CONTENTS; what it does to the files below `/1` is the test's choice."
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.manner, self.asked, self.free = "good", [], threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        manner = self.server.manner if self.path == "/1" else "good"
        content, start = CONTENTS[self.path][1], int(re.search(r"\d+", self.headers["Range"]).group())
        self.server.asked.append((self.path, start))
        if manner == "refuses":
            return self.send_error(403)
        if manner == "moves":
            self.send_response(303)
            self.send_header("Location", "/2")
            return self.end_headers()
        if manner == "shows a page":
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            return self.wfile.write(b"<html>Please log in</html>")
        if manner in ("wrong bytes", "longer"):
            content = bytes(len(content) + (manner == "longer"))
        start = 0 if manner.startswith("starts over") and len(self.server.asked) < 9 else start
        self.send_response(200 if manner.startswith("starts over") else 206)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = {"cuts off": start + 70_000, "stalls": 70_000, "starts over and cuts off": 70_000, "says nothing": start}.get(manner)
        self.wfile.write(content[start:end])
        if manner in ("stalls", "says nothing"):
            self.wfile.flush()
            self.server.free.wait(5)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    files = [download.Published(name, address, len(content), hashlib.md5(content).hexdigest()) for address, (name, content) in CONTENTS.items()]
    monkeypatch.setattr(download, "FILES", files)
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.free.set()
    server.shutdown()
    server.server_close()


def content_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


WHOLE = {"HAM10000_metadata.csv", "HAM10000_images_part_1/A.jpg", "HAM10000_images_part_2/part_2/B.jpg"}


def test_all_of_it(server, tmp_path):
    folder = download.download(tmp_path / "ham", server.address)
    assert content_of(folder) == WHOLE
    assert data.load_table(folder)["path"].notna().all()
    asked = len(server.asked)
    download.download(folder, server.address)
    assert len(server.asked) == asked, "nothing is fetched twice"


def test_files_put_there_by_hand_are_used(server, tmp_path):
    for name, content in CONTENTS.values():
        (tmp_path / name).write_bytes(content)
    download.download(tmp_path, server.address)
    assert content_of(tmp_path) == WHOLE and server.asked == []


def test_a_cut_connection_is_taken_up_again(server, tmp_path):
    server.manner = "cuts off"
    assert content_of(download.download(tmp_path, server.address)) == WHOLE
    starts = [start for path, start in server.asked if path == "/1"]
    assert starts[0] == 0 and starts == sorted(set(starts)) and len(starts) >= 3


def test_a_stalling_server_is_left_and_the_next_call_goes_on(server, tmp_path):
    server.manner = "stalls"
    began = time.perf_counter()
    with pytest.raises(OSError, match=r"(?s)timed out.*by hand"):
        download.download(tmp_path, server.address)
    assert time.perf_counter() - began < 5
    part = tmp_path / "HAM10000_images_part_1.zip.part"
    have = part.stat().st_size
    assert 0 < have < len(CONTENTS["/1"][1]) and CONTENTS["/1"][1].startswith(part.read_bytes())
    server.manner, server.asked[:] = "good", []
    assert content_of(download.download(tmp_path, server.address)) == WHOLE
    assert ("/1", have) in server.asked


def test_a_server_that_says_nothing(server, tmp_path):
    server.manner = "says nothing"
    with pytest.raises(OSError, match=r"(?s)timed out.*by hand"):
        download.download(tmp_path, server.address)


def test_a_server_that_cannot_go_on_starts_over(server, tmp_path):
    (tmp_path / "HAM10000_images_part_1.zip.part").write_bytes(b"another beginning")
    server.manner = "starts over"
    assert content_of(download.download(tmp_path, server.address)) == WHOLE


def test_starting_over_and_cutting_off_ends(server, tmp_path):
    server.manner = "starts over and cuts off"
    with pytest.raises(OSError, match="by hand"):
        download.download(tmp_path, server.address)
    assert len(server.asked) < 6


OTHERS = {"wrong bytes": "hash", "longer": "not the published file", "moves": "not the published file|hash"}


@pytest.mark.parametrize(("manner", "said"), OTHERS.items())
def test_another_file_is_refused_and_not_kept(server, tmp_path, manner, said):
    server.manner = manner
    with pytest.raises(OSError, match=rf"(?s)({said}).*by hand"):
        download.download(tmp_path, server.address)
    left = content_of(tmp_path) - {"HAM10000_metadata.csv"}
    assert all((tmp_path / name).stat().st_size == 0 for name in left), left
    server.manner = "good"
    assert content_of(download.download(tmp_path, server.address)) == WHOLE


def test_a_page_in_the_place_of_a_file_leaves_what_had_arrived(server, tmp_path):
    part, content = tmp_path / "HAM10000_images_part_1.zip.part", CONTENTS["/1"][1]
    part.write_bytes(content[:1000])
    server.manner = "shows a page"
    with pytest.raises(OSError, match=r"(?s)a page \(text/html.*by hand"):
        download.download(tmp_path, server.address)
    assert part.read_bytes() == content[:1000]
    server.manner, server.asked[:] = "good", []
    assert content_of(download.download(tmp_path, server.address)) == WHOLE and ("/1", 1000) in server.asked


def test_a_zip_file_that_a_kill_left_beside_its_photos_is_removed(server, tmp_path):
    download.download(tmp_path, server.address)
    (tmp_path / "HAM10000_images_part_1.zip").write_bytes(CONTENTS["/1"][1])
    server.asked.clear()
    assert content_of(download.download(tmp_path, server.address)) == WHOLE and not server.asked


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.tab"])
def test_the_table_is_not_fetched_beside_one_that_a_browser_saved(server, tmp_path, name):
    (tmp_path / name).write_bytes(TABLE.replace(b",", b"\t"))
    download.download(tmp_path, server.address)
    assert "/meta" not in [path for path, _ in server.asked] and len(data.load_table(tmp_path)) == 2


def test_progress_is_shown_where_somebody_watches(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JPY_SESSION_NAME", "00a_download.ipynb")
    download.download(tmp_path, server.address)
    said = capsys.readouterr().err
    assert "HAM10000_images_part_1.zip: 100%" in said and "unzip HAM10000_images_part_2.zip: 100%" in said


def test_a_damaged_part_is_refused_and_fetched_anew(server, tmp_path):
    (tmp_path / "HAM10000_images_part_1.zip.part").write_bytes(b"another beginning")
    with pytest.raises(OSError, match="hash"):
        download.download(tmp_path, server.address)
    assert content_of(download.download(tmp_path, server.address)) == WHOLE


def test_a_refusal_says_how_to_do_it_by_hand(server, tmp_path):
    server.manner = "refuses"
    with pytest.raises(OSError, match="403") as error:
        download.download(tmp_path, server.address)
    text = download.by_hand(tmp_path)
    assert str(error.value).endswith(text)
    assert all(word in text for word in (download.DOI, str(tmp_path), "HAM10000_images_part_2.zip", "skin-lesion verify"))


def test_the_way_by_hand_stands_in_the_notebook():
    from conftest import ROOT

    cells = json.loads((ROOT / "nbs/00a_download.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = ["".join(output.get("text", "")).strip() for cell in cells for output in cell.get("outputs", [])]
    assert download.by_hand("ham10000") in shown


def test_command_line(server, tmp_path):
    result = CliRunner().invoke(app, ["download", "--to", str(tmp_path), "--from", server.address, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"folder": str(tmp_path), "n_photos": 2, "n_missing": 0}
    assert CliRunner().invoke(app, ["download", "--to", str(tmp_path / "b"), "--from", "elsewhere"]).exit_code == 2
    server.manner = "refuses"
    result = CliRunner().invoke(app, ["download", "--to", str(tmp_path / "c"), "--from", server.address])
    assert result.exit_code == 2 and "by hand" in result.output


def test_kaggle_without_its_package_names_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(OSError, match=r"(?s)pip install 'skin_lesion\[kaggle\]'.*by hand"):
        download.download(tmp_path, "kaggle")


def test_kaggle(monkeypatch, tmp_path):
    def dataset_download(handle):
        if handle != "kmader/skin-cancer-mnist-ham10000":
            raise AssertionError(handle)
        if not cached.exists():
            raise RuntimeError("403 Client Error")
        return str(cached)

    cached, wanted = tmp_path / "cached", tmp_path / "ham"

    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=dataset_download))
    with pytest.raises(OSError, match=r"(?s)kagglehub: 403.*by hand"):
        download.download(wanted, "kaggle")
    (cached / "part_1").mkdir(parents=True)
    (cached / "part_1/A.jpg").write_bytes(b"a photo")
    assert download.download(wanted, "kaggle") == wanted
    assert (wanted / "part_1/A.jpg").read_bytes() == b"a photo"


def link():
    "A zip file with a link in it."
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        member = zipfile.ZipInfo("A.jpg")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return buffer.getvalue()


EVIL = {
    "above": (zipped({"../A.jpg": b"x"}), "lies outside"),
    "absolute": (zipped({"/tmp/A.jpg": b"x"}), "lies outside"),
    "not a photo": (zipped({"B.jpg": b"x", "../../.bashrc": b"x"}), "lies outside"),
    "link": (link(), "is a link"),
    "bomb": (zipped({"A.jpg": bytes(20_000_000)}), "100-fold"),
    "cut": (zipped({"A.jpg": photo(2)})[:-2000], "not a whole zip file"),
    "damaged": (zipped({"A.jpg": photo(2)})[:50_000] + bytes(1000) + zipped({"A.jpg": photo(2)})[51_000:], "not a whole zip file"),
    "text": (b"these are words", "not a whole zip file"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_zip_files_are_unpacked_whole_or_refused(kind, tmp_path):
    content, said = EVIL[kind]
    (tmp_path / "x").mkdir()
    (tmp_path / "x/evil.zip").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        data.unzip_photos(tmp_path / "x/evil.zip", tmp_path / "x/photos")
    assert content_of(tmp_path) == {"x/evil.zip"} and not (tmp_path / "x/photos").exists()


def test_a_full_disk_is_noticed_before_unpacking(tmp_path, monkeypatch):
    (tmp_path / "good.zip").write_bytes(zipped({"A.jpg": photo(3)}))
    monkeypatch.setattr(data.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"1,000 left\. Make room"):
        data.unzip_photos(tmp_path / "good.zip", tmp_path / "photos")
