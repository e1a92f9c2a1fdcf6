"""Does memory stay flat while the data grows, and does time grow in a straight line?

    python benchmarks/memory.py                 # writes benchmarks/results/memory.csv

Each size is trained in a process of its own: table, split, pixel cache, one epoch of the small network on small photos, predictions. The photos are
copies of a few generated ones. What counts as memory is what the process holds for itself (RssAnon): the pages of the pixel cache that it looked at
belong to the operating system, which takes them back when it likes. The metadata of very many photos are read, verified and split without any photo.
"""
import io
import json
import os
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
from timing import arguments, at_most, fact, finish

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
    "The most memory that this process held for itself, in MB, looked at twenty times a second."

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.done = 0, threading.Event()

    def run(self):
        while not self.done.wait(0.05):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.most = max(self.most, int(fields["RssAnon"].split()[0]) / 1024)


def worker(folder):
    "Table, split, cache, one epoch, predictions; prints megabytes and seconds."
    from skin_lesion import train

    watch = Watch()
    watch.start()
    start = time.perf_counter()
    table = data.split_lesions(data.load_table(folder))
    train.train(table, Path(folder, "run"), train.Config(size=32, epochs=1, patience=1))
    seconds = time.perf_counter() - start
    watch.done.set()
    print(json.dumps({"megabytes": watch.most, "seconds": seconds}))


def grow(sizes):
    "Memory and time for each number of photos, and how they compare to the smallest."
    found = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            table = metadata(n)
            table.to_csv(Path(folder, "HAM10000_metadata.csv"), index=False)
            write_photos(table, folder)
            environment = {**os.environ, "SKIN_LESION_CACHE": str(Path(folder, "cache"))}
            done = subprocess.run([sys.executable, __file__, "--worker", folder], capture_output=True, text=True, env=environment)
        if done.returncode:
            yield fact("growth", f"{n} photos", "", note=f"does not run: {(done.stderr.strip().splitlines() or ['killed'])[-1][:150]}")
            continue
        found[n] = json.loads(done.stdout.strip().splitlines()[-1])
        yield fact("growth", f"{n} photos, memory at most", found[n]["megabytes"], "MB")
        yield fact("growth", f"{n} photos, time", found[n]["seconds"], "s")
    if len(found) > 1:
        (few, first), *_, (many, last) = found.items()
        yield at_most(fact("growth", f"more memory for {many} photos than for {few}", last["megabytes"] - first["megabytes"], "MB"), GROWTH)
        *_, (n, before), (m, after) = found.items()
        rates = before["seconds"] / n, (after["seconds"] - before["seconds"]) / (m - n)
        row = fact("growth", f"time for a photo beyond {n}, in times of one of the first {n}", rates[1] / rates[0])
        yield at_most(row, 1.2) | {"note": "the first ones pay for the start"}


def read_metadata(n, repeats):
    "Seconds to read and check, verify and split n rows, step by step and in all."
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder, "HAM10000_metadata.csv")
        metadata(n).to_csv(file, index=False)
        took = []
        for _ in range(repeats):
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
    for name, seconds in zip(("read and check", "verify", "split, save, load", "all of it"), np.array(took).T, strict=True):
        row = fact("metadata", f"{n} rows: {name}", float(np.median(seconds)), "s")
        row |= {"least": f"{seconds.min():.3g}", "most": f"{seconds.max():.3g}"}
        yield at_most(row, SECONDS) if name == "all of it" else row


def measure(wanted):
    if wanted.only != "growth":
        yield from read_metadata(QUICK_ROWS if wanted.quick else ROWS, wanted.repeats)
    if wanted.only != "metadata":
        yield from grow(QUICK if wanted.quick else SIZES)


if __name__ == "__main__":
    parser, parse = arguments(__file__, __doc__)
    parser.add_argument("--only", choices=("metadata", "growth"), help="one of the two parts")
    parser.add_argument("--worker", help="used by the script itself")
    wanted = parse()
    if wanted.worker:
        sys.exit(worker(wanted.worker))
    sys.exit(finish(measure(wanted), wanted))
