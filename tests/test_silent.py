"Mistakes that give an answer instead of an error: each is caught by a check that names it."
import json
import re
import warnings
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from skin_lesion import evaluate as scoring
from skin_lesion.app import app
from skin_lesion.data import (
    CHALLENGE_COLUMNS,
    CLASSES,
    FIT,
    STATISTICS,
    check_split,
    colour_quantiles,
    colour_statistics,
    load_table,
    pixels,
    read_photo,
    split_lesions,
)
from skin_lesion.models import Info, create, load, log_probabilities, save
from skin_lesion.predict import open_split
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, predict_table, train

SIZE = 48


@pytest.fixture(scope="module")
def table():
    return split_lesions(load_table(data_folder("sample")))


@pytest.fixture(scope="module")
def photos(table):
    return np.array(pixels(table, SIZE))


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    "A run of one epoch: what it answers is of no account here."
    few = pd.concat([table[table["part"] == part].groupby("dx").head(n) for part, n in (("train", 20), ("validation", 3), ("test", 6))])
    return train(few.reset_index(drop=True), tmp_path_factory.mktemp("runs") / "run", Config(size=SIZE, epochs=1))


@pytest.fixture(scope="module")
def known(table, photos):
    return colour_quantiles(colour_statistics(photos, np.flatnonzero(table["part"] == "train")))


def refit(table, how):
    "The photos brought to size in another way."
    return np.stack([how(read_photo(path)) for path in table["path"]])


def square(photo):
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    return photo[top : top + side, left : left + side]


