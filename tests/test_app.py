"The command line keeps its contract: JSON shapes, exit codes, files written."
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from skin_lesion.app import app
from skin_lesion.data import CLASSES, fit_photo, load_table, save_split, split_lesions
from skin_lesion.models import Info, load, save
from skin_lesion.sample import data_folder

runner = CliRunner()


def call(*arguments, code=0):
    "Run a command in this process; its JSON object, or its text without --json."
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout) if "--json" in arguments else result.output


@pytest.fixture(scope="module")
def table():
    return load_table(data_folder("sample"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A short training by the command line, in a process of its own: nothing but JSON may reach standard output."
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "--data", "sample", "--model", "cnn", "--size", "48", "--epochs", "2", "--out", str(folder), "--json"]
    done = subprocess.run([sys.executable, "-c", "from skin_lesion.app import main; main()", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"run", "test"}
    return folder


def test_a_run_leaves_its_folder(run):
    written = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert written >= {"config.json", "split.csv", "history.csv", "predictions.csv", "environment.json", "model.json", "model.keras", "metrics.json"}
    assert {"checkpoints/last.npz", "checkpoints/best.npz", "figures/test_confusion.png", "figures/test_reliability.png"} <= written
    assert len(pd.read_csv(run / "history.csv")) == 2


def test_precision_of_the_training_and_of_the_artifact(tmp_path):
    words = ["train", "--data", "sample", "--model", "cnn", "--size", "32", "--epochs", "1", "--precision", "mixed_bfloat16"]
    call(*words, "--set", "sampler=balanced", "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["precision"] == "mixed_bfloat16"
    model, _ = load(tmp_path / "run/model.keras")
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


def test_a_run_is_not_overwritten_and_a_finished_one_is_reused(run):
    words = ["train", "--data", "sample", "--model", "cnn", "--size", "48", "--epochs", "2", "--out", run]
    before = (run / "model.keras").stat().st_mtime_ns
    assert "--resume" in call(*words, code=2)
    assert "epochs: 2 is now 3" in call(*words[:-3], "3", "--out", run, "--resume", code=2)
    call(*words, "--resume")
    assert (run / "model.keras").stat().st_mtime_ns == before


def test_verify(table, tmp_path):
    found = call("verify", "sample", "--json")
    assert set(found) == {"n_photos", "n_lesions", "classes", "problems"}
    assert (found["n_photos"], found["n_lesions"], found["problems"]) == (len(table), table["lesion_id"].nunique(), [])
    few = table.groupby("dx").head(4)
    few.drop(columns="path").to_csv(tmp_path / "meta.csv", index=False)
    for row in few.itertuples():
        (tmp_path / Path(row.path).name).write_bytes(Path(row.path).read_bytes())
    cut = tmp_path / Path(few["path"].iloc[0]).name
    cut.write_bytes(cut.read_bytes()[:-4000])
    problems = call("verify", tmp_path, "--json", code=1)["problems"]
    assert [(p["kind"], p["image_ids"]) for p in problems] == [("truncated_photo", [few["image_id"].iloc[0]])]
    assert few["image_id"].iloc[0] in call("verify", tmp_path, code=1)


def test_evaluate(run, table, tmp_path):
    split = tmp_path / "split.csv"
    save_split(split_lesions(table), split)
    metrics = call("evaluate", "--model", run, "--data", "sample", "--split", split, "--part", "test", "--out", tmp_path / "out", "--json")
    assert {"n", "accuracy", "balanced_accuracy", "macro_auc", "ece", "per_class", "confusion", "class_order"} <= set(metrics)
    assert metrics["class_order"] == list(CLASSES)
    assert metrics["n"] == sum(map(sum, metrics["confusion"])) == (split_lesions(table)["part"] == "test").sum()
    for name in ("accuracy", "balanced_accuracy", "macro_auc", "ece"):
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    assert set(metrics["per_class"]["mel"]) == {"recall", "precision", "f1", "n"}
    assert metrics == json.loads((run / "metrics.json").read_text())["test"]
    assert metrics == json.loads((tmp_path / "out/metrics.json").read_text())["test"]
    assert (tmp_path / "out/figures/test_confusion.png").exists()


def test_evaluate_without_a_split_takes_everything_and_says_null_for_absent_classes(run, table, tmp_path):
    few = table[table["dx"].isin(["nv", "mel"])].groupby("dx").head(6)
    few.drop(columns="path").to_csv(tmp_path / "meta.csv", index=False)
    for row in few.itertuples():
        (tmp_path / Path(row.path).name).write_bytes(Path(row.path).read_bytes())
    metrics = call("evaluate", "--model", run / "model.keras", "--data", tmp_path, "--json")
    assert metrics["n"] == 12
    assert metrics["per_class"]["df"] == {"recall": None, "precision": None, "f1": None, "n": 0}


def test_predict(run, table, tmp_path):
    good, bad = Path(table["path"].iloc[0]), tmp_path / "bad.jpg"
    bad.write_text("no photo")
    found = call("predict", "--model", run, good, "--json")
    (photo,) = found["photos"]
    assert set(photo) == {"path", "dx", "probabilities", "strangeness", "familiar"} and list(photo["probabilities"]) == list(CLASSES)
    assert sum(photo["probabilities"].values()) == pytest.approx(1)
    ratio = {dx: p * found["prior"][dx] / found["prevalence"][dx] for dx, p in photo["probabilities"].items()}
    assert photo["dx"] == max(ratio, key=ratio.get)
    photos = call("predict", "--model", run, good, bad, tmp_path / "none.jpg", "--out", tmp_path / "a/table.csv", "--json", code=1)["photos"]
    assert [set(p) for p in photos] == [set(photo), {"path", "error"}, {"path", "error"}]
    written = pd.read_csv(tmp_path / "a/table.csv")
    assert written["error"].notna().tolist() == [False, True, True]


def test_predictions_of_the_command_line_are_those_of_the_run(run):
    predictions = pd.read_csv(run / "predictions.csv").head(20)
    paths = load_table(data_folder("sample")).set_index("image_id").loc[predictions["image_id"], "path"]
    photos = call("predict", "--model", run, *paths, "--json")["photos"]
    assert [p["dx"] for p in photos] == predictions["decision"].tolist()
    given = pd.DataFrame([p["probabilities"] for p in photos])
    assert (given - predictions[list(CLASSES)]).abs().to_numpy().max() < 1e-5


def test_gradcam_of_data_writes_a_picture_per_class(run, tmp_path):
    call("gradcam", "--model", run, "--data", "sample", "--out", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{dx}_gradcam.jpg" for dx in CLASSES)
    with Image.open(tmp_path / "mel_gradcam.jpg") as picture:
        assert picture.width > 2 * picture.height


def test_gradcam_of_photos(run, table, tmp_path):
    photo = table["path"].iloc[3]
    (tmp_path / "bad.jpg").write_text("no photo")
    pictures = call("gradcam", photo, tmp_path / "bad.jpg", "--model", run, "--out", tmp_path / "o", "--class", "mel", "--json", code=1)["pictures"]
    assert pictures[0]["explained"] == "mel" and Path(pictures[0]["file"]).exists() and "bad.jpg" in pictures[1]["error"]
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / Path(photo).name).write_bytes(Path(photo).read_bytes())
    both = call("gradcam", photo, tmp_path / "below", "--model", run, "--out", tmp_path / "o", "--json")["pictures"]
    assert [Path(p["file"]).name for p in both] == [f"{Path(photo).stem}{n}_gradcam.jpg" for n in ("", "-2")]
    assert all(Path(p["file"]).exists() for p in both)
    assert "either photos or --data" in call("gradcam", photo, "--data", "sample", "--model", run, code=2)
    assert "melanoma" in call("gradcam", photo, "--model", run, "--class", "melanoma", code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "no/such/folder"], "no/such/folder"),
        (["train", "--data", "sample", "--model", "resnet", "--out", "{tmp}/run"], "resnet"),
        (["train", "--data", "sample", "--precision", "float8", "--out", "{tmp}/run"], "mixed_bfloat16"),
        (["evaluate", "--model", "no.keras", "--data", "sample"], "no.keras"),
        (["predict", "--model", "{tmp}", "x.jpg"], "model.keras"),
        (["predict", "--model", "{run}", "{tmp}"], "No photo"),
        (["evaluate", "--model", "{run}", "--data", "sample", "--split", "{tmp}/none.csv"], "none.csv"),
        (["train", "--data", "sample"], "--out"),
        (["nonsense"], "nonsense"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_wrong_usage_ends_with_two_and_names_the_value(words, said, run, tmp_path):
    assert said in call(*[w.format(tmp=tmp_path, run=run) for w in words], code=2)


def test_an_error_is_a_json_object_too():
    assert "no/such/folder" in call("verify", "no/such/folder", "--json", code=2)["error"]


@pytest.mark.parametrize("command", ["demo", "verify", "train", "evaluate", "gradcam", "predict"])
def test_help(command):
    assert "--json" in call(command, "--help")


def test_a_network_of_ones_own_is_asked_as_it_is(tmp_path):
    "Its layers may be called twice, which nothing can be folded into."
    photos = keras.Input((32, 32, 3))
    twice = keras.layers.Conv2D(3, 3, padding="same")
    pooled = keras.layers.GlobalAveragePooling2D()(twice(twice(photos)))
    own = keras.Model(photos, keras.layers.Dense(7, activation="softmax")(pooled), name="own")
    save(own, tmp_path / "own.keras", Info("own", 32))
    photo = load_table(data_folder("sample"))["path"].iloc[0]
    done = CliRunner().invoke(app, ["predict", "--model", str(tmp_path / "own.keras"), "--json", photo])
    assert done.exit_code == 0, done.output
    answer = np.asarray(own.predict_on_batch(fit_photo(photo, 32)[None]))[0]
    assert list(json.loads(done.stdout)["photos"][0]["probabilities"].values()) == pytest.approx(answer.tolist(), abs=1e-5)
