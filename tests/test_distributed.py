"Two processes train like one, on the loopback interface; one that dies ends the others, and the run goes on."
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import ROOT, python_with
from typer.testing import CliRunner

from skin_lesion.app import app
from skin_lesion.data import load_table, split_lesions
from skin_lesion.distribute import COORDINATOR, PROCESSES, RANK, _free_address, launch
from skin_lesion.models import Info, create, save
from skin_lesion.sample import data_folder

TRAIN = """
import sys
import numpy as np
import pandas as pd
from skin_lesion import train as training
from skin_lesion.distribute import place

def fit_and_tell(model, run, *others, fit=training.fit):
    history = fit(model, run, *others)
    np.savez(f"{run}-rank{place()[0]}.npz", *model.get_weights())
    return history

training.fit = fit_and_tell
teachers = sys.argv[3] if len(sys.argv) > 3 else None
training.train(pd.read_csv(sys.argv[1]), sys.argv[2], training.Config(size=32, epochs=2, batch_size=8, teachers=teachers))
"""
COMMAND = [sys.executable, "-c", "from skin_lesion.app import main; main()", "train", "--distributed"]


@pytest.fixture(scope="module")
def environment():
    "What the processes need to know; what JAX compiles is kept where `make test-jax` keeps it."
    python_with("jax")
    kept = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".venv-jax" / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    kept |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    kept |= {name: value for name, value in os.environ.items() if name not in (COORDINATOR, PROCESSES, RANK)}
    return {**kept, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "A table of few photos, of which the validation part does not divide by two."
    split = split_lesions(load_table(data_folder("sample")))
    parts = [split[split["part"] == part].groupby("dx").head(n) for part, n in [("train", 8), ("validation", 1), ("test", 1)]]
    file = tmp_path_factory.mktemp("data") / "table.csv"
    pd.concat(parts).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def runs(data, environment, tmp_path_factory):
    "The same training by one process and by two."
    folder = tmp_path_factory.mktemp("runs")
    for processes in (1, 2):
        launch([python_with("jax"), "-c", TRAIN, str(data), str(folder / f"by{processes}")], processes, environment=environment)
    return folder


def history(run):
    return pd.read_csv(run / "history.csv")


def test_two_processes_learn_what_one_learns(runs):
    one, two = history(runs / "by1"), history(runs / "by2")
    assert len(one) == len(two) == 2
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=1e-3)
    np.testing.assert_allclose(two["val_balanced_accuracy"], one["val_balanced_accuracy"], rtol=1e-6)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-3)
    written = [sorted(path.name for path in (runs / name).iterdir()) for name in ("by1", "by2")]
    assert written[0] == written[1]


def test_they_take_the_same_number_of_steps(runs):
    steps = []
    for name in ("by1", "by2"):
        with np.load(runs / name / "checkpoints/last.npz") as saved:
            counters = [int(saved[key]) for key in saved.files if saved[key].dtype.kind in "iu" and saved[key].ndim == 0]
        steps.append(counters)
    assert steps[0] == steps[1] and 14 in steps[0], steps


def test_both_ranks_hold_the_same_weights(runs):
    with np.load(f"{runs}/by2-rank0.npz") as zero, np.load(f"{runs}/by2-rank1.npz") as one:
        assert zero.files == one.files and len(zero.files) > 10
        for name in zero.files:
            np.testing.assert_array_equal(zero[name], one[name])


def test_teachers_say_the_same_to_two_processes(data, environment, runs, tmp_path):
    for processes in (1, 2):
        command = [python_with("jax"), "-c", TRAIN, str(data), str(tmp_path / f"by{processes}"), str(runs / "by1/model.keras")]
        launch(command, processes, environment=environment)
    one, two = history(tmp_path / "by1"), history(tmp_path / "by2")
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-3)
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=1e-3)
    assert not np.allclose(one["loss"], history(runs / "by1")["loss"], rtol=0.01)


def test_a_launcher_on_each_machine_does_the_same(data, environment, runs, tmp_path):
    command, address = [python_with("jax"), "-c", TRAIN, str(data), str(tmp_path / "apart")], _free_address()
    with ThreadPoolExecutor(2) as machines:
        list(machines.map(lambda rank: launch(command, 2, address, [rank], environment), (0, 1)))
    pd.testing.assert_frame_equal(*(history(run).drop(columns="seconds") for run in (tmp_path / "apart", runs / "by2")), check_exact=True)


needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find the ranks")