OTHERS = {
    "as they are": (lambda photos: photos, ""),
    "BGR": (lambda photos: photos[..., ::-1], "read as BGR; give RGB"),
    "0..1 as bytes": (lambda photos: (photos / 255).astype(np.uint8), "scaled to 0..1; give 0..255"),
    "a dark lamp": (lambda photos: (photos * 0.5).astype(np.uint8), "Compare camera, lamp and file format"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_photos_of_another_kind_are_named(table, photos, known, name):
    change, said = OTHERS[name]
    found = scoring.colour_shift(change(photos), np.flatnonzero(table["part"] == "test"), known)
    assert said in found and bool(said) == bool(found), found


@pytest.mark.parametrize("interpolation", [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC])
def test_photos_that_were_resized_in_another_way_are_named(table, known, interpolation):
    test = table[table["part"] == "test"]
    other = refit(test, lambda photo: cv2.resize(square(photo), (SIZE, SIZE), interpolation=interpolation))
    found = scoring.colour_shift(other, np.arange(len(test)), known)
    assert "resized in another way" in found, found


@pytest.mark.parametrize("turned", [False, True])
def test_photos_that_were_squashed_into_the_square_are_named(table, known, turned):
    test = table[table["part"] == "test"]
    upright = (lambda photo: np.rot90(photo)) if turned else (lambda photo: photo)
    other = refit(test, lambda photo: cv2.resize(upright(photo), (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    for usual in (known, {name: known[name] for name in STATISTICS if name != "stretch"}):  # and a model from before it was kept
        found = scoring.colour_shift(other, np.arange(len(test)), usual)
        assert re.search(r"look squashed: they change (0\.[78]|1\.[234])\d times as much across as down", found), found


def test_floats_are_refused_by_name_wherever_a_model_is_asked(table, photos):
    model, info = create("cnn", SIZE), Info("cnn", SIZE)
    scaled = photos / np.float32(255)
    for call in (
        lambda: log_probabilities(model, scaled[:2]),
        lambda: predict_table(model, info, table, np.arange(2), scaled),
        lambda: scoring.colour_shift(scaled, np.arange(2), {}),
    ):
        with pytest.raises(ValueError, match=r"uint8 array .* of 0\.\.255, not float32 .*It looks scaled to 0\.\.1"):
            call()
    with pytest.raises(ValueError, match=r"not float32 \(2, 48, 48, 3\)\. Convert"):
        log_probabilities(model, photos[:2].astype("float32"))


def test_a_run_keeps_what_its_photos_look_like_and_evaluation_compares(table, photos, run):
    model, info = load(run / "model.keras")
    assert set(info.colours) == set(STATISTICS) and json.loads((run / "model.json").read_text())["colours"] == info.colours
    rows = np.flatnonzero(table["part"] == "test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = predict_table(model, info, table, rows, photos)
        predict_table(model, replace(info, colours=None), table, rows, photos[..., ::-1])
    with pytest.warns(UserWarning, match="read as BGR; give RGB"):
        swapped = predict_table(model, info, table, rows, photos[..., ::-1])
    assert not same[list(CLASSES)].equals(swapped[list(CLASSES)])


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".npz"])
def test_a_model_that_was_trained_on_another_resize_is_refused(tmp_path, suffix):
    path = save(create("cnn", SIZE), tmp_path / f"model{suffix}", Info("cnn", SIZE, fit="squashed"))
    with pytest.raises(ValueError, match=f"learned from photos resized by 'squashed', and this version resizes by '{FIT}'"):
        load(path)


def test_a_model_of_another_size_than_it_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("skin_lesion.models.create", lambda name, size, classes: create(name, 64, classes=classes))
    path = save(create("cnn", SIZE), tmp_path / "model.npz", Info("cnn", SIZE))
    with pytest.raises(ValueError, match=r"takes \(None, 64, 64, 3\), but says that its photos have a side of 48"):
        load(path)


def test_another_class_mix_is_named(table):
    n = 200
    dx = np.resize(CLASSES, n)
    answers = pd.DataFrame({"image_id": [f"P{i}" for i in range(n)], "lesion_id": [f"L{i}" for i in range(n)], "dx": dx, "part": "test"})
    answers = answers.assign(**dict.fromkeys(CLASSES, 1 / 7), decision="df")  # the rarest, for which equal probabilities decide under this mix
    ham = np.array([327, 514, 1099, 115, 6705, 142, 1113]) / 10015
    with pytest.warns(UserWarning, match=r"class mix is not that of the training: 14% of 200 photos are nv, there 67%"):
        scoring.evaluate(answers, ham, n_boot=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scoring.evaluate(answers.assign(decision="akiec"), np.ones(7) / 7, n_boot=2)
        scoring.evaluate(answers.assign(decision="akiec"), n_boot=2)
    by_chance = answers[:7].assign(dx=["nv", "nv", "nv", "mel", "mel", "bkl", "bcc"])
    assert scoring.mix_shift(by_chance, ham) == ""
    assert "vasc" in scoring.mix_shift(answers[answers["dx"] == "vasc"], ham)


def test_a_test_set_that_overlaps_the_training_is_named(table, run):
    crossing = table.assign(part=np.where(np.arange(len(table)) % 2, "train", "test"))
    with pytest.raises(ValueError, match=r"Lesion '.*' is in .*on both sides"):
        check_split(crossing)
    split = open_split(run)
    trained = table[table["lesion_id"].isin(split["lesion_id"][split["part"] == "train"])]
    fresh = table[~table["lesion_id"].isin(split["lesion_id"])]
    assert scoring.overlap(fresh, split) == ""
    said = scoring.overlap(pd.concat([fresh, trained[:3]]), split)
    assert f"3 of {len(fresh) + 3} photos" in said and trained["image_id"].iloc[0] in said
    renamed = fresh.assign(lesion_id=[f"X{i}" for i in range(len(fresh))])
    assert "1 of" in scoring.overlap(pd.concat([renamed, trained[:1].assign(lesion_id="Y")]), split)


def test_the_command_line_warns_of_photos_that_it_was_trained_on(table, run, tmp_path):
    words = ["evaluate", "--model", run, "--data", "sample", "--json"]
    with pytest.warns(UserWarning, match="photos are of lesions that the model was trained on"):
        assert CliRunner().invoke(app, list(map(str, words))).exit_code == 0
    table[["image_id", "lesion_id", "part"]].to_csv(tmp_path / "split.csv", index=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*was trained on")
        result = CliRunner().invoke(app, list(map(str, [*words, "--split", tmp_path / "split.csv"])))
    assert result.exit_code == 0, result.output


def test_the_model_that_ships_knows_its_split():
    assert (ROOT / "skin_lesion/best/split.csv").read_bytes() == (ROOT / "results/split.csv").read_bytes()
    assert open_split("best")["part"].isin(["train", "validation", "test"]).all()


def test_label_columns_in_another_order_are_read_by_name(table, tmp_path):
    few = table.groupby("dx").head(2)
    one_hot = pd.DataFrame({name: (few["dx"] == name.lower()).astype(float).to_numpy() for name in CHALLENGE_COLUMNS})
    for name, order in {"published": CHALLENGE_COLUMNS, "sorted": sorted(CHALLENGE_COLUMNS), "reversed": CHALLENGE_COLUMNS[::-1]}.items():
        folder = tmp_path / name
        folder.mkdir()
        pd.concat([few["image_id"].reset_index(drop=True).rename("image"), one_hot[order]], axis=1).to_csv(folder / "truth.csv", index=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert load_table(folder)["dx"].tolist() == few["dx"].tolist()


def test_probability_columns_in_another_order_are_refused(run):
    answers = pd.read_csv(run / "predictions.csv")
    answers = answers[answers["part"] == "test"]
    renamed = answers.rename(columns={"nv": "mel", "mel": "nv"})
    with pytest.raises(ValueError, match=r"expected \['image_id'.*bring them into this order"):
        scoring.evaluate(renamed)
    with pytest.raises(ValueError, match="one probability|does not say|class order"):
        load(run / "model.keras", classes=tuple(sorted(CLASSES)))


def test_decisions_of_another_class_order_are_noticed(run):
    "Probabilities under the wrong names no longer lead to the decisions beside them."
    answers, info = pd.read_csv(run / "predictions.csv"), json.loads((run / "model.json").read_text())
    answers = answers[answers["part"] == "test"].copy()
    answers[list(CLASSES)] = answers[sorted(CLASSES)].to_numpy()
    with pytest.raises(ValueError, match="this prevalence and prior decide for"):
        scoring.evaluate(answers, info["prevalence"], info["prior"])
