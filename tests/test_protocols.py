"Careless protocols are what they say, and stay away from the lesions that judge them; a training can go on from another one of the same split."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from skin_lesion.data import load_table, pixels, split_hash, split_lesions
from skin_lesion.evaluate import report
from skin_lesion.imbalance import PROTOCOLS, Batches, augment_strength, careless_split, class_counts, mixup
from skin_lesion.models import Info, create, load, log_probabilities, save, turned
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, train

TINY = Config(size=32, epochs=2, batch_size=8)


@pytest.fixture(scope="module")
def table():
    return split_lesions(load_table(data_folder("sample")))


def few(table):
    "A table small enough to train on in seconds."
    parts = [table[table["part"] == part].groupby("dx").head(n) for part, n in [("train", 6), ("validation", 1), ("test", 1)]]
    return pd.concat(parts).reset_index(drop=True)


@pytest.fixture(scope="module")
def first(table, tmp_path_factory):
    "A trained model that others go on from."
    return train(few(table), tmp_path_factory.mktemp("runs") / "first", TINY) / "model.keras"


def test_the_leaky_protocol_copies_before_it_splits(table):
    piled, photos = careless_split(table, pixels(table, 32), "leaky")
    pool, unseen = piled[piled["part"] != "unseen"], piled[piled["part"] == "unseen"]
    assert set(unseen["lesion_id"]) == set(table[table["part"] == "test"]["lesion_id"])
    assert not set(pool["lesion_id"]) & set(unseen["lesion_id"])
    assert pool["dx"].value_counts().nunique() == 1
    sizes = pool["part"].value_counts(normalize=True)
    assert sizes["test"] == pytest.approx(0.2, abs=0.05) and sizes["validation"] == pytest.approx(0.1, abs=0.05)
    assert piled["image_id"].is_unique and len(piled) == photos.shape[0]
    copy = int(np.flatnonzero(piled["copy"] > 0)[0])
    assert not np.array_equal(photos[copy], pixels(table, 32)[piled["row"][copy]])
    assert np.array_equal(photos[copy], photos[copy])


def test_the_photo_protocol_repeats_no_photo_but_splits_lesions(table):
    piled, photos = careless_split(table, pixels(table, 32), "photos")
    assert (piled["copy"] == 0).all() and len(piled) == len(table)
    assert piled[piled["part"] != "unseen"].groupby("lesion_id")["part"].nunique().max() > 1
    assert np.array_equal(photos[5], pixels(table, 32)[piled["row"][5]])


@pytest.mark.parametrize("protocol", ["leaky", "photos"])
def test_a_careless_run_says_so_and_is_scored_on_unseen_lesions(table, tmp_path, protocol):
    small = few(table)
    run = train(small, tmp_path / "run", replace(TINY, protocol=protocol, mixup=0.2, label_smoothing=0.1, average=2, views=2))
    model, info = load(run / "model.keras")
    assert info.protocol == PROTOCOLS[protocol] and info.views == 2
    predictions = pd.read_csv(run / "predictions.csv")
    assert set(predictions["part"]) == {"validation", "test", "unseen"}
    assert report(run, "unseen")["n"] == (small["part"] == "test").sum()


def test_going_on_from_a_model_of_another_split_is_refused(table, first, tmp_path):
    small = few(table)
    config = replace(TINY, weights=str(first), size=48, epochs=1)
    second = train(small, tmp_path / "second", config)
    assert load(second / "model.keras")[1].split_hash == split_hash(small)
    other = small.assign(part=small["part"].replace({"validation": "test", "test": "validation"}))
    with pytest.raises(ValueError, match="go on with the split of that model"):
        train(other, tmp_path / "third", config)
    with pytest.raises(ValueError, match="holds cnn"):
        create("efficientnet_lite0", 32, weights=str(first))


