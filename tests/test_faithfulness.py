"What is said about heatmaps, on maps and networks whose answer is known."
import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from skin_lesion import data, faithfulness, sample
from skin_lesion.faithfulness import energy, heat_ranks, impute, pointing, road

SIDE = 32
RNG = np.random.default_rng(0)
PHOTOS = np.full((6, SIDE, SIDE, 3), 200, np.uint8)
MASKS = np.zeros((6, SIDE, SIDE), bool)
for i, (top, left) in enumerate([(2, 3), (20, 18), (10, 4), (4, 20), (18, 2), (12, 12)]):
    MASKS[i, top : top + 8, left : left + 8] = True
PHOTOS[MASKS] = RNG.integers(0, 60, (MASKS.sum(), 3))
LESIONS = MASKS.astype("float32")


@pytest.fixture(scope="module")
def darkness():
    "A network that says `mel` where a photo has dark places and `nv` elsewhere, and sees nothing else."
    photos = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(1, 1, activation="relu", name="dark")(layers.AveragePooling2D(2)(photos))
    model = keras.Model(photos, layers.Dense(7, "softmax", name="logits")(layers.GlobalAveragePooling2D()(x)))
    model.get_layer("dark").set_weights([np.full((1, 1, 3, 1), -1 / 300, "float32"), np.ones(1, "float32")])
    kernel, bias = np.zeros((1, 7), "float32"), np.zeros(7, "float32")
    kernel[0, 6], bias[4] = 300, 5
    model.get_layer("logits").set_weights([kernel, bias])
    return model


def test_energy_and_pointing_of_known_maps():
    assert np.allclose(energy(LESIONS, MASKS), 1) and np.allclose(pointing(LESIONS, MASKS), 1)
    assert np.allclose(energy(1 - LESIONS, MASKS), 0) and np.allclose(pointing(1 - LESIONS, MASKS), 0)
    for even in (np.zeros_like(LESIONS), np.ones_like(LESIONS)):
        assert np.allclose(energy(even, MASKS), MASKS.mean((1, 2))) and np.allclose(pointing(even, MASKS), MASKS.mean((1, 2)))


def test_borrowed_energy_by_loops():
    maps = RNG.random(LESIONS.shape)
    for j, found in enumerate(faithfulness.borrowed_energy(maps, MASKS)):
        others = [(maps[i] / maps[i].sum() * MASKS[j]).sum() for i in range(6) if i != j]
        assert found == pytest.approx(np.mean(others), abs=1e-6)


def test_ranks_count_the_warmer_pixels():
    maps = RNG.permutation(SIDE * SIDE).reshape(1, SIDE, SIDE)
    assert np.allclose(heat_ranks(maps) * SIDE * SIDE, SIDE * SIDE - 1 - maps)
    tied = heat_ranks(np.zeros((1, SIDE, SIDE)))
    assert len(np.unique(tied)) == SIDE * SIDE and abs(np.corrcoef(tied[0].ravel(), np.arange(SIDE * SIDE))[0, 1]) < 0.2


def test_a_right_map_beats_a_wrong_one(darkness):
    assert (darkness.predict(PHOTOS.astype("float32"), verbose=0)[:, 6] > 0.9).all()
    dark = np.full(6, 6)
    right, wrong = ([score(darkness, PHOTOS, maps, dark) for score in (
        lambda *x: faithfulness.area_under(faithfulness.deletion_curve(*x)),
        lambda *x: -faithfulness.area_under(faithfulness.insertion_curve(*x)),
        lambda *x: -road(*x),
    )] for maps in (LESIONS, 1 - LESIONS))
    for a, b in zip(right, wrong, strict=True):
        assert (a < b).all()
    assert (road(darkness, PHOTOS, LESIONS, dark) > 0.5).all() and (road(darkness, PHOTOS, 1 - LESIONS, dark) < -0.5).all()


def test_curves_start_and_end_where_they_must(darkness):
    curve = faithfulness.deletion_curve(darkness, PHOTOS, LESIONS, np.full(6, 6), steps=4)
    assert np.allclose(curve[:, 0], darkness.predict(PHOTOS.astype("float32"), verbose=0)[:, 6])
    plain = np.broadcast_to(PHOTOS.mean((1, 2), keepdims=True), PHOTOS.shape).astype("float32")
    assert np.allclose(curve[:, -1], darkness.predict(plain, verbose=0)[:, 6], atol=1e-5)
    assert np.allclose(faithfulness.area_under(np.array([[1, 1, 1], [1, 0.5, 0]])), [1, 0.5])


def test_logits_are_refused(darkness):
    bare = keras.Model(darkness.input, layers.Dense(7)(darkness.layers[-2].output))
    with pytest.raises(ValueError, match="expected probabilities"):
        road(bare, PHOTOS, LESIONS, np.zeros(6, int))


