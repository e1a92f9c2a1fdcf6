"`skin-lesion train --tensorboard`: logs where they are asked for, a plain refusal where the package is missing."
import importlib.util
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from skin_lesion.app import app

WORDS = ["train", "--data", "sample", "--model", "cnn", "--size", "32", "--epochs", "2", "--tensorboard", "--json", "--out"]


def test_without_the_package_nothing_is_begun(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else find(name, *more))
    result = CliRunner().invoke(app, [*WORDS, str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "pip install tensorboard" in json.loads(result.stdout)["error"]
    assert not (tmp_path / "run").exists()


def test_logs_hold_what_the_history_holds(tmp_path):
    files = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here; pip install tensorboard")
    tf = pytest.importorskip("tensorflow", reason="no TensorFlow here")

    run = tmp_path / "run"
    result = CliRunner().invoke(app, [*WORDS, str(run)])
    assert result.exit_code == 0, (result.output, result.exception)
    logged = files.EventAccumulator(str(run / "logs" / "validation")).Reload()
    values = [float(tf.make_ndarray(event.tensor_proto)) for event in logged.Tensors("epoch_balanced_accuracy")]
    assert values == pytest.approx(pd.read_csv(run / "history.csv")["val_balanced_accuracy"].tolist())
