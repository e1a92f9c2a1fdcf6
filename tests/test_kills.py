"Killed at any moment, everything goes on and ends with the same numbers, bit for bit, as if nothing had happened."
import hashlib
import http.server
import json
import os
import random
import signal
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from children import Child, draw_sample, fetch, shell, train_and_report
from PIL import Image
from soak import LONG, fault
from test_download import CONTENTS, Handler

from skin_lesion import download
from skin_lesion.data import load_table, save_split, split_lesions
from skin_lesion.models import Info, create, save
from skin_lesion.sample import data_folder
from skin_lesion.train import Config

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs kill -9")
EPOCHS = ["epoch", "save_weights", "save_checkpoint"]
END = ["finish_run", "write_predictions", "save", "report"]
ORDER = ["_fill", *EPOCHS, *END]  # a place that a resumed run does not come to any more is stood for by the next
PLANS = {0: ["_fill", "save_checkpoint", "save", "report"]}
if LONG:
    PLANS = {seed: ["_fill", "_fill", *random.Random(seed).choices(EPOCHS, k=4), *END, "report"] for seed in range(1, 6)}
CONFIG = Config(size=32, epochs=5 if LONG else 3, batch_size=8, average=2, mixup=0.2, deterministic=LONG)
STORED = {"model": "efficientnet_lite0", "weights": "imagenet", "head_epochs": 2, "cached_views": 2, "frozen": "lite0_blocks14_add"}
CONFIGS = {"from scratch": CONFIG} | ({"on stored features": replace(CONFIG, **STORED)} if LONG else {})


def few(table):
    "A table small enough to train on in seconds."
    parts = [table[table["part"] == part].groupby("dx").head(n) for part, n in [("train", 5), ("validation", 1), ("test", 1)]]
    return pd.concat(parts).reset_index(drop=True)


@pytest.fixture(scope="module")
def table():
    return few(split_lesions(load_table(data_folder("sample"))))


@pytest.fixture(scope="module")
def unbroken(table, tmp_path_factory):
    "Runs that nothing happened to, and how long they stayed at each place."
    found = {}
    for name, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp("unbroken")
        child = Child(folder, train_and_report, table, folder / "run", config)
        code, said = child.end()
        assert code == 0, said
        found[name] = folder / "run", child.lasted()
    return found


