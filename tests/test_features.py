"What is frozen is run once: a head learns from stored features what it learns behind the frozen network."
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from skin_lesion.data import load_table, split_lesions
from skin_lesion.imbalance import Batches, Share, class_counts
from skin_lesion.models import BACKBONES, conv_norm, create, turned
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, cached, compile_phase, frozen_edge, train

CONFIG = Config("efficientnet_lite0", size=32, weights="imagenet", epochs=3, head_epochs=3, batch_size=8)


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (28, 32, 32, 3), dtype=np.uint8), np.arange(28) % 7


def learned(photos, y, views, path, frozen=None):
    "Two epochs of a phase with frozen layers, in the loop or on stored features; the model and the losses."
    keras.utils.set_random_seed(0)
    config = replace(CONFIG, cached_views=views, frozen=frozen)
    model = create(config.model, config.size, config.weights, dropout=config.dropout)
    trainer = compile_phase(model, config, class_counts(y), 6 if frozen else None)
    batches = Batches(photos, y, batch_size=8, sampler="natural", how=None)
    if views:
        batches = cached(batches, keras.Model(model.input, model.get_layer(frozen_edge(model)).output), views, path)
    history = trainer.fit(Share(batches, 0, 1), epochs=2, shuffle=False, verbose=0).history["loss"]
    return model, history


@pytest.mark.parametrize("frozen", [None, "lite0_blocks14_add"])
def test_stored_features_teach_what_the_frozen_network_would(photos, frozen, tmp_path):
    (loop, expected), (stored, found) = (learned(*photos, views, tmp_path / "features.npy", frozen) for views in (0, 1))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    start = create(CONFIG.model, CONFIG.size, CONFIG.weights).get_weights()
    changes = [(np.abs(a - b), np.abs(a - c)) for a, b, c in zip(loop.get_weights(), stored.get_weights(), start, strict=True)]
    measure = np.mean if frozen else np.max  # Adam makes a whole step of a gradient of nearly nothing, whatever its sign
    assert max(measure(apart) for apart, _ in changes) < 1e-4 < max(measure(moved) for _, moved in changes)


def test_a_photo_is_shown_in_each_stored_view_and_goes_through_the_network_once_for_each(photos, tmp_path):
    x, y = photos
    model = create(CONFIG.model, CONFIG.size, CONFIG.weights)
    network, calls = keras.Model(model.input, model.get_layer("head_pool_efficientnet_lite0").output), []
    answer = network.predict_on_batch
    network.predict_on_batch = lambda batch: calls.append(len(batch)) or answer(batch)
    batches = cached(Batches(x, y, batch_size=14, sampler="natural"), network, 8, tmp_path / "features.npy")
    cached(Batches(x, y, batch_size=14, sampler="natural"), network, 8, tmp_path / "features.npy")
    assert sum(calls) == 8 * len(x)
    expected = np.stack([answer(turned(x, view)) for view in range(8)], axis=1)
    np.testing.assert_allclose(batches.photos, expected, atol=1e-4)
    shown = set()
    for batches.epoch in range(12):
        for features, labels in (batches[step] for step in range(len(batches))):
            for one, label in zip(features, labels, strict=True):
                row, view = np.argwhere(np.abs(batches.photos - one).max(-1) == 0)[0]
                assert label[y[row]] == 1
                shown.add((row, view))
    assert len(shown) > 4 * len(x) and {view for _, view in shown} == set(range(8))


def test_a_run_on_stored_features_is_a_run(tmp_path, monkeypatch):
    def small(photos, file=None):
        return conv_norm(conv_norm(photos, 8, "small_stem", strides=8), 16, "small_top", strides=4)

    monkeypatch.setitem(BACKBONES, CONFIG.model, replace(BACKBONES[CONFIG.model], build=small))
    split = split_lesions(load_table(data_folder("sample")))
    few = [split[split["part"] == part].groupby("dx").head(n) for part, n in [("train", 3), ("validation", 1), ("test", 1)]]
    table = pd.concat(few).reset_index(drop=True)
    run = train(table, tmp_path / "run", replace(CONFIG, cached_views=2, epochs=3, head_epochs=2))
    assert len(pd.read_csv(run / "history.csv")) == 3 and (run / "model.keras").exists()
    assert not (run / "features").exists()
    with pytest.raises(ValueError, match="cached_views=-1"):
        replace(CONFIG, cached_views=-1)


def test_a_frozen_part_with_two_ends_is_refused():
    with pytest.raises(ValueError, match="ends in 2 places"):
        compile_phase(create("cnn_efficientnet_lite0", 32), replace(CONFIG, cached_views=1), np.ones(7), None)
