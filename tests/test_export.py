"An exported file answers as the library does, or there is no file."
import json
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner

from skin_lesion import export as exporting
from skin_lesion.app import app
from skin_lesion.data import CLASSES, load_table
from skin_lesion.gradcam import heatmaps
from skin_lesion.models import Info, create, fold, log_probabilities, logits_model, save
from skin_lesion.sample import data_folder

SIZE = 64
TENSORFLOW = keras.backend.backend() == "tensorflow"
needs_tensorflow = pytest.mark.skipif(not TENSORFLOW, reason="models are exported under the TensorFlow backend")


def needs(format):
    "Skip where a format's packages are not installed, and say which."
    if why := exporting.obstacle(format):
        pytest.skip(why)
    return exporting.FORMATS[format].suffix


def spread(model, photos):
    "The model with logits that differ from photo to photo by about one, as a trained one's do."
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([np.random.default_rng(0).normal(0, 1, kernel.shape), bias])
    logits = logits_model(model).predict_on_batch(photos)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel / logits.std(0), (bias - logits.mean(0)) / logits.std(0)])
    return model


@pytest.fixture(scope="module")
def photos():
    return exporting.parity_photos(load_table(data_folder("sample")), SIZE)


@pytest.fixture(scope="module")
def models(photos):
    "A small network that averages two views, and a hybrid of two grids: four places by four, and two by two."
    keras.utils.set_random_seed(0)
    names = {"cnn": 2, "cnn_efficientnet_lite0": 1}
    return {name: (fold(spread(create(name, SIZE), photos), 1.5), Info(name, SIZE, temperature=1.5, views=views)) for name, views in names.items()}


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    return save(models["cnn"][0], tmp_path_factory.mktemp("model") / "model.keras", models["cnn"][1])


def call(*arguments, code=0):
    "Run a command in this process; its JSON object, or its text without --json."
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout) if "--json" in arguments else result.output


def test_photos_are_compared_class_by_class(photos):
    assert photos.shape == (50, SIZE, SIZE, 3) and photos.dtype == np.uint8
    table = load_table(data_folder("sample"))
    assert exporting.parity_photos(table.groupby("dx").head(1), SIZE).shape[0] == len(CLASSES)
    with pytest.raises(ValueError, match="There are 0 photos"):
        exporting.parity_photos(table.assign(path=None), SIZE)


@pytest.mark.parametrize("name", ["cnn", "cnn_efficientnet_lite0"])
def test_the_graph_is_the_library(models, photos, name):
    model, info = models[name]
    found = exporting.deployable(model, info).predict_on_batch(photos[:9])
    expected = softmax(log_probabilities(model, photos[:9], info.views), axis=1)
    assert expected.std(axis=0).min() > 1e-3, "a model that answers every photo alike would prove nothing"
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(found["heatmaps"], heatmaps(model, photos[:9], "all", upsample=False), atol=1e-3)


@needs_tensorflow
@pytest.mark.parametrize("name", ["cnn", "cnn_efficientnet_lite0"])
@pytest.mark.parametrize("format", exporting.FORMATS)
def test_a_file_answers_as_the_library(models, photos, tmp_path, name, format):
    (model, info), path = models[name], tmp_path / f"model{needs(format)}"
    report = exporting.export(model, info, path, format, photos)
    assert report["holds"] and report["top1_equal"] and report["max_difference"] <= 1e-4 and report["photos"] == 50
    assert json.loads((tmp_path / f"{path.name}.parity.json").read_text()) == report
    others = {f"{path.name}.parity.json"} | ({f"{path.name}.json"} if format != "onnx" else set())
    assert {p.name for p in tmp_path.iterdir()} == {path.name} | others
    found = exporting.open_exported(path)(photos[:3])
    assert list(found)[0] == "probabilities" or format != "onnx"
    np.testing.assert_allclose(found["probabilities"], softmax(log_probabilities(model, photos[:3], info.views), axis=1), atol=1e-4)
    np.testing.assert_allclose(found["heatmaps"], heatmaps(model, photos[:3], "all", upsample=False), atol=1e-2)
    assert about(path, format)["classes"] == list(CLASSES) and about(path, format)["size"] == SIZE


def about(path, format):
    "What a file says of itself, or what is said beside it."
    if format != "onnx":
        return json.loads(path.with_name(f"{path.name}.json").read_text())
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    assert [(x.name, x.type, x.shape) for x in session.get_inputs()] == [("photos", "tensor(uint8)", ["n", SIZE, SIZE, 3])]
    assert [(x.name, x.shape) for x in session.get_outputs()] == [("probabilities", ["n", 7]), ("heatmaps", ["n", 7, 4, 4])]
    return {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}