def test_networks_trained_apart_answer_together(table, first, tmp_path):
    small = few(table)
    lite, info = create("efficientnet_lite0", 32), Info("efficientnet_lite0", 32, split_hash=split_hash(small))
    files = [first, save(lite, tmp_path / "lite.keras", info)]
    config = replace(TINY, model="cnn_efficientnet_lite0", weights=",".join(map(str, files)), epochs=0)
    model, info = load(train(small, tmp_path / "both", config) / "model.keras")
    apart = np.concatenate([load(file)[0].get_layer("logits").get_weights()[0] for file in files])
    assert np.allclose(model.get_layer("logits").get_weights()[0] * info.temperature, apart / 2, atol=1e-5)
    save(lite, files[1], Info("efficientnet_lite0", 32, split_hash="another"))
    with pytest.raises(ValueError, match="lite.keras was trained on another"):
        train(small, tmp_path / "third", config)


def test_average_is_the_mean_of_the_last_epochs(table, tmp_path):
    small = few(table)
    run = train(small, tmp_path / "run", replace(TINY, epochs=3, average=2))
    files = sorted((run / "checkpoints").glob("recent*.npz"))
    assert len(files) == 2
    epochs = [np.load(file) for file in files]
    kernel = load(run / "model.keras")[0].get_layer("cnn_stem_conv").get_weights()[0]
    assert np.allclose(kernel, (epochs[0]["arr_0"] + epochs[1]["arr_0"]) / 2, atol=1e-6)


@pytest.mark.parametrize(("targeted", "expected"), [(False, lambda factor: np.ones(7)), (True, lambda factor: factor)])
def test_rare_classes_are_changed_more_only_where_it_is_asked_for(table, tmp_path, monkeypatch, targeted, expected):
    seen = []
    monkeypatch.setattr("skin_lesion.train.fit", lambda model, run, batches, *_: seen.append(batches) or [])
    train(table, tmp_path / "run", replace(TINY, targeted=targeted, augmentation=1.5))
    factor = augment_strength(class_counts(seen[0].y))
    assert factor.max() > 1.2 and np.allclose(seen[0].strength, 1.5 * expected(factor))


def test_blended_labels_keep_their_sum_and_smoothing_its_share(table):
    photos, y = pixels(table, 32), np.arange(len(table)) % 7
    plain, blended = Batches(photos, y, sampler="natural"), Batches(photos, y, sampler="natural", blend=0.4, smoothing=0.07)
    assert np.allclose(blended[3][1].sum(axis=1), 1, atol=1e-5) and blended[3][1].min() >= 0.0099
    assert not np.array_equal(plain[3][0], blended[3][0])
    images, labels = mixup(photos[:4], np.eye(7)[:4], 0.0, None)
    assert np.array_equal(images, photos[:4]) and np.array_equal(labels, np.eye(7)[:4])


def test_views_make_an_answer_independent_of_how_the_camera_was_held(table):
    model, photos = create("cnn", 32), np.array(pixels(table, 32)[:3])
    straight = log_probabilities(model, photos, 8)
    for view in range(8):
        assert np.allclose(log_probabilities(model, turned(photos, view), 8), straight, atol=1e-4)


def test_half_precision_file_keeps_the_answers(table, tmp_path):
    model, photos = create("cnn", 32), np.array(pixels(table, 32)[:16])
    again, info = load(save(model, tmp_path / "model.npz", Info("cnn", 32, temperature=1.5, views=4)))
    assert np.abs(model.predict_on_batch(photos) - again.predict_on_batch(photos)).max() < 2e-3
    assert (info.temperature, info.views) == (1.5, 4)
    with pytest.raises(ValueError, match="Only a registry model"):
        save(create("cnn", 32), tmp_path / "x.npz", Info("other", 32))


def test_teachers_change_what_is_learned_and_know_the_same_lesions(table, first, tmp_path):
    small, taught = few(table), replace(TINY, teachers=str(first))
    plain, student = (pd.read_csv(run / "history.csv") for run in (first.parent, train(small, tmp_path / "student", taught)))
    assert not np.allclose(plain["loss"], student["loss"], rtol=1e-3)
    other = small.assign(part=small["part"].map({"train": "train", "validation": "test", "test": "validation"}))
    with pytest.raises(ValueError, match="go on with the split of that model"):
        train(other, tmp_path / "other", taught)
    with pytest.raises(ValueError, match="takes photos of 32 pixels, expected 48"):
        train(small, tmp_path / "large", replace(taught, size=48))
    with pytest.raises(ValueError, match="Use cached_views=0 with teachers"):
        replace(taught, cached_views=1)
