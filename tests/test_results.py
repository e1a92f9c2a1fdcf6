"What is written about results is what the committed tables give."
import json
import os
import re
import shutil
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import NBS, ROOT
from nbclient import NotebookClient

import skin_lesion
from skin_lesion.data import CLASSES, load_table
from skin_lesion.evaluate import score_text
from skin_lesion.faithfulness import summarise
from skin_lesion.predict import load_best_model, open_familiarity, predict
from skin_lesion.sample import data_folder

RESULTS = ROOT / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/predictions.csv"))
KEPT = {"config.json", "environment.json", "history.csv", "metrics.json", "model.json", "predictions.csv"}
SPLIT = pd.read_csv(RESULTS / "split.csv", dtype=str).set_index("image_id")


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def honest(folder):
    return read(folder, "config").get("protocol", "honest") == "honest"


def said(path):
    "All text and outputs of a notebook, as saved."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = [json.dumps(output.get("data", {}), ensure_ascii=False) for cell in cells for output in cell.get("outputs", [])]
    return "\n".join(["".join(cell["source"]) for cell in cells] + shown)


def numbers(content, name=""):
    "Every leaf of nested dicts and lists, with its path as a name."
    if not isinstance(content, (dict, list)):
        yield name, content
        return
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield from numbers(value, f"{name}/{key}")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_a_result_says_how_it_was_made(folder):
    assert {path.name for path in folder.iterdir()} >= KEPT
    environment, config = read(folder, "environment"), read(folder, "config")
    assert {"command", "machine", "minutes", "versions"} <= set(environment) and environment["minutes"] > 0
    assert {"seed", "size", "epochs", "split_hash"} <= set(config)
    assert len(pd.read_csv(folder / "history.csv")) <= config["epochs"]


@pytest.mark.parametrize("folder", [f for f in FOLDERS if honest(f)], ids=lambda p: p.name)
def test_what_was_predicted_is_what_the_split_held_out(folder):
    predictions = pd.read_csv(folder / "predictions.csv", dtype={"image_id": str, "lesion_id": str})
    expected = SPLIT.loc[predictions["image_id"]]
    assert (expected["part"].to_numpy() == predictions["part"].to_numpy()).all()
    assert len(predictions) == (SPLIT["part"] != "train").sum() and predictions["image_id"].is_unique
    assert np.allclose(predictions[list(CLASSES)].sum(axis=1), 1, atol=1e-4)


def test_one_script_scores_everything_again(tmp_path):
    shutil.copytree(RESULTS, tmp_path / "results")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    environment = {key: value for key, value in os.environ.items() if key != "SKIN_LESION_DATA"} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "tools/results.py"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert FOLDERS
    for folder in FOLDERS:
        again, kept = (dict(numbers(read(base / folder.name, "metrics"))) for base in (tmp_path / "results", RESULTS))
        assert again == pytest.approx(kept, abs=1e-9, nan_ok=True), folder.name


@pytest.mark.parametrize("folder", [f for f in FOLDERS if honest(f)], ids=lambda p: p.name)
def test_readme_and_pages_say_what_the_tables_give(folder):
    test = read(folder, "metrics")["test"]
    wanted = {"balanced_accuracy": test["balanced_accuracy"], "accuracy": test["accuracy"], "mel": test["per_class"]["mel"]["recall"]}
    for of in wanted.values():
        assert score_text(of, 2) in (ROOT / "README.md").read_text(encoding="utf-8")
        assert score_text(of, 3) in said(NBS / "10_results.ipynb")


def test_readme_says_what_leakage_is_worth():
    names = "lite0_leaky", "lite0_photos", "lite0_honest"
    leaky, photos, honest_one = (read(RESULTS / name, "metrics") for name in names)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = leaky["test"], leaky["unseen"], photos["test"], photos["unseen"], honest_one["test"]
    assert all(score_text(part["balanced_accuracy"], 2) in readme for part in parts)
    assert all(score_text(part["per_class"]["mel"]["recall"], 2) in readme for part in (parts[0], parts[1], parts[4]))
    other = {"protocol": None, "epochs": None, "diagnoses": None}  # the epochs differ so that the steps do not
    settings = [{**read(RESULTS / name, "config"), **other} for name in names]
    assert settings[0] == settings[1] == settings[2]


def test_the_model_card_says_what_the_tables_give():
    test, card = read(RESULTS / "best", "metrics")["test"], said(NBS / "11_model_card.ipynb")
    assert all(score_text(test[name], 3) in card for name in ("balanced_accuracy", "accuracy", "macro_auc", "ece"))
    assert all(score_text(test["per_class"][dx]["recall"], 2) in card for dx in CLASSES)
    assert score_text(test["per_class"]["mel"]["recall"], 3) in card
    assert read(RESULTS / "best", "model")["split_hash"][:12] in card


def test_prose_repeats_no_number_that_the_tables_do_not_give():
    "A score in running text is one that a table of the same page shows."
    for name in ("10_results", "11_model_card"):
        cells = json.loads((NBS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        outputs = "\n".join(json.dumps(o.get("data", {})) for c in cells for o in c.get("outputs", []))
        assert [n for n in re.findall(r"\b0\.\d{2,3}\b", prose) if n not in outputs] == [], Path(name)


def texts(notebook):
    "What the cells of a notebook show as text, pictures aside."
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if output.get("name") != "stderr"]
    said = [output["text"] if "text" in output else output["data"].get("text/plain", "") for output in shown]
    return [re.sub(r" at 0x[0-9a-f]+", "", text) for text in said]


@pytest.mark.parametrize("name", ["10_results", "11_model_card"])
def test_a_page_computes_again_what_it_shows_in_less_than_a_minute(name):
    saved = nbformat.read(NBS / f"{name}.ipynb", as_version=4)
    again, started = deepcopy(saved), time.monotonic()
    NotebookClient(again, resources={"metadata": {"path": str(NBS)}}).execute()
    assert time.monotonic() - started < 60
    assert texts(again) == texts(saved)


def test_the_model_that_ships():
    folder = Path(skin_lesion.__file__).parent / "best"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6 and "NonCommercial" in (folder / "LICENSE").read_text()
    model, info = load_best_model()
    assert info.split_hash == read(RESULTS / "best", "model")["split_hash"] and info.protocol.startswith("honest")
    (answer,) = predict(model, info, load_table(data_folder("sample"))["path"][:1].tolist(), familiarity=open_familiarity())
    assert sum(answer["probabilities"].values()) == pytest.approx(1) and answer["strangeness"] > 0


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/faithfulness_photos.csv")), ids=lambda p: p.parent.name)
def test_faithfulness_is_that_of_test_photos_and_sums_up_again(path):
    scores = pd.read_csv(path, dtype={"image_id": str, "lesion_id": str})
    assert set(SPLIT.loc[scores["image_id"], "part"]) == {"test"}
    kept = pd.read_csv(path.with_name("faithfulness.csv")).set_index(["method", "group", "metric"])
    some = scores[scores["method"] == "gradcam"].drop(columns="masks")
    again = pd.concat([summarise(some, by) for by in (None, "dx", "right")]).set_index(["method", "group", "metric"])
    for name in ("value", "low", "high"):
        assert again[name].to_numpy() == pytest.approx(kept.loc[again.index, name].to_numpy(), abs=1e-3), name
