"""Photos a second from file to answer: this library, Keras' `predict` as people write it, and the exported ONNX file in ONNX Runtime.

    pip install -e '.[export]'
    python benchmarks/prediction.py            # 2,000 photos of the sample, writes benchmarks/results/prediction.csv
    python benchmarks/prediction.py --quick    # 64 photos, to see that it runs

Every way reads the same files (where there are fewer than asked for, again and again) and answers with the same network. A loop that answers
photo by photo is slow, and is compared on a tenth of them. Decoding alone and the network alone are timed as well: one after the other they give
1 / (1 / decoding + 1 / network) photos a second, and whoever overlaps them is faster than that where there are cores to spare. Times need a
machine that does nothing else.
"""
import os
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
from timing import arguments, compare, fact, finish

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
    "What `skin-lesion predict` does with photos."
    answers = predict.predict(models.fold_norms(model), info, paths, batch_size)
    return np.array([list(answer["probabilities"].values()) for answer in answers])


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


def ways_to_answer(model, info, paths, batch_size, session):
    "{way: function that answers for all paths}, probabilities of shape (n, classes)."
    return {
        OURS: lambda: by_us(model, info, paths, batch_size),
        ONNX: lambda: in_onnxruntime(session, info, paths, batch_size),
        "Keras predict, a batch at a time": lambda: many_at_once(model, info, paths, batch_size),
    }


def remembering(ways, answers):
    "The same ways, which leave what they answered last in a dictionary."
    return {name: lambda name=name, way=way: answers.update({name: way()}) for name, way in ways.items()}


def measure(wanted):
    "One row for each way, and for the two parts of the work."
    table = data.load_table(sample.data_folder(wanted.data or "sample"))
    model, info = predict.open_model(wanted.model)
    info = replace(info, views=1)  # Keras' loop knows nothing of views: every way looks at a photo once
    paths, size = list(islice(cycle(table["path"].dropna()), wanted.photos or (64 if wanted.quick else 2000))), wanted.batch_size
    what, answers = f"{info.name}, {info.size} px, one view", {}
    ways = remembering(ways_to_answer(model, info, paths, size, session_of(model, info, table)), answers)
    few, folded = np.stack([data.fit_photo(path, info.size) for path in paths[:size]]), models.fold_norms(model)
    parts = {"decoding alone": lambda: decoded(info, paths), "network alone": lambda: network_alone(folded, info, few, len(paths), size)}
    rows = list(compare(what, ways | parts, wanted.repeats, len(paths)))
    if np.abs(answers[OURS] - answers[ONNX]).max() > export.LIMIT:
        raise ValueError("The exported file answers otherwise than the library on these photos, so their times are not comparable.")
    for row in rows[1:len(ways)]:
        row["note"] = f"{(answers[row['way']].argmax(1) == answers[OURS].argmax(1)).mean():.1%} of the likeliest classes are ours"
    fastest = min(float(row["times_ours"]) for row in rows[1:len(ways)])
    rates = {row["way"]: float(row["value"]) for row in rows}
    serial = 1 / (1 / rates["decoding alone"] + 1 / rates["network alone"])
    yield rows[0] | {"goal": f"fastest <= {LIMIT} x ours", "holds": fastest >= 1 / LIMIT}
    yield from rows[1:]
    yield fact(what, "ours, in times of decoding and network one after the other", rates[OURS] / serial)
    some = paths[: max(1, len(paths) // 10)]
    loops = {OURS: lambda: by_us(model, info, some, size), "Keras predict, photo by photo": lambda: one_by_one(model, info, some)}
    yield from compare(f"{what}, {len(some)} photos", loops, wanted.repeats, len(some))


if __name__ == "__main__":
    parser, parse = arguments(__file__, __doc__)
    parser.add_argument("--model", default="best", help="a model file, a run folder, or best")
    parser.add_argument("--photos", type=int, help="photos that every way answers in one round; 2,000, or 64 with --quick")
    parser.add_argument("--batch-size", type=int, default=32, help="photos that go through the network together")
    wanted = parse()
    sys.exit(finish(measure(wanted), wanted, ("onnxruntime", "tf2onnx")))
