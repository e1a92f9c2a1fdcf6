"Ten kinds of bad input: each gets an error or a report that names the value and the next step."
import json
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skin_lesion.data import CLASSES, check_split, load_table, read_photo, split_lesions, verify
from skin_lesion.models import Info, create, load, save


@pytest.fixture
def folder(tmp_path):
    "Six photos of six lesions, one of them the only dermatofibroma."
    rng = np.random.default_rng(0)
    rows = [(f"P{i}", f"L{i}", dx) for i, dx in enumerate(["nv", "nv", "nv", "nv", "nv", "df"])]
    for name, *_ in rows:
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / f"{name}.jpg")
    pd.DataFrame(rows, columns=["image_id", "lesion_id", "dx"]).to_csv(tmp_path / "meta.csv", index=False)
    return tmp_path


def kinds(folder):
    return {problem["kind"]: problem["message"] for problem in verify(folder)["problems"]}


def rewrite(folder, change):
    table = pd.read_csv(folder / "meta.csv")
    change(table).to_csv(folder / "meta.csv", index=False)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*Give the folder"):
        load_table(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "\n", "image_id,lesion_id,dx\n"])
def test_empty_csv(tmp_path, content):
    (tmp_path / "meta.csv").write_text(content)
    with pytest.raises(ValueError, match=r"(?s)empty|no rows"):
        load_table(tmp_path)


def test_truncated_jpeg(folder):
    photo = folder / "P1.jpg"
    photo.write_bytes(photo.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"P1\.jpg' is truncated.*Fetch it again"):
        read_photo(photo)
    assert "P1.jpg" in kinds(folder)["truncated_photo"]


def test_text_renamed_jpg(folder):
    (folder / "P2.jpg").write_text("these are words")
    with pytest.raises(ValueError, match=r"P2\.jpg' is not a readable photo.*Fetch it again"):
        read_photo(folder / "P2.jpg")
    assert "P2.jpg" in kinds(folder)["unreadable_photo"]


def test_unknown_diagnosis(folder):
    rewrite(folder, lambda t: t.replace({"dx": {"df": "melanoma"}}))
    with pytest.raises(ValueError, match=r"'melanoma' in row 7.*expected one of akiec.*dx_map"):
        load_table(folder)
    assert "melanoma" in kinds(folder)["unknown_diagnosis"]
    assert load_table(folder, dx_map={"melanoma": "mel"})["dx"].iloc[5] == "mel"


def test_duplicate_id(folder):
    rewrite(folder, lambda t: pd.concat([t, t.iloc[[3]]]))
    with pytest.raises(ValueError, match=r"'P3' stands 2 times.*one row per photo"):
        load_table(folder)
    assert "P3" in kinds(folder)["duplicate_id"]


def test_lesion_on_both_sides():
    table = pd.DataFrame({"image_id": ["A", "B"], "lesion_id": ["L", "L"], "part": ["train", "test"]})
    with pytest.raises(ValueError, match=r"'L' is in train and test.*split_lesions"):
        check_split(table)


def test_class_with_one_lesion(folder):
    with pytest.raises(ValueError, match=r"Class df has 1 lesion.*Leave the class out or add"):
        split_lesions(load_table(folder))
    assert "df has 1" in kinds(folder)["small_class"]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_wrong_or_missing_class_order(tmp_path, suffix):
    model = create("cnn", 32)
    foreign = tmp_path / f"foreign{suffix}"
    model.save(foreign)
    with pytest.raises(ValueError, match=r"foreign.*does not say the order.*classes="):
        load(foreign)
    assert load(foreign, classes=CLASSES)[1].classes == CLASSES
    with pytest.raises(ValueError, match=r"df, mel, nv"):
        save(model, tmp_path / f"sorted{suffix}", Info("cnn", 32, classes=tuple(sorted(CLASSES))))


def test_class_order_edited_in_a_file(tmp_path):
    good, wrong = tmp_path / "good.keras", tmp_path / "wrong.keras"
    save(create("cnn", 32), good, Info("cnn", 32))
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(wrong, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "skin_lesion.json":
                content = json.dumps({**json.loads(content), "classes": sorted(CLASSES)})
            target.writestr(name, content)
    with pytest.raises(ValueError, match=r"wrong\.keras.*akiec, bcc, bkl, df, mel, nv, vasc"):
        load(wrong)


def test_20000_pixels_square(tmp_path):
    photo = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(photo)
    with pytest.raises(ValueError, match=r"huge\.png' is too large.*smaller"):
        read_photo(photo)


def test_keras_is_not_asked_to_run_foreign_code(tmp_path):
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Lambda(lambda x: x[:, 0, 0] @ np.ones((3, 7)))])
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match=r"lambda\.keras"):
        load(tmp_path / "lambda.keras", classes=CLASSES)
