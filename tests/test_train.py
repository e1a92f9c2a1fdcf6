"A run that is killed goes on; the sample can be learned, and not too easily."
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from skin_lesion.data import load_table, save_split, split_lesions
from skin_lesion.evaluate import report
from skin_lesion.models import load
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, alone, demo_config, demo_run, train

SHORT = Config(size=32, epochs=5, batch_size=8)
IN_ANOTHER_PROCESS = """
import sys
import pandas as pd
from skin_lesion.train import Config, train
train(pd.read_csv(sys.argv[1]), sys.argv[2], Config(size=32, epochs=5, batch_size=8))
"""


@pytest.fixture(scope="module")
def table():
    return split_lesions(load_table(data_folder("sample")))


def few(table):
    "A table small enough to train on in seconds."
    parts = [table[table["part"] == part].groupby("dx").head(n) for part, n in [("train", 8), ("validation", 1), ("test", 1)]]
    return pd.concat(parts).reset_index(drop=True)


def test_a_run_killed_by_the_system_ends_like_an_unbroken_one(table, tmp_path):
    small = few(table)
    unbroken = train(small, tmp_path / "unbroken", SHORT)
    small.to_csv(tmp_path / "table.csv", index=False)
    process = subprocess.Popen([sys.executable, "-c", IN_ANOTHER_PROCESS, tmp_path / "table.csv", tmp_path / "killed"])
    last, deadline = tmp_path / "killed/checkpoints/last.npz", time.time() + 120
    while not last.exists() and time.time() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert last.exists() and not (tmp_path / "killed/model.keras").exists()
    with np.load(last) as checkpoint:
        assert len(json.loads(str(checkpoint["history"]))) < SHORT.epochs
    resumed = train(small, tmp_path / "killed", SHORT, resume=True)
    histories = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (unbroken, resumed)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-4)
    weights = [load(run / "model.keras")[0].get_weights() for run in (unbroken, resumed)]
    assert max(np.abs(a - b).max() for a, b in zip(*weights, strict=True)) < 1e-4


def test_a_lesion_on_both_sides_is_not_trained_on(table, tmp_path):
    leaky = table.assign(part=np.where(np.arange(len(table)) % 3, "train", "test"))
    with pytest.raises(ValueError, match="on both sides"):
        train(leaky, tmp_path / "run", SHORT)
    with pytest.raises(ValueError, match="on both sides"):
        save_split(leaky, tmp_path / "split.csv")


def test_a_folder_that_another_training_holds_is_left_alone(table, tmp_path):
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"), pytest.raises(ValueError, match="Another process"):
        train(few(table), tmp_path / "run", SHORT)
    assert not (tmp_path / "run/history.csv").exists()


def test_the_small_network_learns_the_sample_but_not_all_of_it(table, tmp_path):
    scores = [report(demo_run(table.drop(columns="part")))["balanced_accuracy"]["value"]]
    for seed in (1, 2):
        run = train(table, tmp_path / f"seed{seed}", replace(demo_config(table), seed=seed))
        scores.append(report(run)["balanced_accuracy"]["value"])
    assert 0.6 <= np.mean(scores) <= 0.95, scores
