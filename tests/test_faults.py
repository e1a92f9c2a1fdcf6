"A full disk, a folder that cannot be written, a photo that is none: each is named, and what was there before stays as it was."
import errno
import json
import os
import shutil
import subprocess
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from children import Child, build_cache, shell, store_features
from soak import fault
from test_app import call
from test_fuzz import FOREIGN, GOOD, sized

from skin_lesion.data import CANNOT_WRITE, CLASSES, atomic_write, pixels, save_split, unzip_photos
from skin_lesion.evaluate import report
from skin_lesion.gradcam import panels
from skin_lesion.models import Info, create, save
from skin_lesion.predict import open_model, predict
from skin_lesion.sample import make_sample
from skin_lesion.train import Config, train

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")


def mount(*words):
    "Mount something, or skip the test for those who may not."
    if not shutil.which("mount") or subprocess.run(["mount", *map(str, words)], capture_output=True).returncode:
        pytest.skip("this account may not mount a disk")


@contextmanager
def read_only(folder):
    "A folder in which nobody can write; root can, whatever the permissions say, unless it is mounted so."
    folder.chmod(0o555)
    mounted = os.access(folder, os.W_OK)
    try:
        if mounted:
            mount("--bind", folder, folder)
            mount("-o", "remount,ro,bind", folder)
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], capture_output=True)
        folder.chmod(0o755)


@contextmanager
def small_disk(folder):
    "A disk of one megabyte."
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "none", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def content_of(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path):
    "The folder of a run that has been reported on, without its training."
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(7), 70)
    known = {"image_id": [f"P{i}" for i in range(70)], "lesion_id": [f"L{i}" for i in range(70)], "dx": np.resize(CLASSES, 70), "part": "test"}
    table = pd.DataFrame(known).join(pd.DataFrame(p, columns=list(CLASSES))).assign(decision=np.array(CLASSES)[p.argmax(axis=1)])
    (tmp_path / "run").mkdir()
    table.to_csv(tmp_path / "run/predictions.csv", index=False)
    (tmp_path / "run/model.json").write_text(json.dumps({"prevalence": [1 / 7] * 7}))
    report(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("code", CANNOT_WRITE, ids=lambda code: errno.errorcode[code])
def test_what_cannot_be_written_is_named_and_the_earlier_file_stays(code, tmp_path):
    file = tmp_path / "result.csv"
    file.write_text("yesterday's")
    said = r"result\.csv' cannot be written \(.+\)\. .* unharmed\. Make room"
    with fault("simulated write errors"), pytest.raises(OSError, match=said), atomic_write(file) as draft:
        draft.write_text("half of to")
        raise OSError(code, os.strerror(code))
    assert content_of(tmp_path) == {str(file): b"yesterday's"}


def test_another_error_is_passed_on_and_the_earlier_file_stays(tmp_path):
    (tmp_path / "result.csv").write_text("yesterday's")
    with pytest.raises(KeyError, match="typo"), atomic_write(tmp_path / "result.csv") as draft:
        draft.write_text("half of to")
        raise KeyError("typo")
    assert content_of(tmp_path) == {str(tmp_path / "result.csv"): b"yesterday's"}


@posix
def test_a_report_into_a_read_only_folder_leaves_the_last_one(run):
    before = content_of(run)
    with fault("read-only folders"), read_only(run):
        with pytest.raises(OSError, match=r"metrics\.json' cannot be written"):
            report(run)
        assert content_of(run) == before


@posix
def test_nothing_starts_in_a_read_only_folder(tmp_path, monkeypatch):
    table = pd.DataFrame({"image_id": ["A", "B"], "lesion_id": ["A", "B"], "dx": ["nv", "mel"], "path": "x.jpg", "part": "train"})
    home = tmp_path / "home"
    home.mkdir()
    with fault("read-only folders", 4), read_only(home):
        with pytest.raises(OSError, match=r"split\.csv' cannot be written"):
            train(table, home / "run", Config(size=32))
        with pytest.raises(OSError, match=r"split\.csv' cannot be written"):
            save_split(table, home / "split.csv")
        with pytest.raises(OSError, match=r"home.sample' cannot be written"):
            make_sample(home / "sample")
        monkeypatch.setenv("SKIN_LESION_CACHE", str(home / "cache"))
        with pytest.raises(OSError, match=r"'.*home.cache' .*SKIN_LESION_CACHE"):
            pixels(table, 32)
        assert not any(home.iterdir())


@posix
@pytest.mark.parametrize("what", ["pixels", "features"])
def test_a_cache_that_does_not_fit_the_disk_is_an_error_and_no_crash(what, tmp_path):
    (tmp_path / "photo.png").write_bytes(GOOD["PNG"])
    task = (build_cache, tmp_path / "photo.png", 40, 128) if what == "pixels" else (store_features, tmp_path / "cache/features.npy", 40)
    with fault("full disks"), small_disk(tmp_path / "cache"):
        code, said = Child(tmp_path, *task).end()
        assert code == 1 and "cannot be written (No space left on device)" in said, said
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@contextmanager
def full_disk(limit):
    "A disk that refuses files over `limit` bytes."
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@posix
def test_a_picture_that_does_not_fit_the_disk_leaves_the_last_one(tmp_path):
    picture = panels(np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8), np.zeros((224, 224), "float32"))
    with atomic_write(tmp_path / "panels.jpg") as draft:
        picture.savefig(draft)
    before = content_of(tmp_path)
    for spared in (1, 1000, 50_000):
        limit = (tmp_path / "panels.jpg").stat().st_size - spared
        said = r"panels\.jpg' cannot be written \(File too large\)"
        with fault("full disks"), full_disk(limit), pytest.raises(OSError, match=said), atomic_write(tmp_path / "panels.jpg") as draft:
            picture.savefig(draft)
    assert content_of(tmp_path) == before


