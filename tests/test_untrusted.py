"Files from somebody else: a model brings no code, an archive writes and grows nowhere else, a download comes by https and with its hash."
import base64
import http.server
import json
import os
import pickle
import re
import threading
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT
from keras.src.saving.serialization_lib import SafeModeScope

from skin_lesion import download, models
from skin_lesion.data import CLASSES
from skin_lesion.models import BACKBONES, Info, create, load, read_info, save
from skin_lesion.predict import open_familiarity
from skin_lesion.train import load_checkpoint

SIZE = 32
LIBRARY = sorted((ROOT / "skin_lesion").glob("*.py"))


class Harm:
    "A pickle that leaves a trace when it is read."

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "harm"),)


def network(layer):
    photos = keras.Input((SIZE, SIZE, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(layer(photos))
    return keras.Model(photos, keras.layers.Dense(len(CLASSES), "softmax")(pooled))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    "A model of ours in each of its three formats."
    folder, model = tmp_path_factory.mktemp("good"), create("cnn", SIZE)
    return {suffix: save(model, folder / f"good{suffix}", Info("cnn", SIZE)) for suffix in (".keras", ".h5", ".npz")}


def changed(file, path, **members):
    "A copy of a zip file with other contents in some of its members."
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, members.get(name.replace(".", "_"), source.read(name)))
    return path


def asking_for(file, path, **thing):
    "A copy of a .keras file whose first layer is something else."
    with zipfile.ZipFile(file) as source:
        config = json.loads(source.read("config.json"))
    config["config"]["layers"][1] |= {"registered_name": None, **thing}
    return changed(file, path, config_json=json.dumps(config))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_layer_that_is_code_is_named_and_refused(tmp_path, suffix):
    network(keras.layers.Lambda(lambda x: x / 255)).save(tmp_path / f"model{suffix}")
    with pytest.raises(ValueError, match=rf"model\{suffix}.*code that is not Keras' own: Lambda.*; build that model from layers of Keras"):
        load(tmp_path / f"model{suffix}", classes=CLASSES)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_is_refused_where_the_program_has_switched_safe_mode_off(tmp_path, suffix):
    "As `keras.config.enable_unsafe_deserialization` does, which has no counterpart."
    network(keras.layers.Lambda(lambda x: x / 255)).save(tmp_path / f"model{suffix}")
    with SafeModeScope(False), pytest.raises(ValueError, match="not Keras' own: Lambda"):
        load(tmp_path / f"model{suffix}", classes=CLASSES)


def test_a_function_that_is_code_is_refused_in_any_layer(good, tmp_path):
    function = {"class_name": "__lambda__", "config": {"code": "4wAAAAA=", "defaults": None, "closure": None}}
    thing = {"module": "keras.layers", "class_name": "Activation", "config": {"activation": function}}
    path = asking_for(good[".keras"], tmp_path / "model.keras", **thing)
    with SafeModeScope(False), pytest.raises(ValueError, match="not Keras' own: __lambda__"):
        load(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_an_object_that_is_registered_here_only_is_known_and_elsewhere_refused(tmp_path, suffix):
    @keras.saving.register_keras_serializable("elsewhere")
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    network(Own()).save(tmp_path / f"model{suffix}")
    assert load(tmp_path / f"model{suffix}", classes=CLASSES)[1].classes == CLASSES
    del keras.saving.get_custom_objects()["elsewhere>Own"]
    with pytest.raises(ValueError, match="not Keras' own: .*Own"):
        load(tmp_path / f"model{suffix}", classes=CLASSES)


ASKED = [("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("keras.utils", "get_file"), ("skin_lesion.train", "FusedNormalization")]


@pytest.mark.parametrize(("module", "name"), ASKED)
def test_a_model_file_that_asks_for_a_function_is_refused(good, tmp_path, module, name):
    path = asking_for(good[".keras"], tmp_path / "model.keras", module=module, class_name=name, config={})
    with pytest.raises(ValueError, match=rf"(?s)model\.keras cannot be read.*{name}"):
        load(path)


def test_a_pickled_torch_module_in_a_model_file_is_refused_unread(good, tmp_path):
    text = base64.b64encode(pickle.dumps(Harm(tmp_path))).decode()
    thing = {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": text}}
    with pytest.raises(ValueError, match="not Keras' own: TorchModuleWrapper"):
        load(asking_for(good[".keras"], tmp_path / "model.keras", **thing))
    assert not (tmp_path / "harm").exists()


def test_a_layer_that_would_read_another_file_is_refused(good, tmp_path):
    (tmp_path / "secret.txt").write_text("password")
    thing = {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": str(tmp_path / "secret.txt")}}
    with pytest.raises(ValueError, match="cannot be read as a Keras model"):
        load(asking_for(good[".keras"], tmp_path / "model.keras", **thing))


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".npz"])
def test_a_pickle_under_the_name_of_a_model_is_refused_unread(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(pickle.dumps(Harm(tmp_path)))
    with pytest.raises(ValueError, match="not a model file"):
        load(tmp_path / f"model{suffix}", classes=CLASSES)
    assert not (tmp_path / "harm").exists()


def test_a_pickle_inside_an_array_file_is_refused_unread(good, tmp_path):
    with np.load(good[".npz"]) as file:
        arrays = dict(file)
    for name in ("info", "w0"):
        np.savez(tmp_path / "model.npz", **arrays | {name: np.array([Harm(tmp_path)], dtype=object)})
        with pytest.raises(ValueError, match="(?s)model.npz.*allow_pickle=False"):
            load(tmp_path / "model.npz")
    np.savez(tmp_path / "last.npz", history=np.array([Harm(tmp_path)], dtype=object), v0=np.zeros(1))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_checkpoint(tmp_path / "last.npz", keras.Sequential(), None)
    np.savez(tmp_path / "familiarity.npz", mean=np.array([Harm(tmp_path)], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        open_familiarity(tmp_path / "model.npz")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("member", ["skin_lesion_json", "config_json", "model_weights_h5"])
def test_a_model_file_that_would_fill_the_memory_is_refused_before_it_is_unpacked(good, tmp_path, member):
    path = changed(good[".keras"], tmp_path / "bomb.keras", **{member: bytes(300_000_000)})
    with pytest.raises(ValueError, match=r"bomb\.keras.*100-fold"):
        read_info(path)


def test_an_array_file_that_would_fill_the_memory_is_refused(good, tmp_path):
    with np.load(good[".npz"]) as file:
        np.savez_compressed(tmp_path / "bomb.npz", **{name: file[name] for name in file.files[:2]}, w1=np.zeros(10**8, "float16"))
    with pytest.raises(ValueError, match=r"bomb\.npz.*100-fold"):
        load(tmp_path / "bomb.npz")


def test_a_tensor_file_that_would_fill_the_memory_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(ValueError, match=r"bomb\.pth.*100-fold"):
        models.read_torch(tmp_path / "bomb.pth")


@pytest.mark.parametrize("kind", ["link", "external", "bomb"])
def test_weights_that_lie_in_another_file_or_nowhere_are_refused(good, tmp_path, kind):
    path = tmp_path / "model.h5"
    path.write_bytes(good[".h5"].read_bytes())
    with h5py.File(path, "a") as file:
        weights = file["model_weights/cnn_stem_conv/cnn_stem_conv"]
        del weights["kernel"]
        if kind == "link":
            weights["kernel"] = h5py.ExternalLink("/etc/passwd", "kernel")
        elif kind == "external":
            weights.create_dataset("kernel", (3, 3, 3, 16), "f4", external=[("/etc/passwd", 0, 1728)])
        else:
            weights.create_dataset("kernel", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")
    with pytest.raises(ValueError, match=r"model\.h5 cannot be read.*Not allowed"):
        load(path)


def test_the_library_reads_no_pickle_and_runs_no_text():
    "Every way to run what a file says; the unpickler of `models` builds tensors only, which tests/test_models.py shows."
    code = {path.name: path.read_text(encoding="utf-8") for path in LIBRARY}
    patterns = [r"allow_pickle\s*=\s*True", r"pickle\.loads?\(", r"\beval\(", r"\bexec\(", r"os\.system", r"subprocess", r"shell\s*=\s*True",
                r"safe_mode\s*=\s*False", r"enable_unsafe", r"verify\s*=\s*False", r"weights_only\s*=\s*False", r"joblib"]
    found = {(name, p) for name, text in code.items() for p in patterns if re.search(p, text)}
    assert found == {("distribute.py", "subprocess")}, "a parent starts the ranks, which are this program again"


def test_every_download_is_by_https_and_has_a_hash():
    addresses = {url for path in LIBRARY for url in re.findall(r"http://[^\s\"')]*", path.read_text(encoding="utf-8"))}
    assert {url for url in addresses if not url.startswith(("http://127.0.0.1", "http://{host}"))} == set()  # this computer alone
    assert download.DATAVERSE.startswith("https://") and all(re.fullmatch("[0-9a-f]{32}", file.md5) for file in download.FILES)
    fetched = [backbone for backbone in BACKBONES.values() if backbone.url]
    assert fetched and all(b.url.startswith("https://") and re.fullmatch("[0-9a-f]{32}", b.md5) for b in fetched)


@pytest.mark.parametrize("source", ["http://dataverse.harvard.edu", "ftp://127.0.0.1", "file:///etc", "http://127.0.0.1.example.org", "elsewhere"])
def test_a_source_without_https_is_refused_by_name(tmp_path, source):
    with pytest.raises(ValueError, match=f"(?s)'{re.escape(source)}'.*https"):
        download.download(tmp_path, source)


def test_a_way_that_leaves_https_is_not_followed(tmp_path, monkeypatch):
    class Leading(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", "http://example.org/file")
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Leading) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with pytest.raises(OSError, match=r"leads to http://example\.org/file, which is not https"):
            download.download(tmp_path, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