@needs_tensorflow
def test_the_command_writes_reports_and_refuses_to_replace_a_folder(saved, tmp_path):
    words = ["export", "--model", saved, "--format", "saved_model", "--out", tmp_path / "served", "--data", "sample"]
    report = call(*words, "--json")
    assert report["holds"] and (report["format"], report["file"]) == ("saved_model", "served")
    assert (tmp_path / "served/saved_model.pb").exists()
    assert "is there already" in call(*words, code=2)


@needs_tensorflow
@pytest.mark.parametrize("broken", ["calibration", "order of classes", "heatmaps"])
def test_a_file_that_is_another_model_is_not_kept(saved, tmp_path, monkeypatch, broken):
    whole = exporting.deployable

    def damaged(model, info):
        graph = whole(model, info)
        p, maps = graph.output["probabilities"], graph.output["heatmaps"]
        p = {"calibration": p**1.01 / keras.ops.sum(p**1.01, axis=1, keepdims=True), "order of classes": keras.ops.flip(p, 1)}.get(broken, p)
        maps = 0.9 * maps if broken == "heatmaps" else maps
        return keras.Model(graph.input, {"probabilities": p, "heatmaps": maps})

    monkeypatch.setattr(exporting, "deployable", damaged)
    said = call("export", "--model", saved, "--format", "saved_model", "--out", tmp_path / "served", "--data", "sample", code=2)
    assert "was not written" in said
    assert [p.name for p in tmp_path.iterdir()] == ["served.parity.json"]
    report = json.loads((tmp_path / "served.parity.json").read_text())
    assert not report["holds"] and report["top1_equal"] == (broken != "order of classes")


@needs_tensorflow
def test_a_head_with_a_hidden_layer_is_exported_without_heatmaps(models, photos, tmp_path):
    model, info = models["cnn"]
    x = keras.layers.Dense(16, activation="relu")(model.get_layer("logits").input)
    hidden = keras.Model(model.input, keras.layers.Dense(7, activation="softmax")(x))
    report = exporting.export(hidden, replace(info, views=1), tmp_path / "hidden", "saved_model", photos[:20])
    assert report["holds"] and report["heatmaps_max_difference"] is None and "no heatmaps" in exporting.told(report)
    assert set(exporting.open_exported(tmp_path / "hidden")(photos[:2])) == {"probabilities"}


@needs_tensorflow
def test_a_model_that_cannot_be_converted_is_one_error(models, photos, tmp_path, monkeypatch):
    def write(graph, about, path):
        path.mkdir()
        raise RuntimeError("no such operation.")

    monkeypatch.setitem(exporting.FORMATS, "saved_model", replace(exporting.FORMATS["saved_model"], write=write))
    with pytest.raises(ValueError, match="cannot be written and run as saved_model: no such operation"):
        exporting.export(*models["cnn"], tmp_path / "served", "saved_model", photos)
    assert list(tmp_path.iterdir()) == []


@needs_tensorflow
@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("onnx", "tf2onnx"), ("litert", "ai_edge_litert")])
def test_a_missing_package_is_named(saved, tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / f"model{exporting.FORMATS[format].suffix}"
    said = call("export", "--model", saved, "--format", format, "--out", out, "--data", "sample", code=2)
    assert package in said.partition("not installed: ")[2] and "pip install 'skin_lesion[export]'" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_another_backend_is_refused(models, photos, tmp_path, monkeypatch, format):
    if TENSORFLOW:
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="TensorFlow backend, not under (jax|torch). Set KERAS_BACKEND=tensorflow"):
        exporting.export(*models["cnn"], tmp_path / f"model{exporting.FORMATS[format].suffix}", format, photos)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "name", "said"),
    [("pb", "model.pb", "expected one of onnx"), ("onnx", "model.keras", "ends in .onnx"), ("saved_model", "model.onnx", "without an ending")],
)
def test_wrong_names_are_refused(saved, tmp_path, format, name, said):
    assert said in call("export", "--model", saved, "--format", format, "--out", tmp_path / name, "--data", "sample", code=2)


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No exported model"):
        exporting.open_exported(tmp_path / "model.onnx")
    (tmp_path / "model.bin").touch()
    with pytest.raises(FileNotFoundError, match="No exported model"):
        exporting.open_exported(tmp_path / "model.bin")
