"Grad-CAM on every kind of model, beside independent ways to the same numbers."
import gc
import os
import subprocess
import sys
import weakref

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from conftest import BACKENDS, ROOT, python_with
from keras import layers
from matplotlib.contour import QuadContourSet

from skin_lesion import data, gradcam, models
from skin_lesion.gradcam import METHODS, heatmaps, split_model

PHOTOS = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
SHAPE = (64, 64, 3)


def eager(model, layer=None):
    "The model, its trunk run without compilation: quicker for a few photos."
    split_model(model, layer).trunk.compile(run_eagerly=True)
    return model


def blocks():
    "Scaling and two convolutions, as a list of layers."
    keras.utils.set_random_seed(3)
    one, two = layers.Conv2D(6, 3, strides=2, name="one"), layers.Conv2D(5, 3, strides=4, activation="relu", name="two")
    return [layers.Rescaling(1 / 255), one, layers.BatchNormalization(), layers.ReLU(), two]


def ending():
    return [layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(7, activation="softmax", bias_initializer="normal", name="answer")]


def chain(x, steps):
    for step in steps:
        x = step(x)
    return x


def functional(head):
    "A model whose kernels are the same on every backend."
    photos = keras.Input(SHAPE)
    model = keras.Model(photos, head(chain(photos, blocks())))
    rng = np.random.default_rng(5)
    model.set_weights([w if w.ndim < 2 else rng.normal(scale=np.prod(w.shape[:-1]) ** -0.5, size=w.shape) for w in model.get_weights()])
    return model


def check(maps, shape):
    assert maps.shape == shape and maps.dtype == np.float32
    assert np.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1 + 1e-6
    assert maps.max() > 0.99


# Every method on every model of the registry


def remembering(model):
    "The model, its trunk run once for the same photos."
    trunk, known = split_model(model).trunk, {}
    run = trunk.predict_on_batch
    trunk.predict_on_batch = lambda photos: known.get(photos.tobytes()) or known.setdefault(photos.tobytes(), keras.tree.flatten(run(photos)))
    return model


@pytest.fixture(scope="module", params=models.MODELS)
def registered(request):
    keras.utils.set_random_seed(1)
    model = models.create(request.param, 64)
    model.get_layer("logits").bias.assign(np.linspace(-1, 1, 7))
    yield remembering(eager(model))
    keras.backend.clear_session()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_model(registered, method):
    check(heatmaps(registered, PHOTOS[:3], "all", method), (3, 7, 64, 64))


def test_one_layer_per_branch(registered):
    cut = split_model(registered)
    assert len(cut.layers) == len(models.MODELS[registered.name]) and cut.dense is registered.get_layer("logits")


def test_closed_form_is_the_gradient(registered):
    cut = split_model(registered)
    activations = cut.activations(PHOTOS[:3].astype("float32"))
    chosen = np.array([0, 3, 6])
    closed = gradcam._closed_gradients(cut, activations, chosen)
    by_tape = gradcam._gradients(cut.head, activations, np.eye(7, dtype="float32")[chosen])
    assert all(np.abs(a - b).max() < 1e-5 for a, b in zip(closed, by_tape, strict=True))


def test_mean_of_the_merged_map_is_the_logit(registered):
    cut = split_model(registered)
    activations = cut.activations(PHOTOS[:3].astype("float32"))
    chosen = np.array([1, 1, 4])
    merged = gradcam._merge(activations, gradcam._closed_gradients(cut, activations, chosen), METHODS["gradcam"], (64, 64))
    kernel, bias = registered.get_layer("logits").get_weights()
    logits = keras.ops.convert_to_numpy(cut.head(activations))
    assert np.allclose(merged.mean((1, 2)), (logits - bias)[range(3), chosen], atol=1e-3)


# Every kind of model


@pytest.fixture(scope="module")
def flat():
    photos = keras.Input(SHAPE)
    return keras.Model(photos, chain(photos, [*blocks(), *ending()]))


@pytest.fixture(scope="module")
def expected(flat):
    return heatmaps(flat, PHOTOS, "all")