@posix
def test_a_sample_and_photos_that_do_not_fit_the_disk_are_named_and_leave_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("A.jpg", bytes(range(256)) * 200)
    before = content_of(tmp_path)
    for made, make in {"sample": make_sample, "photos": lambda folder: unzip_photos(tmp_path / "photos.zip", folder)}.items():
        with fault("full disks"), full_disk(9_000), pytest.raises(OSError, match=rf"{made}' cannot be written \(File too large\)"):
            make(tmp_path / made)
    assert content_of(tmp_path) == before


@pytest.fixture
def mixed(tmp_path):
    "A folder with every kind of photo, the names of the good ones, and the number of bad ones."
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    good = {f"{kind}.jpg": content for kind, content in GOOD.items()}
    bad = {f"below/{kind}.png": content for kind, content in FOREIGN.items()}
    bad |= {"cut.jpg": GOOD["JPEG"][:-60], "huge.png": sized("PNG", 30_000)}
    for name, content in (good | bad | {"._hidden.jpg": b"not meant"}).items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    (folder / "link.jpg").symlink_to(folder / "nowhere.jpg")
    return folder, sorted(good), len(bad) + 1


@posix
def test_predict_on_a_folder_stops_for_no_file(mixed, tmp_path):
    folder, good, n_bad = mixed
    save(create("cnn", 32), tmp_path / "model.keras", Info("cnn", 32))
    with fault("bad photos in a folder", n_bad):
        found = call("predict", folder, "--model", tmp_path / "model.keras", "--out", tmp_path / "table.csv", "--json", code=1)["photos"]
        assert sorted(Path(p["path"]).name for p in found if "error" not in p) == good
        failed = {p["path"]: p["error"] for p in found if "error" in p}
        assert len(failed) == n_bad and all(path in error for path, error in failed.items())
        written = pd.read_csv(tmp_path / "table.csv")
        assert written["path"].tolist() == [p["path"] for p in found] and written["error"].notna().sum() == n_bad
        text = call("predict", folder, "--model", tmp_path / "model.keras", code=1)
        assert all(error in text for error in failed.values())
        model, info = open_model(tmp_path / "model.keras")
        (alone,) = predict(model, info, [folder / good[0]])
        assert next(p for p in found if p["path"] == str(folder / good[0]))["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)
        for path in folder.rglob("*.jpg"):
            path.unlink() if not path.is_dir() else path.rmdir()
        assert all("error" in p for p in call("predict", folder, "--model", tmp_path / "model.keras", "--json", code=1)["photos"])


@posix
def test_a_file_name_that_no_terminal_can_show_costs_nobody_else_an_answer(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(GOOD["PNG"])
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")).write_bytes(GOOD["PNG"])
    except OSError:
        pytest.skip("this file system takes no such name")
    save(create("cnn", 32), tmp_path / "model.keras", Info("cnn", 32))
    code, said = Child(tmp_path, shell, ["predict", folder, "--model", tmp_path / "model.keras", "--out", tmp_path / "table.csv"]).end()
    assert code == 0, said
    assert len(pd.read_csv(tmp_path / "table.csv")) == 2
