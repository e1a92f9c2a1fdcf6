"Tables and folders as people have them: Dataverse's files, one folder per class, a table of one's own; and the same picture under two names."
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_download import EVIL
from typer.testing import CliRunner

from skin_lesion import data
from skin_lesion.app import app
from skin_lesion.data import CLASSES, check_split, load_table, near_duplicates, read_table, split_lesions, verify

ROWS = [(f"P{i}", f"L{i // 2}", dx) for i, dx in enumerate(["nv", "nv", "mel", "mel", "bkl", "bkl"])]


def draw(path, seed):
    "A photo with structure of its own."
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((200, 150), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def table():
    return pd.DataFrame(ROWS, columns=["image_id", "lesion_id", "dx"])


@pytest.fixture
def photos(tmp_path):
    "Six photos, in two folders."
    for i, (name, *_) in enumerate(ROWS):
        draw(tmp_path / f"photos/HAM10000_images_part_{i // 3 + 1}/{name}.jpg", i)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_LESION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.tab", "meta.tsv", "META.CSV"])
@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_a_table_is_known_by_its_columns(photos, table, name, separator):
    table.to_csv(photos / name, sep=separator, index=False, quoting=1)
    (photos / "LICENSE").write_text("Terms of use\n")
    (photos / ".DS_Store").write_bytes(bytes(100))
    found = load_table(photos)
    assert found[["image_id", "lesion_id", "dx"]].equals(table.astype("str")) and found["path"].notna().all()


@pytest.mark.parametrize("unpacked", [(), (1,)], ids=["zips", "zip and folder"])
def test_dataverse_as_downloaded(photos, table, tmp_path, cache, unpacked):
    home = tmp_path / "dataverse"
    home.mkdir()
    table.assign(dataset="vidir").to_csv(home / "HAM10000_metadata", sep="\t", index=False)
    for part in (1, 2):
        folder = photos / f"HAM10000_images_part_{part}"
        with zipfile.ZipFile(home / f"{folder.name}.zip", "w") as archive:
            for path in folder.iterdir():
                archive.write(path, path.name)
        if part in unpacked:
            folder.rename(home / folder.name)
    with zipfile.ZipFile(home / "masks.zip", "w") as archive:
        archive.writestr("P1_segmentation.png", b"no photo of this table")
    before = sorted(home.rglob("*"))
    found = load_table(home)
    assert found["path"].notna().all() and verify(home)["problems"][0]["kind"] == "small_class"
    assert sorted(home.rglob("*")) == before, "a data folder is not written to"
    made = sorted(p.name.rpartition("-")[0] for p in (cache / "unzipped").iterdir())
    assert made == [f"HAM10000_images_part_{part}" for part in (1, 2) if part not in unpacked]
    assert found["path"].str.startswith(str(home)).sum() == 3 * len(unpacked)
    times = [p.stat().st_mtime_ns for p in (cache / "unzipped").rglob("*.jpg")]
    load_table(home)
    assert times == [p.stat().st_mtime_ns for p in (cache / "unzipped").rglob("*.jpg")], "unpacked once"


def test_a_table_of_ones_own(photos):
    rows = [(f"a/folder/{name}.JPG", 7 + i, {"nv": "Naevus", "mel": "Melanoma", "bkl": "BKL"}[dx]) for i, (name, _, dx) in enumerate(ROWS)]
    pd.DataFrame(rows, columns=["file", "mole", "finding"]).to_csv(photos / "own.csv", index=False)
    with pytest.raises(ValueError, match=r"own\.csv.*load_table\(folder, image_id="):
        load_table(photos)
    names = {"image_id": "file", "dx": "finding", "dx_map": {"Naevus": "nv", "Melanoma": "mel"}}
    found = load_table(photos, lesion_id="mole", **names)
    assert found["dx"].tolist() == [dx for *_, dx in ROWS] and found["lesion_id"].tolist() == [str(7 + i) for i in range(6)]
    assert found["path"].notna().all()
    checked = verify(photos, lesion_id="mole", **names)
    assert (checked["n_photos"], checked["n_lesions"]) == (6, found["lesion_id"].nunique())
    assert "unknown_diagnosis" not in {problem["kind"] for problem in checked["problems"]}
    with pytest.warns(UserWarning, match=r"own\.csv has no lesion_id: every photo counts as its own lesion"):
        assert load_table(photos, **names)["lesion_id"].nunique() == 6
    with pytest.raises(ValueError, match="patient"):
        load_table(photos, lesion_id="patient", **names)
    with pytest.raises(ValueError, match=r"'Naevus'|'naevus'"):
        load_table(photos, image_id="file", dx="finding", lesion_id="mole")


def test_a_named_column_takes_the_place_of_one_that_has_its_name(photos, table):
    table.assign(diagnosis=table["dx"], dx="unchecked").to_csv(photos / "meta.csv", index=False)
    assert load_table(photos, dx="diagnosis")["dx"].tolist() == table["dx"].tolist()


def test_one_folder_per_class(tmp_path):
    for i, dx in enumerate(CLASSES):
        draw(tmp_path / f"train/{dx.upper()}/only_{i}.jpg", i)
        draw(tmp_path / f"test/{dx}/001.png", 10 + i)
    with pytest.warns(UserWarning, match="no lesion_id"):
        found = load_table(tmp_path)
    assert found["dx"].value_counts().to_dict() == dict.fromkeys(CLASSES, 2)
    assert {"only_0", "akiec/001", "mel/001"} <= set(found["image_id"])
    for row in found.itertuples():
        assert row.dx in row.path.lower() and row.image_id.rpartition("/")[2] in row.path


def test_diagnoses_are_mapped_in_any_spelling(photos, table):
    table.assign(dx=table["dx"].replace({"mel": "MELANOMA", "nv": "Naevus"})).to_csv(photos / "meta.csv", index=False)
    assert load_table(photos, dx_map={"melanoma": "mel", "NAEVUS": "nv"})["dx"].tolist() == table["dx"].tolist()


def test_photos_of_one_name_in_two_folders(tmp_path):
    rows = pd.DataFrame({"image_id": ["a/001.jpg", "b/001.jpg"], "lesion_id": ["1", "2"], "dx": ["nv", "mel"]})
    for i, name in enumerate(rows["image_id"]):
        draw(tmp_path / name, i)
    rows.to_csv(tmp_path / "meta.csv", index=False)
    assert [path[-len("a/001.jpg"):] for path in load_table(tmp_path)["path"]] == ["a/001.jpg", "b/001.jpg"]
    rows.assign(image_id=["c/001.jpg", "d/001.jpg"]).to_csv(tmp_path / "meta.csv", index=False)
    with pytest.raises(ValueError, match=r"'c/001\.jpg' and 'd/001\.jpg' .* are one file"):
        load_table(tmp_path)


def test_a_table_in_another_encoding_is_named(photos, table):
    (photos / "meta.csv").write_bytes(table.assign(site="R\u00fccken").to_csv(index=False).encode("cp1252"))
    with pytest.raises(ValueError, match=r"meta\.csv is not in UTF-8.*Excel"):
        load_table(photos)


@pytest.mark.filterwarnings("ignore:.*no lesion_id")
def test_class_folders_below_several_others(tmp_path):
    for i, part in enumerate(["train", "test"]):
        draw(tmp_path / part / "nv/1.jpg", i)
        draw(tmp_path / part / f"mel/{part}.jpg", 2 + i)
        (tmp_path / part / "nv/._1.jpg").write_bytes(b"what a Mac leaves beside a photo")
    assert set(load_table(tmp_path)["image_id"]) == {"train/nv/1", "test/nv/1", "train", "test"}


@pytest.mark.filterwarnings("ignore:.*no lesion_id")
def test_folders_with_other_names(tmp_path):
    draw(tmp_path / "Melanoma/a.jpg", 0)
    draw(tmp_path / "Naevus/b.jpg", 1)
    with pytest.raises(ValueError, match="one folder of photos per class"):
        load_table(tmp_path)
    assert load_table(tmp_path, dx_map={"Melanoma": "mel", "Naevus": "nv"})["dx"].tolist() == ["mel", "nv"]
    assert load_table(tmp_path, classes=("Naevus", "Melanoma"))["dx"].tolist() == ["Melanoma", "Naevus"]
    with pytest.raises(ValueError, match=r"'naevus'.*photo 'b'.*dx_map"):
        load_table(tmp_path, dx_map={"Melanoma": "mel"})


def test_folders_of_photos_without_any_table_are_not_classes(photos):
    with pytest.raises(ValueError, match=r"No table in a known layout.*found no table"):
        load_table(photos)


@pytest.fixture
def twins(photos, table):
    "The six photos and, as P6 of lesion L9, one of them turned, darker and saved again."
    with Image.open(photos / "HAM10000_images_part_1/P2.jpg") as photo:
        photo.transpose(Image.Transpose.ROTATE_90).point(lambda value: value * 0.7).save(photos / "P6.jpg", quality=50)
    pd.concat([table, pd.DataFrame([("P6", "L9", "mel")], columns=table.columns)]).to_csv(photos / "meta.csv", index=False)
    return photos


def test_near_duplicates(twins):
    pairs = near_duplicates(load_table(twins))
    assert pairs[["image_id", "lesion_id", "other_image_id", "other_lesion_id"]].to_numpy().tolist() == [["P2", "L1", "P6", "L9"]]
    assert near_duplicates(load_table(twins), distance=0).empty


def test_verify_names_near_duplicates_of_different_lesions(twins):
    found = [p for p in verify(twins)["problems"] if p["kind"] == "near_duplicates_across_lesions"]
    assert [p["image_ids"] for p in found] == [["P2", "P6"]] and "lesion L1, mel" in found[0]["message"]
    table = read_table(twins)
    table.assign(lesion_id=table["lesion_id"].replace("L9", "L1")).drop(columns="path").to_csv(twins / "meta.csv", index=False)
    assert "near_duplicates_across_lesions" not in {p["kind"] for p in verify(twins)["problems"]}


def test_the_command_counts_near_duplicates(twins):
    said = CliRunner().invoke(app, ["verify", str(twins)])
    assert "1 x near_duplicates_across_lesions" in said.output and "lesion L9" in said.output


def test_ten_thousand_photos_are_compared_within_a_minute():
    quarter = np.sign(np.random.default_rng(0).normal(size=(10_015 // 4, 16, 16))).astype("float32")
    began = time.process_time()
    assert data._alike(quarter, data.SAME_PICTURE) == {}
    assert time.process_time() - began < 60 / 16, "a quarter of the photos is a sixteenth of the pairs"


def test_verify_names_identical_photos_once(photos, table):
    (photos / "P6.jpg").write_bytes((photos / "HAM10000_images_part_1/P2.jpg").read_bytes())
    pd.concat([table, pd.DataFrame([("P6", "L9", "mel")], columns=table.columns)]).to_csv(photos / "meta.csv", index=False)
    kinds = [p["kind"] for p in verify(photos)["problems"]]
    assert kinds.count("identical_photos_across_lesions") == 1 and "near_duplicates_across_lesions" not in kinds


def test_a_split_keeps_chains_of_lesions_together():
    table = pd.DataFrame({"image_id": [f"P{i}" for i in range(60)], "lesion_id": [f"L{i:02d}" for i in range(60)], "dx": "nv"})
    chain = pd.DataFrame([("L05", "L40"), ("L59", "L58"), ("L40", "L59"), ("L05", "L05")], columns=["lesion_id", "other_lesion_id"])
    alone = [split_lesions(table, seed=s).set_index("lesion_id")["part"][["L05", "L40", "L59", "L58"]].nunique() for s in range(20)]
    splits = [split_lesions(table, seed=s, together=chain) for s in range(20)]
    assert [s.set_index("lesion_id")["part"][["L05", "L40", "L59", "L58"]].nunique() for s in splits] == [1] * 20 and max(alone) > 1
    for split in splits:
        check_split(split)
        assert split["lesion_id"].equals(table["lesion_id"]) and split["part"].nunique() == 3
    assert split_lesions(table, together=chain[:0]).equals(split_lesions(table))
    elsewhere = pd.DataFrame([("L05", "of another table"), ("no lesion", "L40")], columns=chain.columns)
    assert split_lesions(table, together=elsewhere).equals(split_lesions(table))


def test_photos_without_a_lesion_among_others_are_named(photos, table):
    table.assign(lesion_id=["L0", None, "L1", "", "L2", "L2"]).to_csv(photos / "meta.csv", index=False)
    with pytest.warns(UserWarning, match=r"meta\.csv has no lesion_id for 2 of 6 photos, the first is 'P1': each counts as its own lesion"):
        assert load_table(photos)["lesion_id"].tolist() == ["L0", "P1", "L1", "P3", "L2", "L2"]


@pytest.mark.parametrize("kind", ["cut", "damaged", "text"])
def test_a_zip_file_that_is_none_is_named_and_passed_over(photos, table, kind):
    table.to_csv(photos / "meta.csv", index=False)
    (photos / "more.zip").write_bytes({**EVIL, "damaged": (EVIL["cut"][0] + EVIL["text"][0] + EVIL["bomb"][0][-22:], "")}[kind][0])
    with pytest.warns(UserWarning, match=r"more\.zip' is not a whole zip file .* Fetch it again, or take it away"):
        assert load_table(photos)["path"].notna().all()


def test_what_is_hidden_does_not_count(photos, table):
    table.to_csv(photos / "meta.csv", index=False)
    (photos / ".ipynb_checkpoints").mkdir()
    (photos / "meta.csv").rename(photos / ".ipynb_checkpoints/meta-checkpoint.csv")
    table.to_csv(photos / "meta.csv", index=False)
    (photos / ".ipynb_checkpoints/more.zip").write_bytes(b"these are words")
    assert len(load_table(photos)) == 6
