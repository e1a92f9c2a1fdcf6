"The sample can be learned, and not too easily."
import numpy as np
import pytest

from skin_lesion.data import load_table, save_split, split_lesions
from skin_lesion.evaluate import report
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, alone, demo_run, train

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


def test_the_small_network_learns_the_sample_but_not_all_of_it(table):
    assert 0.6 <= report(demo_run(table.drop(columns="part")))["balanced_accuracy"]["value"] <= 0.95