def nested_sequential(parts, end):
    inner = keras.Sequential([keras.Input(SHAPE), *parts[:1], keras.Sequential(parts[1:3], name="deep")])
    return keras.Sequential([keras.Sequential([inner, *parts[3:]]), keras.Sequential(end)])


def nested_functional(parts, end):
    photos = keras.Input(SHAPE)
    inner = keras.Model(photos, chain(photos, parts[:3]), name="inner")
    other = keras.Input(SHAPE)
    middle = keras.Model(other, chain(inner(other, training=False), parts[3:]), name="middle")
    outer = keras.Input(SHAPE)
    return keras.Model(outer, chain(middle(outer), end))


def sequential(parts, end):
    return keras.Sequential([*parts, *end])


def subclassed(parts, end):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            photos = keras.Input(SHAPE)
            self.core = keras.Model(photos, chain(photos, parts), name="core")
            self.end = end

        def call(self, photos, training=False):
            return chain(self.core(photos, training=training), self.end)

    return Own()


@pytest.mark.parametrize("build", [nested_sequential, nested_functional, sequential, subclassed])
def test_kinds_of_model_agree(flat, expected, build):
    parts, end = blocks(), ending()
    model = build(parts, end)
    model(PHOTOS[:1].astype("float32"))
    old = [layer for layer in flat.layers if layer.weights]
    for new, layer in zip([layer for layer in [*parts, *end] if layer.weights], old, strict=True):
        new.set_weights(layer.get_weights())
    assert np.allclose(heatmaps(model, PHOTOS, "all"), expected, atol=1e-5)
    assert split_model(model, shape=SHAPE).layers == ("two",) and split_model(model, shape=SHAPE).dense is not None
    assert np.allclose(heatmaps(model, PHOTOS[:1], 2, layer="one"), heatmaps(flat, PHOTOS[:1], 2, layer="one"), atol=1e-5)


def test_explaining_leaves_a_model_as_it_was(flat, tmp_path):
    before = flat.predict(PHOTOS.astype("float32"), verbose=0)
    heatmaps(flat, PHOTOS)
    flat.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.allclose(before, again.predict(PHOTOS.astype("float32"), verbose=0), atol=1e-6)
    assert flat.layers[-1].activation.__name__ == "softmax"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_models(expected, flat, tmp_path, suffix):
    flat.save(tmp_path / f"model{suffix}")
    assert np.allclose(heatmaps(keras.saving.load_model(tmp_path / f"model{suffix}", compile=False), PHOTOS, "all"), expected, atol=1e-5)


@pytest.mark.parametrize("build", [nested_sequential, nested_functional])
def test_legacy_file_of_a_nested_model(tmp_path, build):
    model = build(blocks(), ending())
    model.save(tmp_path / "nested.h5")
    again = keras.saving.load_model(tmp_path / "nested.h5", compile=False)
    assert split_model(again).layers == ("two",)
    assert np.allclose(heatmaps(again, PHOTOS[:2], "all"), heatmaps(model, PHOTOS[:2], "all"), atol=1e-5)


def test_two_layers_of_one_name():
    def side(name):
        return keras.Sequential([layers.Conv2D(4, 3, activation="relu", name="conv"), layers.MaxPooling2D(name="pool")], name=name)

    photos = keras.Input(SHAPE)
    pooled = [layers.GlobalAveragePooling2D()(side(name)(photos)) for name in ("left", "right")]
    model = keras.Model(photos, layers.Dense(7)(layers.Concatenate()(pooled)))
    assert split_model(model).layers == ("conv", "conv")
    check(heatmaps(model, PHOTOS), (5, 64, 64))


def attention(features):
    "Attention pooling: a softmax over places weighs the features."
    places = layers.Reshape((-1, features.shape[-1]))(features)
    share = layers.Softmax(axis=1)(layers.Reshape((-1, 1))(layers.Conv2D(1, 1)(features)))
    return layers.Dense(7, "softmax")(keras.ops.sum(places * share, axis=1))


