"`skin-lesion doctor` names what is wrong, says what to do, and ends with a code."
import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
from typer.testing import CliRunner

import skin_lesion
from skin_lesion import doctor as doctor_module
from skin_lesion.app import app


def doctor(code, *arguments):
    "Run the command in this process; its findings by name, or its text with --json left out."
    result = CliRunner().invoke(app, ["doctor", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    if "--json" not in arguments:
        return result.output
    answer = json.loads(result.stdout)
    assert answer["good"] == (code == 0)
    return {finding["what"].split(" (")[0]: finding for finding in answer["findings"]}


@pytest.fixture
def quick(monkeypatch):
    "The shipped model is not opened."
    monkeypatch.setattr(doctor_module, "look_at_model", lambda: doctor_module.Finding("shipped model", "ok", "not looked at"))


@pytest.fixture
def lacking(monkeypatch):
    "A function that makes packages look as if they were not installed, or of another version."
    installed = metadata.version

    def lack(**versions):
        def version(name):
            if name in versions and versions[name] is None:
                raise metadata.PackageNotFoundError(name)
            return versions.get(name) or installed(name)

        monkeypatch.setattr(metadata, "version", version)

    return lack


def test_a_sound_machine(monkeypatch):
    monkeypatch.delenv("SKIN_LESION_DATA", raising=False)
    found = doctor(0, "--json")
    assert {"python", "keras", "numpy", "backend", "cache folder", "shipped model", "data", "extra dev"} <= set(found)
    assert found["keras"]["found"] == metadata.version("keras")
    assert "efficientnet_lite0" in found["shipped model"]["found"]
    assert found["data"]["state"] == "missing" and "skin-lesion download" in found["data"]["remedy"]


def test_for_people(quick):
    text = doctor(0)
    assert "Nothing is wrong" in text and metadata.version("keras") in text


def test_folders_that_do_not_work(tmp_path, monkeypatch, quick):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SKIN_LESION_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("SKIN_LESION_DATA", str(tmp_path / "nowhere"))
    found = doctor(1, "--json")
    assert {what for what, finding in found.items() if finding["state"] == "wrong"} == {"cache folder", "data"}
    assert "SKIN_LESION_CACHE" in found["cache folder"]["remedy"]
    assert str(tmp_path / "nowhere") in found["data"]["found"]


def test_data_that_lacks_photos(tmp_path, monkeypatch, quick):
    (tmp_path / "meta.csv").write_text("image_id,lesion_id,dx\nA,1,nv\nB,2,mel\n")
    monkeypatch.setenv("SKIN_LESION_DATA", str(tmp_path))
    with pytest.warns(UserWarning, match="None of the 2 photos"):
        found = doctor(1, "--json")
    assert "2 of 2 photos" in found["data"]["found"]


def test_packages_that_are_missing_or_old(lacking, quick):
    lacking(pandas="1.5.3", seaborn=None, kagglehub=None)
    found = doctor(1, "--json")
    assert (found["pandas"]["state"], found["seaborn"]["state"], found["extra kaggle"]["state"]) == ("wrong", "wrong", "missing")
    assert "1.5.3, expected >=3" in found["pandas"]["found"]
    assert 'pip install "seaborn>=0.13.2"' in found["seaborn"]["remedy"]
    text = doctor(1)
    assert 'pip install "kagglehub>=1"' in text and "Something is wrong" in text


def test_an_extra_may_be_missing(lacking, quick):
    lacking(kagglehub=None, playwright=None, ruff=None)
    found = doctor(0, "--json")
    assert found["extra dev"]["remedy"] == 'python -m pip install "ruff" "playwright"'


def test_tensorflow_may_be_missing_where_it_is_not_the_backend(lacking, monkeypatch):
    lacking(tensorflow=None)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    found = {finding.what: finding.state for finding in doctor_module.look_at_packages()}
    assert found.pop("tensorflow") == "missing" and set(found.values()) == {"ok"}


def test_a_model_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(skin_lesion, "__file__", str(tmp_path / "__init__.py"))
    found = doctor(1, "--json")["shipped model"]
    assert found["state"] == "wrong" and "ships no trained model" in found["found"]


def test_a_backend_that_does_not_start():
    command = [sys.executable, "-c", "from skin_lesion.app import main; main()", "doctor", "--json"]
    done = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": "abacus"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    found = {finding["what"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert "abacus" in found["backend"]["found"] and "KERAS_BACKEND" in found["backend"]["remedy"]
    assert found["shipped model"]["state"] == "wrong"
