"The sample can be learned, and not too easily."
import os
import signal
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from skin_lesion.data import load_table, save_split, split_lesions
from skin_lesion.evaluate import report
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, Keeper, alone, demo_run, train

SHORT = Config(size=32, epochs=5, batch_size=8)


@pytest.fixture(scope="module")
def table():
    return split_lesions(load_table(data_folder("sample")))


def test_a_lesion_on_both_sides_is_not_trained_on(table, tmp_path):
    leaky = table.assign(part=np.where(np.arange(len(table)) % 3, "train", "test"))
    with pytest.raises(ValueError, match="on both sides"):
        train(leaky, tmp_path / "run", SHORT)
    with pytest.raises(ValueError, match="on both sides"):
        save_split(leaky, tmp_path / "split.csv")


def test_a_folder_that_another_training_holds_is_left_alone(table, tmp_path):
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"), pytest.raises(ValueError, match="Another process"):
        train(table, tmp_path / "run", SHORT)
    assert not (tmp_path / "run/history.csv").exists()


@pytest.mark.skipif(os.name == "nt" or threading.current_thread() is not threading.main_thread(), reason="needs a signal that the main thread hears")
def test_a_ctrl_c_that_keras_swallows_ends_the_training_all_the_same(table, tmp_path, monkeypatch):
    def swallow(keeper, epoch, logs=None):
        keeper.started = time.time()
        with suppress(KeyboardInterrupt):  # as Keras does while it waits for JAX
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    monkeypatch.setattr(Keeper, "on_epoch_begin", swallow)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            train(table, tmp_path / "run", SHORT)
        assert "train with resume=True goes on from there" in caught.value.__notes__[0]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "run/history.csv").exists()


def test_the_small_network_learns_the_sample_but_not_all_of_it(table):
    assert 0.6 <= report(demo_run(table.drop(columns="part")))["balanced_accuracy"]["value"] <= 0.95