def queried(features):
    "Attention pooling by Keras' own layer: the mean place asks all places."
    places = layers.Reshape((-1, features.shape[-1]))(features)
    answer = layers.MultiHeadAttention(2, 4)(layers.GlobalAveragePooling2D(keepdims=True)(features)[:, 0], places)
    return layers.Dense(7)(layers.Flatten()(answer))


def gated(features):
    "Spatial attention in front of the average."
    return layers.Dense(7)(layers.GlobalAveragePooling2D()(features * layers.Conv2D(1, 1, activation="sigmoid")(features)))


def hidden(features):
    return layers.Dense(7)(layers.Dense(16, "tanh")(layers.GlobalAveragePooling2D()(features)))


def flattened(features):
    return layers.Activation("softmax", dtype="float32")(layers.Dense(7)(layers.Flatten()(layers.MaxPooling2D()(features))))


def normed(features):
    return layers.Dense(7, "sigmoid")(layers.BatchNormalization()(layers.GlobalMaxPooling2D()(features)))


def test_a_gate_belongs_to_the_features():
    model = functional(gated)
    assert len(split_model(model).layers) == 1 and split_model(model).dense is not None
    check(heatmaps(model, PHOTOS, 2), (5, 64, 64))


@pytest.mark.parametrize("head", [attention, queried, hidden, flattened, normed])
def test_gradients_of_other_heads(head):
    model = functional(head)
    cut = split_model(model)
    assert cut.layers == ("two",) and cut.dense is None
    (activations,) = cut.activations(PHOTOS[:2].astype("float32"))
    found = gradcam._gradients(cut.head, [activations], np.eye(7, dtype="float32")[[2, 5]])[0]
    place = (slice(None), *np.unravel_index(activations.max(0).argmax(), activations.shape[1:]))
    up, down = activations.copy(), activations.copy()
    up[place] += 1e-2
    down[place] -= 1e-2
    difference = [keras.ops.convert_to_numpy(cut.head([x]))[[0, 1], [2, 5]] for x in (up, down)]
    assert np.allclose((difference[0] - difference[1]) / 2e-2, found[place], atol=2e-3)
    for method in METHODS:
        check(heatmaps(model, PHOTOS[:3], 2, method), (3, 64, 64))


def test_a_layer_with_a_bypass():
    photos = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.Rescaling(1 / 255)(photos))
    y = layers.Conv2D(4, 3, padding="same", name="side")(x)
    model = keras.Model(photos, layers.Dense(7)(layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, y])))))
    assert len(split_model(model, "side").trunk.outputs) == 2
    assert heatmaps(model, PHOTOS, 1, layer="side").shape == (5, 64, 64)


def test_any_size():
    photos = keras.Input((None, None, 3))
    model = keras.Model(photos, chain(photos, [*blocks(), *ending()]))
    check(heatmaps(model, PHOTOS), (5, 64, 64))
    assert heatmaps(model, PHOTOS[:, :40]).shape == (5, 40, 64)


def test_dropout_and_normalisation_rest(flat):
    assert np.array_equal(heatmaps(flat, PHOTOS), heatmaps(flat, PHOTOS))


def test_weights_are_shared(flat):
    model = keras.models.clone_model(flat)
    first = heatmaps(model, PHOTOS, 3)
    model.set_weights(flat.get_weights())
    assert not np.allclose(first, heatmaps(model, PHOTOS, 3), atol=1e-3)
    assert np.allclose(heatmaps(model, PHOTOS, 3), heatmaps(flat, PHOTOS, 3), atol=1e-6)


def test_a_model_can_be_forgotten():
    model = functional(hidden)
    heatmaps(model, PHOTOS[:1])
    kept = weakref.ref(model)
    del model
    gc.collect()
    assert kept() is None


# Batches, classes, photos


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batched_is_one_by_one(flat, expected, batch_size):
    assert np.allclose(heatmaps(flat, PHOTOS, "all", batch_size=batch_size), expected, atol=1e-5)
    assert np.allclose(heatmaps(flat, list(PHOTOS), list(range(5)), batch_size=batch_size), expected[range(5), range(5)], atol=1e-5)


