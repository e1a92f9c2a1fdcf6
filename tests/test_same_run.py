"The same seed gives the same run, and a run goes on only as it was started."
import json
import os
import shutil
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from skin_lesion.data import load_table, split_lesions
from skin_lesion.models import load
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, add_in_one_order, start_run, train

SHORT = Config(size=32, epochs=2, batch_size=8, augmentation=1.5, mixup=0.2, deterministic=True)


@pytest.fixture(scope="module")
def table():
    table = split_lesions(load_table(data_folder("sample")))
    parts = [table[table["part"] == part].groupby("dx").head(n) for part, n in [("train", 8), ("validation", 1), ("test", 1)]]
    return pd.concat(parts).reset_index(drop=True)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    return train(table, tmp_path_factory.mktemp("runs") / "first", SHORT)


def test_the_same_seed_gives_the_same_bits(table, run, tmp_path):
    again = train(table, tmp_path / "again", SHORT)
    weights = [load(folder / "model.keras")[0].get_weights() for folder in (run, again)]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    histories = [pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (run, again)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert (run / "predictions.csv").read_bytes() == (again / "predictions.csv").read_bytes()


def test_a_training_asks_for_one_order_where_it_should(table, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("skin_lesion.train.add_in_one_order", lambda: asked.append(1) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(table, tmp_path / "run", SHORT)
    assert asked == [1]


def test_every_backend_is_asked_in_its_own_way(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    add_in_one_order(), add_in_one_order()
    assert os.environ["XLA_FLAGS"].split() == ["--xla_cpu_enable_fast_math=false", "--xla_gpu_deterministic_ops=true"]
    asked = []
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(use_deterministic_algorithms=asked.append))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    add_in_one_order()
    assert asked == [True] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.fixture
def begun(table, tmp_path):
    "The folder of a run that was begun and not finished."
    start_run(tmp_path / "run", table, SHORT, resume=False)
    return tmp_path / "run"


def edit(run, **values):
    "Make a run one that was started differently."
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, **values}))


def test_a_run_goes_on_as_it_was_started(begun, table):
    start_run(begun, table.sample(frac=1, random_state=0), SHORT, resume=True)


ANOTHER = {
    "config": ({"learning_rate": 0.5}, r"learning_rate: 0\.5 is now 0\.001"),
    "class order": ({"classes": ["nv", "mel"]}, r"classes: \['nv', 'mel'\] is now \['akiec', 'bcc'"),
    "keras": ({"version of keras": "3.0.0"}, r"version of keras: 3\.0\.0 is now"),
    "backend": ({"version of backend": "tensorflow 2.0.0"}, r"version of backend: tensorflow 2\.0\.0 is now"),
    "library": ({"version of skin_lesion": "0.0.1"}, r"version of skin_lesion: 0\.0\.1 is now"),
}


@pytest.mark.parametrize("what", ANOTHER)
def test_a_run_that_was_started_differently_is_refused_and_the_difference_shown(begun, table, what):
    values, said = ANOTHER[what]
    edit(begun, **values)
    with pytest.raises(ValueError, match=f"was started differently.*{said}.*Resume it as it was, or give another folder"):
        train(table, begun, SHORT, resume=True)


def test_other_diagnoses_are_refused(begun, table):
    with pytest.raises(ValueError, match="was started differently.*diagnoses: "):
        train(table.assign(dx=table["dx"].replace({"nv": "mel", "mel": "nv"})), begun, SHORT, resume=True)


def test_another_split_is_refused_and_the_first_photo_named(begun, table):
    lesion = table["lesion_id"][table["part"] == "test"].iloc[0]
    moved = table.assign(part=table["part"].mask(table["lesion_id"] == lesion, "train"))
    photo = table["image_id"][table["lesion_id"] == lesion].iloc[0]
    with pytest.raises(ValueError, match=f"split_hash: .*1 photos stand elsewhere, the first is '{photo}': test is now train"):
        train(moved, begun, SHORT, resume=True)
    with pytest.raises(ValueError, match=f"'{table['image_id'].iloc[0]}': train is now absent"):
        train(table[1:], begun, SHORT, resume=True)


def test_a_finished_run_stays_what_it_is(run, table, tmp_path):
    "It is given back under other libraries and under settings that it is too old to know, and under nothing else."
    old = tmp_path / "old"
    shutil.copytree(run, old)
    edit(old, **{"version of keras": "3.0.0"})
    assert train(table, old, SHORT, resume=True) == old
    config = json.loads((old / "config.json").read_text())
    del config["deterministic"], config["classes"]
    (old / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"deterministic: False is now True\)"):
        train(table, old, SHORT, resume=True)
    assert train(table, old, Config(**{**vars(SHORT), "deterministic": False}), resume=True) == old
