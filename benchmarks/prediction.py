"""Photos a second from file to answer: this library, Keras' `predict` as people write it, and the exported ONNX file in ONNX Runtime.

    pip install -e '.[export]'
    python benchmarks/prediction.py                # 2,000 photos of the sample, writes benchmarks/results/prediction.csv
    python benchmarks/prediction.py --photos 64    # the same at a size for trying it out

Every way reads the same files (where there are fewer than asked for, again and again) and answers with the same network. Decoding alone
and the network alone are timed as well: one after the other they give 1 / (1 / decoding + 1 / network) photos a second, and whoever
overlaps them is faster than that where there are cores to spare. Times need a machine that does nothing else.
"""
import argparse
import importlib.metadata
import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
import keras
import numpy as np
import pandas as pd
from gradcam import seconds

from skin_lesion import data, export, models, predict, sample

LIMIT = 1.15
OURS, ONNX = "skin_lesion.predict", "exported file in ONNX Runtime"


def batches(paths, size):
    "The paths, so many at a time."
    return [paths[start : start + size] for start in range(0, len(paths), size)]


# The ways


def one_by_one(model, info, paths):
    "Keras' documentation, photo by photo."
    side = (info.size, info.size)
    photos = (keras.utils.img_to_array(keras.utils.load_img(path, target_size=side)) for path in paths)
    return np.concatenate([model.predict(photo[None], verbose=0) for photo in photos])


def many_at_once(model, info, paths, batch_size):
    "The same for a batch at a time."
    side = (info.size, info.size)
    answers = []
    for some in batches(paths, batch_size):
        photos = np.stack([keras.utils.img_to_array(keras.utils.load_img(path, target_size=side)) for path in some])
        answers.append(model.predict(photos, verbose=0))
    return np.concatenate(answers)


def in_onnxruntime(session, info, paths, batch_size):
    "The exported file, fed by threads that decode all the way ahead."
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = pool.map(lambda path: data.fit_photo(path, info.size), paths)
        stacks = (np.stack(list(islice(photos, len(some)))) for some in batches(paths, batch_size))
        return np.concatenate([session.run(["probabilities"], {"photos": stack})[0] for stack in stacks])


def by_us(model, info, paths, batch_size):
    "`predict` of this library."
    return np.array([list(answer["probabilities"].values()) for answer in predict.predict(model, info, paths, batch_size)])


def decoded(info, paths):
    "Decoding alone, on all cores."
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(photo.size for photo in pool.map(lambda path: data.fit_photo(path, info.size), paths))


def network_alone(model, info, photos, n, batch_size):
    "The network alone, on photos in memory."
    for some in batches(range(n), batch_size):
        models.log_probabilities(model, photos[: len(some)], info.views)


def session_of(model, info, table):
    "The model in ONNX Runtime, by way of `skin-lesion export`."
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export.export(model, info, path, "onnx", export.parity_photos(table, info.size))
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


# The table

COLUMNS = ["way", "photos", "photos_per_second", "least", "most", "times_ours", "same_class", "limit", "holds", "model", "machine", "versions"]


def surroundings():
    "The machine and the versions behind the numbers."
    known = [f"{name} {importlib.metadata.version(name)}" for name in ("keras", "tensorflow", "onnxruntime", "numpy")]
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    versions = ", ".join([f"python {platform.python_version()}", *known])
    return {"machine": f"{name}, {os.cpu_count()} cores, {platform.system()}", "versions": versions}


def ways_to_answer(model, info, paths, batch_size, session):
    "{way: function that answers for all paths}, probabilities of shape (n, classes)."
    return {
        OURS: lambda: by_us(model, info, paths, batch_size),
        ONNX: lambda: in_onnxruntime(session, info, paths, batch_size),
        "Keras predict, a batch at a time": lambda: many_at_once(model, info, paths, batch_size),
        "Keras predict, photo by photo": lambda: one_by_one(model, info, paths),
    }


def rates(work, n, repeats):
    "({way: photos a second of every repeat}, {way: its answers})."
    found = {}
    keep = {name: lambda name=name, way=way: found.update({name: way()}) for name, way in work.items()}
    return {name: n / np.array(took) for name, took in seconds(keep, repeats).items()}, found


def measure(model, info, table, wanted):
    "One row for each way."
    paths, size = list(islice(cycle(table["path"].dropna()), wanted.photos)), wanted.batch_size
    few = np.stack([data.fit_photo(path, info.size) for path in paths[:size]])
    answering = ways_to_answer(model, info, paths, size, session_of(model, info, table))
    parts = {"decoding alone": lambda: decoded(info, paths)}
    parts["network alone"] = lambda: network_alone(model, info, few, len(paths), size)
    found, answers = rates(answering | parts, len(paths), wanted.repeats)
    if np.abs(answers[OURS] - answers[ONNX]).max() > export.LIMIT:
        raise ValueError("The exported file answers otherwise than the library on these photos, so their times are not comparable.")
    middle = {name: float(np.median(each)) for name, each in found.items()}
    fastest = max(middle[name] for name in answering)
    for name, each in found.items():
        row = {"way": name, "photos": len(paths), "photos_per_second": middle[name], "least": each.min(), "most": each.max()}
        row["times_ours"] = middle[name] / middle[OURS]
        if name in answering:
            row["same_class"] = (answers[name].argmax(axis=1) == answers[OURS].argmax(axis=1)).mean()
        if name == OURS:
            row |= {"limit": f"fastest <= {LIMIT} x ours", "holds": bool(fastest <= LIMIT * middle[OURS])}
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="best", help="a model file, a run folder, or best")
    parser.add_argument("--data", help="a data folder; default: the sample")
    parser.add_argument("--photos", type=int, default=2000, help="photos that every way answers in one round")
    parser.add_argument("--batch-size", type=int, default=32, help="photos that go through the network together")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are timed, after one that is not")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "prediction.csv")
    wanted = parser.parse_args()
    model, info = predict.open_model(wanted.model)
    info = replace(info, views=1)  # Keras' loop knows nothing of views: every way looks at a photo once
    around = surroundings() | {"model": f"{info.name}, {info.size} px, one view"}
    rows = list(measure(model, info, data.load_table(sample.data_folder(wanted.data or "sample")), wanted))
    table = pd.DataFrame([row | around for row in rows], columns=COLUMNS).round(2)
    print(table.drop(columns=["limit", *around]).to_string(index=False, na_rep=""), *around.values(), sep="\n")
    with data.atomic_write(wanted.out) as draft:
        table.to_csv(draft, index=False)
    return int(any(row.get("holds") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