def test_classes(flat, expected):
    predicted = flat.predict(PHOTOS.astype("float32"), verbose=0).argmax(1)
    assert np.allclose(heatmaps(flat, PHOTOS), expected[range(5), predicted], atol=1e-5)
    assert np.allclose(heatmaps(flat, PHOTOS, "mel"), expected[:, 6], atol=1e-5)
    assert np.allclose(heatmaps(flat, PHOTOS, "mel", names=("mel", *"abcdef")), expected[:, 0], atol=1e-5)
    assert np.allclose(heatmaps(flat, PHOTOS, np.array(["nv", "df", "nv", "mel", "bcc"])), expected[range(5), [4, 3, 4, 6, 1]], atol=1e-5)


def test_feature_map_resolution(flat):
    coarse = heatmaps(flat, PHOTOS, 0, upsample=False)
    (activations,) = split_model(flat).activations(PHOTOS.astype("float32"))
    plain = np.maximum((activations * flat.get_layer("answer").get_weights()[0][:, 0]).sum(-1), 0)
    assert np.allclose(coarse, plain / plain.max((1, 2), keepdims=True), atol=1e-5)


def test_memory_map(flat, expected, tmp_path):
    np.save(tmp_path / "photos.npy", PHOTOS)
    assert np.allclose(heatmaps(flat, np.load(tmp_path / "photos.npy", mmap_mode="r"), "all", batch_size=2), expected, atol=1e-5)