def test_imputation_solves_its_equations():
    removed = RNG.random((SIDE, SIDE)) < 0.7
    removed[8:20, 8:20] = True
    photo = RNG.integers(0, 256, (SIDE, SIDE, 3)).astype("float32")
    filled = impute(photo, removed, sweeps=2000)
    assert np.array_equal(filled[~removed], photo[~removed])
    weights = {(-1, 0): 2, (1, 0): 2, (0, -1): 2, (0, 1): 2, (-1, -1): 1, (-1, 1): 1, (1, -1): 1, (1, 1): 1}
    for y, x in np.argwhere(removed):
        around = {(y + i, x + j): w for (i, j), w in weights.items() if 0 <= y + i < SIDE and 0 <= x + j < SIDE}
        assert filled[y, x] == pytest.approx(sum(w * filled[place] for place, w in around.items()) / sum(around.values()), abs=0.05)


def test_rank_correlation():
    maps = RNG.random((3, 5, 5))
    assert np.allclose(faithfulness.rank_correlation(maps, maps**3), 1) and np.allclose(faithfulness.rank_correlation(maps, -maps), -1)
    assert np.array_equal(faithfulness.rank_correlation(maps, np.ones_like(maps)), np.zeros(3))


def test_stability_knows_a_map_that_moves_along():
    def mean_colour(photos):
        return photos.astype(float).mean(-1)

    pictures = RNG.integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    assert np.allclose(faithfulness.stability(mean_colour, pictures), 1)
    assert faithfulness.stability(lambda x: np.broadcast_to(mean_colour(pictures), x.shape[:3]), pictures).abs().max().max() < 0.3


def test_random_layers_from_the_last_to_the_first():
    inner = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Conv2D(4, 3, name="first"), layers.BatchNormalization()], name="inner")
    end = [layers.Conv2D(4, 3, activation="relu", name="second"), layers.GlobalAveragePooling2D(), layers.Dense(7, "softmax", name="logits")]
    model = keras.Sequential([inner, *end])
    end[-1].kernel.assign(abs(end[-1].kernel))  # every channel speaks for every class: no heatmap is zero
    before = [weights.copy() for weights in model.get_weights()]
    found = faithfulness.sanity_check(model, PHOTOS, np.zeros(6, int))
    assert list(found) == ["trained", "logits", "second", "first"]
    assert len(faithfulness.sanity_check(model, PHOTOS, np.zeros(6, int), stages=2)) == 3
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert faithfulness.layer_correlations(found, np.arange(6))["correlation"].iloc[0] == pytest.approx(1)
    one, same, other = (faithfulness.fresh_copy(model, seed).get_weights()[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_a_subclassed_model_is_not_built_again():
    class Own(keras.Model):
        def __init__(self, width):
            super().__init__()
            self.dense = layers.Dense(width)

    with pytest.raises(ValueError, match="functional or Sequential"):
        faithfulness.fresh_copy(Own(3))


@pytest.fixture(scope="module")
def outlined():
    folder = sample.data_folder("sample")
    return folder, data.split_lesions(data.load_table(folder))


def test_only_test_photos_count(outlined, tmp_path):
    folder, table = outlined
    assert set(faithfulness.with_masks(table, folder)["part"]) == {"test"}
    with pytest.raises(ValueError, match="no column 'part'"):
        faithfulness.with_masks(table.drop(columns="part"), folder)
    with pytest.raises(ValueError, match="photos of: train"):
        faithfulness.with_masks(table[table["part"] == "train"], folder)
    with pytest.raises(FileNotFoundError, match="_segmentation.png"):
        faithfulness.with_masks(table, tmp_path)


def test_windows_and_their_masks_belong_together(outlined, tmp_path):
    folder, table = outlined
    few = faithfulness.with_masks(table, folder).head(4)
    photos, masks = faithfulness.off_centre(few.assign(path=few["mask"]), 64)
    assert np.array_equal(photos[..., 0] > 127, masks) and masks.any((1, 2)).all()
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((10, 12), np.uint8))
    with pytest.raises(ValueError, match="expected one shape"):
        faithfulness.off_centre(few.assign(mask=str(tmp_path / "small.png")), 64)


def test_report(outlined, darkness, tmp_path):
    folder, table = outlined
    few = faithfulness.with_masks(table, folder, data.PARTS).groupby(["part", "dx"]).head(1).drop(columns="mask")
    shown = faithfulness.report(darkness, few, folder, tmp_path, methods=("gradcam", "centre"), others=True)
    assert list(shown.columns) == ["gradcam", "centre"] and {"energy", "ROAD", "deletion", "follows"} <= set(shown.index)
    numbers, photos = (pd.read_csv(tmp_path / f"faithfulness{name}.csv") for name in ("", "_photos"))
    assert set(numbers["masks"]) == {"test", faithfulness.NOT_HELD_OUT} and (numbers["low"] <= numbers["high"]).all()
    assert set(photos["image_id"][photos["masks"] == "test"]) == set(few["image_id"][few["part"] == "test"])
    value = numbers.query("masks == 'test' and method == 'gradcam' and group == 'all' and metric == 'energy'")["value"].item()
    assert value == pytest.approx(photos.query("masks == 'test' and method == 'gradcam'")["energy"].mean(), abs=1e-3)
    assert {"right = True", "right = False"} & set(numbers["group"]) and "dx = mel" in set(numbers["group"])
