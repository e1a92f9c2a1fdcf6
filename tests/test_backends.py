"One model on every backend: what is trained on one predicts the same on the others, whatever the precision of the training."
import os
import subprocess

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import BACKENDS, ROOT, python_with

from skin_lesion.data import CLASSES, load_table, pixels, split_lesions
from skin_lesion.models import Info, create, load, save
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, train

OTHERS = [name for name in BACKENDS if name != keras.backend.backend()]
PREDICT = """
import sys
import numpy as np
from skin_lesion.models import load
photos = np.load(sys.argv[1])
np.savez(sys.argv[2], *[load(path)[0].predict(photos, verbose=0) for path in sys.argv[3:]])
"""

def run_on(backend, code, *arguments):
    "Run code in a new process on a backend."
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([python_with(backend), "-c", code, *map(str, arguments)], check=True, env=environment)


@pytest.fixture(scope="module")
def table():
    split = split_lesions(load_table(data_folder("sample")))
    few = [split[split["part"] == part].groupby("dx").head(n) for part, n in [("train", 8), ("validation", 1), ("test", 2)]]
    return pd.concat(few).reset_index(drop=True)


@pytest.fixture(scope="module", params=["float32", "mixed_bfloat16"])
def trained(request, table, tmp_path_factory):
    "A run of a few steps in that precision."
    return train(table, tmp_path_factory.mktemp("runs") / "run", Config(size=32, epochs=2, batch_size=8, precision=request.param))


def test_what_is_saved_computes_in_float32_and_made_the_predictions(trained, table):
    model, info = load(trained / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {layer.variable_dtype for layer in model.layers} == {"float32"}
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype("float32")}
    written = pd.read_csv(trained / "predictions.csv")
    photos = pixels(table.set_index("image_id").loc[written["image_id"]].reset_index(), info.size)
    np.testing.assert_allclose(model.predict(photos, verbose=0), written[list(CLASSES)], atol=1e-5)


@pytest.mark.parametrize("backend", OTHERS)
def test_a_trained_model_predicts_the_same_elsewhere(trained, table, backend, tmp_path):
    python_with(backend)
    photos = pixels(table, 32)
    model, info = load(trained / "model.keras")
    files = [trained / "model.keras", save(model, tmp_path / "model.h5", info)]
    np.save(tmp_path / "photos.npy", photos)
    run_on(backend, PREDICT, tmp_path / "photos.npy", tmp_path / "answers.npz", *files)
    expected = model.predict(photos, verbose=0)
    assert expected.std(axis=0).min() > 1e-3, "a model that answers every photo alike would prove nothing"
    with np.load(tmp_path / "answers.npz") as answers:
        for name in answers.files:
            np.testing.assert_allclose(answers[name], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", OTHERS)
def test_pretrained_weights_give_the_same_elsewhere(backend, tmp_path):
    python_with(backend)
    model = create("efficientnet_lite0", 64, "imagenet")
    photos = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "photos.npy", photos)
    path = save(model, tmp_path / "model.keras", Info("efficientnet_lite0", 64))
    run_on(backend, PREDICT, tmp_path / "photos.npy", tmp_path / "answers.npz", path)
    with np.load(tmp_path / "answers.npz") as answers:
        np.testing.assert_allclose(answers["arr_0"], model.predict(photos, verbose=0), rtol=0, atol=1e-4)
