"HAM10000 itself, where SKIN_LESION_DATA names its folder (and the other layouts lie beside it)."
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from skin_lesion.data import CLASSES, load_split, load_table, near_duplicates, read_photo, split_hash, split_lesions, verify
from skin_lesion.drawing import REAL_COLOURS, region_colours
from skin_lesion.predict import load_best_model, predict

DATA = Path(os.environ.get("SKIN_LESION_DATA", "not set"))
SPLIT_HASH = "7a5e573c6911e6ba419f8dc37e2640fe985021eec85cb9a0aa7646cf729688b9"
ACROSS_LESIONS = [
    {"ISIC_0030074", "ISIC_0025226"},
    {"ISIC_0027027", "ISIC_0029036"},
    {"ISIC_0034248", "ISIC_0034228"},
    {"ISIC_0027636", "ISIC_0027994"},
]
COUNTS = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "nv": 6705, "vasc": 142, "mel": 1113}
real = pytest.mark.skipif(not (DATA / "HAM10000_metadata.csv").exists(), reason=f"SKIN_LESION_DATA is {DATA}, not a folder with HAM10000")


def beside(name):
    "Another published form of the same data, in a folder beside HAM10000's."
    folder = DATA.parent / name
    return folder if folder.exists() else pytest.skip(f"no folder {name} beside {DATA.name}")


@pytest.fixture(scope="module")
def table():
    return load_table(DATA)


def test_the_committed_split_is_the_one_that_results_name():
    split = pd.read_csv(ROOT / "results/split.csv", dtype=str)
    assert split_hash(split) == SPLIT_HASH
    for run in (ROOT / "results").glob("*/model.json"):
        assert json.loads(run.read_text())["split_hash"] == SPLIT_HASH, run.parent.name


@real
def test_all_of_it_is_there(table):
    assert (len(table), table["lesion_id"].nunique(), table["path"].isna().sum()) == (10015, 7470, 0)
    assert table["dx"].value_counts().to_dict() == COUNTS


@real
def test_the_committed_split_is_the_default_one(table):
    assert split_hash(split_lesions(table)) == split_hash(load_split(ROOT / "results/split.csv", table)) == SPLIT_HASH


@real
def test_the_archive_and_kaggle_agree_on_every_photo(table):
    archive = load_table(beside("isic_archive"), photos=DATA)
    both = table.merge(archive, on="image_id", suffixes=("", "_archive"))
    assert len(both) == len(table) == len(archive)
    for column in ("dx", "dx_type", "path"):
        assert (both[column] == both[f"{column}_archive"]).all(), column
    assert both.groupby("lesion_id")["lesion_id_archive"].nunique().max() == 1
    assert both.groupby("lesion_id_archive")["lesion_id"].nunique().max() == 1
    known = both.dropna(subset=["age", "age_archive"])
    assert (known["age"] == known["age_archive"]).all()


@real
@pytest.mark.filterwarnings("ignore:.*no lesion_id")
def test_the_challenge_layout():
    table = load_table(beside("isic2018_task3_validation"))
    assert len(table) == table["lesion_id"].nunique() == 193 and table["path"].notna().all()
    assert set(table["dx"]) == set(CLASSES)


@real
@pytest.mark.skipif(not (ROOT / "results/best").exists(), reason="no model ships yet")
def test_the_model_that_ships_gives_the_committed_predictions(table):
    kept = pd.read_csv(ROOT / "results/best/predictions.csv", dtype={"image_id": str}).groupby("dx").head(3).set_index("image_id")
    network, info = load_best_model()
    answers = predict(network, info, table.set_index("image_id")["path"][kept.index].tolist())
    found = pd.DataFrame([answer["probabilities"] for answer in answers], index=kept.index)
    assert (found - kept[list(CLASSES)]).abs().to_numpy().max() < 1e-3
    assert [answer["dx"] for answer in answers] == kept["decision"].tolist()


@real
def test_near_duplicates_and_a_split_that_keeps_them_together(table):
    pairs = near_duplicates(table)
    crossing = pairs[pairs["lesion_id"] != pairs["other_lesion_id"]]
    assert [{row.image_id, row.other_image_id} for row in crossing.itertuples()] == ACROSS_LESIONS
    assert len(pairs) == 178
    part = split_lesions(table, together=pairs).set_index("image_id")["part"]
    assert (part[crossing["image_id"]].to_numpy() == part[crossing["other_image_id"]].to_numpy()).all()


@real
def test_verify_finds_what_is_there():
    found = verify(DATA)
    assert (found["n_photos"], found["n_lesions"], found["classes"]) == (10015, 7470, COUNTS)
    twins = [set(problem["image_ids"]) for problem in found["problems"]]
    assert {p["kind"] for p in found["problems"]} == {"identical_photos", "near_duplicates_across_lesions"}
    assert [set(p["image_ids"]) for p in found["problems"] if p["kind"] == "near_duplicates_across_lesions"] == ACROSS_LESIONS
    assert {"ISIC_0029861", "ISIC_0024366"} in twins and {"ISIC_0029938", "ISIC_0024777"} in twins


@real
def test_the_colours_of_the_sample_are_those_of_the_photos(table):
    masks = {path.name.removesuffix("_segmentation.png"): path for path in DATA.rglob("*_segmentation.png")}
    if not masks:
        pytest.skip("no lesion masks beside the photos")
    measured = table[table["image_id"].isin(masks)]
    paths = zip(measured["path"], measured["image_id"].map(masks), strict=True)
    mean, within = np.stack([region_colours(read_photo(photo), cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)) for photo, mask in paths], axis=1)
    for dx in CLASSES:
        of = (measured["dx"] == dx).to_numpy()
        found = {"mean": np.nanmean(mean[of], 0), "scatter": np.nanstd(mean[of], 0), "within": np.nanmean(within[of], 0)}
        for what, values in found.items():
            assert np.abs(values - REAL_COLOURS.loc[what, dx]).max() < 0.11, (what, dx)