PEAK = r"""
import re, sys
import keras, numpy as np
from skin_lesion import gradcam
photos = np.load(sys.argv[1], mmap_mode="r")
model = keras.Sequential([keras.Input((224, 224, 3)), keras.layers.Conv2D(8, 7, strides=8, activation="relu"),
                          keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(7, "softmax")])
for n in (32, 1000):
    gradcam.heatmaps(model, photos[:n])
    print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1))  # what getrusage says includes the process that started this one
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process' own peak memory this way")
def test_a_thousand_photos_take_the_memory_of_their_heatmaps(tmp_path):
    photos = np.lib.format.open_memmap(tmp_path / "photos.npy", "w+", np.uint8, (1000, 224, 224, 3))
    photos[:] = np.resize(PHOTOS[0], (224, 224, 3))
    photos.flush()
    peaks = [int(peak) for peak in subprocess.check_output([sys.executable, "-c", PEAK, photos.filename]).split()]
    assert 150 < (peaks[1] - peaks[0]) / 1024 < 300, "the heatmaps alone are 191 MB"


def test_a_memory_map_that_is_written_to_keeps_what_was_written(flat, tmp_path):
    np.save(tmp_path / "photos.npy", np.zeros_like(PHOTOS))
    for mode in ("r+", "c"):
        photos = np.load(tmp_path / "photos.npy", mmap_mode=mode)
        photos[:] = PHOTOS
        assert np.array_equal(heatmaps(flat, photos[1:]), heatmaps(flat, PHOTOS[1:])) and np.array_equal(photos, PHOTOS)


def test_no_evidence_stays_zero():
    head = [layers.GlobalAveragePooling2D(), layers.Dense(7, kernel_initializer="zeros")]
    model = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 3, activation="relu"), *head])
    for method in METHODS:
        if method != "eigencam":
            assert not heatmaps(model, PHOTOS, 1, method).any()


@pytest.mark.parametrize(
    ("photos", "options", "message"),
    [
        (PHOTOS / 255, {}, "looks scaled to 0..1"),
        (PHOTOS.astype("float32"), {}, "Photo 0 is float32"),
        (PHOTOS[0], {}, "pass a single photo as"),
        (PHOTOS[..., :1], {}, "has shape"),
        (PHOTOS[:, :32], {}, "fit_photo"),
        ([PHOTOS[0], PHOTOS[1][:9]], {}, "Photo 1 has shape"),
        (PHOTOS[:0], {}, "0 photos"),
        (PHOTOS, {"classes": "melanoma"}, "Unknown class 'melanoma'.*akiec"),
        (PHOTOS, {"classes": 7}, "Unknown class 7.*0 to 6"),
        (PHOTOS, {"classes": -1}, "Unknown class -1"),
        (PHOTOS, {"classes": "a", "names": "abc"}, "3 names given do not fit its 7"),
        (PHOTOS, {"classes": [1, 2]}, "2 classes were given for 5"),
        (PHOTOS, {"method": "GradCAM"}, "Unknown method 'GradCAM'.*gradcam"),
        (PHOTOS, {"layer": "three"}, "No spatial layer 'three'.*two"),
        (PHOTOS, {"layer": "answer"}, "No spatial layer 'answer'"),
    ],
)
def test_refused_requests(flat, photos, options, message):
    with pytest.raises(ValueError, match=message):
        heatmaps(flat, photos, **options)


def opaque():
    class Opaque(keras.Model):
        def __init__(self):
            super().__init__()
            self.core = layers.Conv2D(3, 3, name="kernel_layer")

        def call(self, photos):
            return np.asarray(photos).mean((1, 2))

    return Opaque()


def ensemble():
    photos = keras.Input(SHAPE)
    features = chain(photos, blocks())
    return keras.Model(photos, layers.Average()([layers.Dense(7, "softmax")(layers.GlobalAveragePooling2D()(features)) for _ in "ab"]))


def broken():
    model = functional(hidden)
    model.layers[-1].bias.assign(np.full(7, np.nan))
    return model


def two_inputs():
    photos, age = keras.Input(SHAPE), keras.Input((1,))
    return keras.Model([photos, age], layers.Dense(7)(layers.Concatenate()([layers.GlobalAveragePooling2D()(photos), age])))


def two_outputs():
    photos = keras.Input(SHAPE)
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(photos))
    return keras.Model(photos, [layers.Dense(7)(pooled), layers.Dense(1)(pooled)])


def without_places():
    return keras.Sequential([keras.Input(SHAPE), layers.Normalization(mean=1.0, variance=2.0), layers.Flatten(name="squash"), layers.Dense(7)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (opaque, "cannot be taken apart.*kernel_layer"),
        (ensemble, "ends in probabilities"),
        (broken, "nan instead of scores"),
        (two_inputs, "with that one input"),
        (two_outputs, "expected one of \\(photos, classes\\)"),
        (without_places, "keeps places apart.*squash"),
    ],
)
def test_refused_models(build, message):
    with pytest.raises(ValueError, match=message):
        heatmaps(build(), PHOTOS)


def test_of_layers_in_a_row_one_is_named(flat):
    with pytest.raises(ValueError, match="one, two one leads into another"):
        heatmaps(flat, PHOTOS, layer=["one", "two"])


def test_a_name_that_occurs_twice_is_its_last_layer():
    first, second = (layers.Conv2D(4, 3, activation="relu", name="conv") for _ in range(2))
    inner = keras.Sequential([keras.Input(SHAPE), first], name="inner")
    model = keras.Sequential([inner, second, layers.GlobalAveragePooling2D(), layers.Dense(7, "softmax")])
    assert np.allclose(heatmaps(model, PHOTOS, 2, layer="conv"), heatmaps(model, PHOTOS, 2), atol=1e-6)


# The methods, by their papers' formulas


def test_methods_by_loops():
    rng = np.random.default_rng(5)
    A, G = rng.random((2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    for n, k in np.ndindex(2, 5):
        a, g = A[n, ..., k].ravel(), G[n, ..., k].ravel()
        alpha = np.array([x**2 / (2 * x**2 + a.sum() * x**3) for x in g])
        places = {"gradcam": g.sum() / 12, "xgradcam": sum(a * g) / sum(a), "gradcam++": (alpha * [max(x, 0) for x in g]).sum() / 12}
        for method, value in places.items():
            assert METHODS[method](A, G)[n, 0, 0, k] == pytest.approx(value)
        assert np.array_equal(METHODS["layercam"](A, G)[n, ..., k].ravel(), np.clip(g, 0, None))
        assert np.array_equal(METHODS["hirescam"](A, G)[n, ..., k].ravel(), g)


def test_eigencam_is_the_first_principal_direction():
    A = np.random.default_rng(6).random((2, 3, 4, 5))
    maps = (METHODS["eigencam"](A, None) * A).sum(-1)
    for one, a in zip(maps, A.reshape(2, 12, 5), strict=True):
        values, vectors = np.linalg.eigh(a.T @ a)
        direction = a @ vectors[:, -1]
        assert abs(np.corrcoef(one.ravel(), direction)[0, 1]) == pytest.approx(1) and one.mean() > 0
        assert 12 * np.sqrt((one**2).mean()) == pytest.approx(1)


# Other backends, where they are installed

OTHER_BACKEND = """
import sys, numpy as np, keras
from skin_lesion import gradcam
model = keras.saving.load_model(sys.argv[1], compile=False)
photos = np.load(sys.argv[2])
np.save(sys.argv[3], np.stack([gradcam.heatmaps(model, photos, "all", method) for method in gradcam.METHODS]))
"""


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != keras.backend.backend()])
def test_backends_agree(backend, tmp_path):
    python = python_with(backend)
    model = functional(attention)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "photos.npy", PHOTOS)
    files = [str(tmp_path / name) for name in ("model.keras", "photos.npy", "maps.npy")]
    subprocess.run([python, "-c", OTHER_BACKEND, *files], check=True, env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)})
    assert np.allclose(np.load(files[2]), np.stack([heatmaps(model, PHOTOS, "all", method) for method in METHODS]), atol=1e-3)


# The gallery


def photo_folder(folder):
    "Two photos of noise per class, in the Kaggle layout."
    folder.mkdir()
    rows = [(f"P{i}", f"L{i}", dx) for i, dx in enumerate(data.CLASSES * 2)]
    pd.DataFrame(rows, columns=["image_id", "lesion_id", "dx"]).to_csv(folder / "HAM10000_metadata.csv", index=False)
    for image_id, *_ in rows:
        cv2.imwrite(str(folder / f"{image_id}.jpg"), np.random.default_rng(int(image_id[1:])).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return folder


def test_gallery_is_the_same_from_either_format(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_LESION_CACHE", str(tmp_path / "cache"))
    model, table = models.create("cnn", 32), data.load_table(photo_folder(tmp_path / "photos"))
    pictures = []
    for name in ("model.keras", "legacy.h5"):
        gradcam.gallery(models.save(model, tmp_path / name, models.Info("cnn", 32)), table, tmp_path / f"{name}_gallery")
        pictures.append({path.name: path.read_bytes() for path in (tmp_path / f"{name}_gallery").iterdir()})
    new, old = pictures
    assert new == old and set(new) == {f"{dx}_gradcam.jpg" for dx in data.CLASSES}
    assert data.read_photo(tmp_path / "model.keras_gallery" / "mel_gradcam.jpg").shape == (780, 2100, 3)


REOPEN = """
import sys
import numpy as np
from skin_lesion import models
from skin_lesion.app import main
file, photos, answers, data, out = sys.argv[1:]
np.save(answers, models.load(file)[0].predict_on_batch(np.load(photos)))
sys.argv = ["skin-lesion", "gradcam", "--model", file, "--data", data, "--out", out]
main()
"""


def test_a_hybrid_in_an_h5_file_answers_and_explains_itself_in_a_fresh_process(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_LESION_CACHE", str(tmp_path / "cache"))
    model, photos = models.create("cnn_densenet121", 32), np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    file = models.save(model, tmp_path / "best_model.h5", models.Info("cnn_densenet121", 32))
    np.save(tmp_path / "photos.npy", photos)
    names = [file, tmp_path / "photos.npy", tmp_path / "answers.npy", photo_folder(tmp_path / "data"), tmp_path / "gallery"]
    subprocess.run([sys.executable, "-c", REOPEN, *map(str, names)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), model.predict_on_batch(photos), atol=1e-6)
    assert {path.name for path in (tmp_path / "gallery").iterdir()} == {f"{dx}_gradcam.jpg" for dx in data.CLASSES}


def test_gallery_rule():
    class Told:
        def predict_on_batch(self, photos):
            return np.eye(7)[[6, 6, 4, 4]][photos[:, 0].astype(int)] * 0.5 + 0.5 / 7

    table = pd.DataFrame({"image_id": list("abcd"), "dx": ["mel", "nv", "nv", "bcc"], "part": ["train", "test", "test", "test"]})
    chosen = gradcam._examples(Told(), table, np.arange(4)[:, None])
    assert chosen[["dx", "image_id", "predicted"]].values.tolist() == [["bcc", "d", "nv"], ["nv", "c", "nv"]]


def test_errors_shows_the_surest_first(flat):
    rows = [{"image_id": f"i{i}", "dx": "nv", "decision": "mel", **dict.fromkeys(data.CLASSES, 0.1), "mel": p} for i, p in enumerate([0.5, 0.9, 0.7])]
    rows.append({**rows[0], "image_id": "right", "dx": "mel", "mel": 0.99})
    table = pd.DataFrame({"image_id": [row["image_id"] for row in rows], "path": "somewhere"})
    assert gradcam._mistakes(pd.DataFrame(rows), table, 2)["image_id"].tolist() == ["i1", "i2"]
    with pytest.raises(ValueError, match="no photo of 'i1'"):
        gradcam._mistakes(pd.DataFrame(rows), table[:1], 2)
    with pytest.raises(ValueError, match="None of the 1 predictions is wrong"):
        gradcam.errors(flat, pd.DataFrame(rows[3:]), table)


def outlined(figure):
    return [axes for axes in figure.axes if any(isinstance(artist, QuadContourSet) for artist in axes.get_children())]


def test_pictures(flat, tmp_path):
    three = gradcam.panels(PHOTOS[0], heatmaps(flat, PHOTOS[:1])[0], "title", mask=PHOTOS[0, ..., 0] > 200, colormap="jet")
    figures = [three, gradcam.compare_methods(flat, PHOTOS[0], "mel"), gradcam.top_classes(flat, PHOTOS[0])]
    assert [len(figure.axes) for figure in figures] == [4, 8, 5]
    assert all(figure._repr_jpeg_().startswith(b"\xff\xd8") for figure in figures)
    three.savefig(tmp_path / "print.png")
    assert data.read_photo(tmp_path / "print.png").shape == (780, 2100, 3)
    with pytest.raises(ValueError, match="upsample=True"):
        gradcam.overlay(PHOTOS[0], np.zeros((4, 4)))
    cold = gradcam.overlay(PHOTOS[0], np.zeros((64, 64)))
    assert np.array_equal(cold, PHOTOS[0])


@pytest.mark.parametrize("draw", ["compare_methods", "top_classes"])
def test_outline_and_colours_on_request(flat, draw):
    def pixels(**options):
        figure = getattr(gradcam, draw)(flat, PHOTOS[0], **options)
        return figure, figure._repr_jpeg_()

    plain, marked = pixels(), pixels(mask=PHOTOS[0, ..., 0] > 200)
    assert not outlined(plain[0]) and len(outlined(marked[0])) == len(marked[0].axes) - 1
    assert plain[1] != pixels(colormap="jet")[1]


def test_figures_of_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_LESION_CACHE", str(tmp_path / "cache"))
    keras.utils.set_random_seed(0)
    model, table = eager(models.create("cnn", 32)), data.load_table(photo_folder(tmp_path / "photos"))
    masks = {"P0": np.eye(32)}
    seven = gradcam.gallery_figure(model, table.head(7), masks=masks)
    assert len(seven.axes) == 15 and len(outlined(seven)) == 2
    assert [axes.get_title().split("\n")[0] for axes in seven.axes[:7]] == list(data.CLASSES)
    rows = table.drop(columns="path").assign(decision="mel", part="test", **dict.fromkeys(data.CLASSES, 0.1))
    wrong = gradcam.errors(model, rows[rows["dx"] != "mel"].head(1), table, masks=masks, colormap="jet")
    assert len(wrong.axes) == 4 and len(outlined(wrong)) == 3