def arrays(path):
    "Every weight in a model file."
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as weights, h5py.File(weights) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def same(run, other):
    "Assert that two runs came to the same history, weights, predictions, scores and figures."
    histories = [pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (run, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    weights = [arrays(folder / "model.keras") for folder in (run, other)]
    assert weights[0].keys() == weights[1].keys() and all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    for name in ("predictions.csv", "metrics.json", "split.csv", "config.json", "figures/test_roc.png"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def visible(folder):
    "Every file that is not hidden, nor in a hidden folder: what is half made is."
    return [p for p in folder.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def check_whole(folder):
    "Open every file that bears its name."
    for path in visible(folder):
        if path.suffix in (".npz", ".npy"):
            assert np.load(path, mmap_mode="r" if path.suffix == ".npy" else None) is not None
        if path.suffix in (".npz", ".keras", ".zip"):
            assert zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            assert len(pd.read_csv(path))
        elif path.suffix in (".png", ".jpg"):
            with Image.open(path) as photo:
                photo.load()


@pytest.mark.parametrize("seed", PLANS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_killed_again_and_again_ends_like_an_unbroken_one(name, seed, table, unbroken, tmp_path):
    chance, (expected, lasted) = random.Random(seed), unbroken[name]
    task = (tmp_path, train_and_report, table, tmp_path / "run", CONFIGS[name])
    killed = 0
    for place in PLANS[seed]:
        killed += Child(*task).strike(ORDER[ORDER.index(place) :], lasted[place] * chance.random() ** 3)  # often soon, or the place is left
        check_whole(tmp_path)
    with fault("kills of a training", killed):
        assert killed >= len(PLANS[seed]) // 2
        code, said = Child(*task).end()
        assert code == 0, said
        same(tmp_path / "run", expected)
        check_whole(tmp_path)


@pytest.fixture
def command(table, tmp_path):
    "The words that train the same on the command line."
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in table["path"]:
        (folder / Path(path).name).write_bytes(Path(path).read_bytes())
    table.drop(columns=["path", "part"]).to_csv(folder / "meta.csv", index=False)
    save_split(table, tmp_path / "split.csv")
    words = {"data": folder, "split": tmp_path / "split.csv", "out": tmp_path / "run", "size": CONFIG.size, "epochs": CONFIG.epochs}
    settings = [f"{name}={getattr(CONFIG, name)}" for name in ("batch_size", "average", "mixup", "deterministic")]
    options = [word for name, value in words.items() for word in (f"--{name}", value)] + [word for pair in settings for word in ("--set", pair)]
    return ["train", *options]


def test_a_training_that_meets_a_full_disk_and_ctrl_c_says_so_and_ends_like_an_unbroken_one(command, unbroken, tmp_path):
    with fault("full disks"):
        code, said = Child(tmp_path, shell, command, 100_000).end()
        assert code == 2 and "last.npz' cannot be written (File too large). What was there before is unharmed." in said, said
        check_whole(tmp_path)
        assert len(pd.read_csv(tmp_path / "run/history.csv")) == 1
    with fault("Ctrl-C"):
        child = Child(tmp_path, shell, [*command, "--resume"])
        assert child.listen("epoch")
        time.sleep(0.1)
        os.kill(child.process.pid, signal.SIGINT)
        code, said = child.end()
        assert code == 130 and said.endswith("stopped. Its finished epochs are kept: the same command with --resume goes on from there.\n"), said
        check_whole(tmp_path)
        assert len(pd.read_csv(tmp_path / "run/history.csv")) >= 1
        code, said = Child(tmp_path, shell, [*command, "--resume"]).end()
        assert code == 0, said
        same(tmp_path / "run", unbroken["from scratch"][0])


def content_of(folder):
    "Name and hash of every file that is not hidden."
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in visible(folder)}


def killed_often(what, folder, work, args, places, n, made):
    "Kill a task at random moments, n times from the beginning, and let it finish; the same files as unbroken must be there."
    chance = random.Random(n)
    first = Child(folder / "unbroken", work, *args(folder / "unbroken"))
    code, said = first.end()
    assert code == 0, said
    expected, lasted = content_of(made(folder / "unbroken")), first.lasted()
    assert expected
    struck = 0
    for i in range(n):
        home = folder / f"killed{i}"
        home.mkdir()
        place = places[i % len(places)]
        if Child(home, work, *args(home)).strike([place], chance.uniform(0, 0.9 * lasted[place])):
            struck += 1
            with fault(f"kills of a {what}"):
                check_whole(home)
                code, said = Child(home, work, *args(home)).end()
                assert code == 0, said
                assert content_of(made(home)) == expected
    assert struck >= n // 2


@pytest.fixture
def homes(tmp_path):
    (tmp_path / "unbroken").mkdir()
    return tmp_path


def test_a_sample_whose_drawing_is_killed_is_drawn_again(homes):
    drawn = lambda home: next((home / "cache").glob("sample-*"))  # noqa: E731
    killed_often("sample's drawing", homes, draw_sample, lambda home: (), ["make_sample"], 20 if LONG else 2, drawn)


@pytest.mark.parametrize("name", ["verify", "predict"])
def test_ctrl_c_leaves_nothing_half_written_and_says_so(name, homes, table):
    words = ["verify", "sample"]  # draws it first
    if name == "predict":
        words = [name, *table["path"], "--model", save(create("cnn", 224), homes / "model.keras", Info("cnn", 224)), "--out", homes / "out/table.csv"]
    with fault("Ctrl-C"):
        child = Child(homes, shell, words)
        assert child.listen("make_sample", "predict")
        time.sleep(0.2)
        os.kill(child.process.pid, signal.SIGINT)
        code, said = child.end()
        assert code == 130 and said.endswith("stopped. Nothing is left half written. Run it again.\n"), said
        assert not visible(homes / "out") and not visible(homes / "cache")


class Slow(Handler):
    "A server whose files take a moment."

    def do_GET(self):
        write = self.wfile.write

        def slowly(content):
            for at in range(0, len(content), 20_000):
                write(content[at : at + 20_000])
                time.sleep(0.005)

        self.wfile.write = slowly
        super().do_GET()


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads, server.manner, server.asked = True, "good", []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_that_is_killed_goes_on(homes, server):
    files = [download.Published(name, address, len(content), hashlib.md5(content).hexdigest()) for address, (name, content) in CONTENTS.items()]
    args = lambda home: (home / "ham10000", server, files)  # noqa: E731
    killed_often("download", homes, fetch, args, ["fetch", "unzip_photos", "fetch"], 30 if LONG else 3, lambda home: home / "ham10000")


def test_a_download_onto_a_full_disk_says_so_and_goes_on(homes, server):
    files = [download.Published(name, address, len(content), hashlib.md5(content).hexdigest()) for address, (name, content) in CONTENTS.items()]
    limit = max(file.size for file in files) // 2
    with fault("full disks"):
        code, said = Child(homes, fetch, homes / "ham10000", server, files, limit).end()
        assert code == 1 and "HAM10000 did not arrive: " in said and "File too large" in said, said
        kept = {path.name: path.stat().st_size for path in (homes / "ham10000").rglob("*.part")}
        assert list(kept.values()) == [limit], kept
        code, said = Child(homes, fetch, homes / "ham10000", server, files).end()
        assert code == 0, said
        check_whole(homes)
        assert len(load_table(homes / "ham10000"))


def test_predictions_that_are_killed_leave_no_half_table(homes, table):
    save(create("cnn", 32), homes / "model.keras", Info("cnn", 32))
    args = lambda home: (["predict", *table["path"].head(12), "--model", homes / "model.keras", "--out", home / "out/table.csv"],)  # noqa: E731
    killed_often("prediction", homes, shell, args, ["open_model", "predict"], 20 if LONG else 2, lambda home: home / "out")
