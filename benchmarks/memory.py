"""Does memory stay flat while the data grows, and does time grow in a straight line?

    python benchmarks/memory.py                 # writes benchmarks/results/memory.csv

Each size is trained in a process of its own: table, split, pixel cache, one epoch of the small network on small photos, predictions. The photos are
copies of a few generated ones. What counts as memory is what the process holds for itself (RssAnon): the pages of the pixel cache that it looked at
belong to the operating system, which takes them back when it likes. The metadata of very many photos are read, verified and split without any photo.
"""
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import pandas as pd
from PIL import Image
from timing import arguments, at_most, digits, fact, finish

from skin_lesion import data

GROWTH, SECONDS = 200, 30
SIZES, QUICK = (1_000, 10_000, 100_000), (1_000, 2_000)
ROWS, QUICK_ROWS = 400_000, 20_000


def metadata(n, seed=0):
    "A table in HAM10000's own layout, its class shares, and about three photos for every two lesions."
    rng = np.random.default_rng(seed)
    lesions = rng.integers(0, max(1, 3 * n // 4), n)
    shares = np.array([0.033, 0.051, 0.110, 0.011, 0.670, 0.014, 0.111])
    dx = np.array(data.CLASSES)[rng.choice(7, lesions.max() + 1, p=shares / shares.sum())][lesions]
    rest = {"dx_type": "histo", "age": rng.integers(1, 17, n) * 5.0, "sex": rng.choice(["male", "female"], n), "localization": "back"}
    return pd.DataFrame({"lesion_id": [f"L_{i:07d}" for i in lesions], "image_id": [f"P_{i:07d}" for i in range(n)], "dx": dx, **rest})


def write_photos(table, folder):
    "Copies of sixteen generated JPEG photos under the names of a table."
    rng, files = np.random.default_rng(0), []
    for _ in range(16):
        file = io.BytesIO()
        small = Image.fromarray(rng.integers(60, 220, (9, 12, 3), dtype=np.uint8))
        small.resize((120, 90), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    for i, name in enumerate(table["image_id"]):
        Path(folder, f"{name}.jpg").write_bytes(files[i % len(files)])


class Watch(threading.Thread):
    "The most memory that this process held for itself, and with the pages of files, in MB, looked at twenty times a second."

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.done = {"RssAnon": 0, "VmRSS": 0}, threading.Event()

    def run(self):
        while not self.done.wait(0.05):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.most = {name: max(most, int(fields[name].split()[0]) / 1024) for name, most in self.most.items()}


def worker(folder):
    "Table, split, cache, one epoch, predictions; prints megabytes and seconds."
    from skin_lesion import train

    watch = Watch()
    watch.start()
    start = time.perf_counter()
    os.environ["SKIN_LESION_CACHE"] = tempfile.mkdtemp(dir=folder, prefix=".")
    table = data.split_lesions(data.load_table(folder))
    train.train(table, tempfile.mkdtemp(dir=folder, prefix="."), train.Config(size=32, epochs=1, patience=1))
    seconds = time.perf_counter() - start
    watch.done.set()
    print(json.dumps({**watch.most, "seconds": seconds}))


def trained(folder):
    "What a training in a process of its own took."
    done = subprocess.run([sys.executable, __file__, "--worker", folder], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the training in {folder} failed: {(done.stderr.strip().splitlines() or ['killed'])[-1][:150]}")
    for made in Path(folder).glob(".*"):
        shutil.rmtree(made)
    return json.loads(done.stdout.strip().splitlines()[-1])


def grow(sizes, repeats):
    "Memory and time for each number of photos, and how they compare to the smallest."
    shown = {"RssAnon": ("memory of its own at most", "MB"), "VmRSS": ("memory with pages of files at most", "MB"), "seconds": ("time", "s")}
    medians = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            table = metadata(n)
            table.to_csv(Path(folder, "HAM10000_metadata.csv"), index=False)
            write_photos(table, folder)
            rounds = pd.DataFrame([trained(folder) for _ in range(repeats)])
        medians[n] = rounds.median()
        for name, (what, unit) in shown.items():
            row = fact("growth", what, float(medians[n][name]), unit) | {"amount": n}
            yield row | {"least": digits(rounds[name].min()), "most": digits(rounds[name].max())}
    (few, first), *_, (many, last) = medians.items()
    yield at_most(fact("growth", f"more memory for {many} photos than for {few}", float(last["RssAnon"] - first["RssAnon"]), "MB"), GROWTH)
    *_, (n, before), (m, after) = medians.items()
    rates = before["seconds"] / n, (after["seconds"] - before["seconds"]) / (m - n)
    row = fact("growth", f"time for a photo beyond {n}, in times of one of the first {n}", float(rates[1] / rates[0]))
    yield at_most(row, 1.2) | {"note": "the first ones pay for the start"}


def read_metadata(n, repeats):
    "Seconds to read and check, verify and split n rows, step by step and in all."
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder, "HAM10000_metadata.csv")
        metadata(n).to_csv(file, index=False)
        took = []
        for _ in range(repeats + 1):
            marks = [time.perf_counter()]
            table = data.load_table(file)
            marks.append(time.perf_counter())
            data.verify(file)
            marks.append(time.perf_counter())
            split = data.split_lesions(table)
            data.save_split(split, Path(folder, "split.csv"))
            data.load_split(Path(folder, "split.csv"), table)
            marks.append(time.perf_counter())
            took.append([*np.diff(marks), marks[-1] - marks[0]])
    for name, seconds in zip(("read and check", "verify", "split, save, load", "all of it"), np.array(took[1:]).T, strict=True):
        row = fact("metadata", f"{n} rows: {name}", float(np.median(seconds)), "s")
        row |= {"least": f"{seconds.min():.3g}", "most": f"{seconds.max():.3g}"}
        yield at_most(row, SECONDS) if name == "all of it" else row


def measure(wanted):
    if wanted.only != "growth":
        yield from read_metadata(QUICK_ROWS if wanted.quick else ROWS, wanted.repeats)
    if wanted.only != "metadata":
        yield from grow(QUICK if wanted.quick else SIZES, wanted.repeats)


if __name__ == "__main__":
    parser, parse = arguments(__file__, __doc__)
    parser.add_argument("--only", choices=("metadata", "growth"), help="one of the two parts")
    parser.add_argument("--worker", help="used by the script itself")
    wanted = parse()
    if wanted.worker:
        sys.exit(worker(wanted.worker))
    sys.exit(finish(measure(wanted), wanted))