def ranks_of(process):
    "Ids of the processes that a launcher has started, by rank."
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if int(parent) == process.pid:
                words = dict(word.split("=", 1) for word in (folder / "environ").read_text().split("\0") if "=" in word)
                found[int(words[RANK])] = int(folder.name)
    return found


def wait_for(file, process):
    "Return when a file is there, or the process that should write it has ended, or after two minutes."
    end = time.time() + 120
    while not file.exists() and time.time() < end and process.poll() is None:
        time.sleep(0.02)


@needs_proc
def test_a_rank_that_dies_ends_the_run_which_then_goes_on(environment, tmp_path):
    run, python = tmp_path / "run", python_with("jax")
    words = ["--processes", "2", "--size", "32", "--epochs", "6", "--set", "batch_size=16", "--out", str(run), "--resume", "--json"]
    train = [python, *COMMAND[1:], *words]
    with subprocess.Popen(train, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(run / "history.csv", process)
        ranks = ranks_of(process)
        heard = {c.laddr.ip for rank in ranks.values() for c in psutil.Process(rank).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        os.kill(ranks[1], signal.SIGKILL)
        killed = time.time()
        out, said = process.communicate(timeout=60)
    assert heard and all(ip_address(address.removeprefix("::ffff:")).is_loopback for address in heard), heard
    assert process.returncode == 2 and time.time() - killed < 60
    assert "Rank 1 of 2" in said and "SIGKILL" in said and "--resume" in said, said
    assert "Rank 1 of 2" in json.loads(out)["error"]
    assert not Path(f"/proc/{ranks[0]}").exists() and not (run / "model.keras").exists()
    done = len(history(run))
    assert 0 < done < 6
    finished = subprocess.run(train, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert set(json.loads(finished.stdout)) == {"run", "test"}
    assert len(history(run)) == 6 and (run / "model.keras").exists()


@needs_proc
def test_a_machine_that_is_gone_ends_the_run_on_the_others(environment, tmp_path):
    run, address = tmp_path / "run", _free_address()
    words = ["--processes", "2", "--coordinator", address, "--size", "32", "--epochs", "6", "--set", "batch_size=16", "--out", str(run)]
    start = partial(subprocess.Popen, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    train = [python_with("jax"), *COMMAND[1:], *words]
    with start([*train, "--rank", "0"]) as first, start([*train, "--rank", "1"]) as other:
        wait_for(run / "history.csv", first)
        gone = ranks_of(other)
        for process in (other.pid, gone[1]):
            os.kill(process, signal.SIGKILL)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 2 and "Rank 0 of 2" in said and "--resume" in said, said
    assert len(history(run)) < 6 and not (run / "model.keras").exists()


@pytest.mark.parametrize("rank", ["x", "1.5", "-3", "3-", "1-0"])
def test_ranks_that_are_none_are_refused(rank):
    words = ["train", "--distributed", "--processes", "2", "--coordinator", "127.0.0.1:9", "--out", "run", f"--rank={rank}"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, SystemExit) and refused.exit_code == 2 and f"--rank {rank} is no rank" in refused.output


def test_batches_that_cannot_be_shared_are_refused(environment, tmp_path):
    words = ["--processes", "2", "--size", "32", "--epochs", "1", "--set", "batch_size=15", "--out", str(tmp_path / "run")]
    refused = subprocess.run([python_with("jax"), *COMMAND[1:], *words], env=environment, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2 and "multiple of 2" in refused.stderr, refused.stderr


def test_ranks_predict_their_parts_which_are_joined(tmp_path):
    save(create("cnn", 32), tmp_path / "model.keras", Info("cnn", 32))
    photos = load_table(data_folder("sample"))["path"].head(5).tolist()
    (tmp_path / "broken.jpg").write_text("no photo")

    def predict(out, *words):
        command = ["predict", "--model", tmp_path / "model.keras", "--out", tmp_path / out, *words, *photos[:3], tmp_path / "broken.jpg", *photos[3:]]
        return CliRunner().invoke(app, [str(word) for word in command]).exit_code

    assert predict("alone.csv") == 1
    assert predict("shared.csv", "--distributed", "--processes", "3", "--rank", "2") == 0
    assert not (tmp_path / "shared.csv").exists()
    codes = [predict("shared.csv", "--distributed", "--processes", "3", "--rank", rank) for rank in (0, 1)]
    assert codes == [0, 1]
    alone, shared = (pd.read_csv(tmp_path / name) for name in ("alone.csv", "shared.csv"))
    pd.testing.assert_frame_equal(shared, alone, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["alone.csv", "shared.csv"]
    assert predict("shared.csv", "--distributed", "--processes", "3") == 2
