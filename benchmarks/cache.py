"""How fast do photos become a pixel cache, and how fast is a cache that is there opened?

    pip install -e . -r benchmarks/requirements.txt
    python benchmarks/cache.py                  # writes benchmarks/results/cache.csv

Every way brings the same JPEG files to the same square of uint8 pixels. Ours also checks that each file is whole, hashes it and writes the pixels to
disk. JPEG files are decoded at a reduced scale where the square is smaller; the table says how far the pixels are from those of a full decode.
"""
import itertools
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from timing import arguments, at_least, at_most, compare, fact, finish

from skin_lesion import data, sample

GOALS = {"one OpenCV loop": 2.5}


def ours(table, size):
    "The library's cache, built from nothing."
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SKIN_LESION_CACHE"] = folder
        return data.pixels(table, size)


def opencv(paths, size):
    "A plain loop: decode in full, cut, resize."
    found = np.empty((len(paths), size, size, 3), np.uint8)
    for i, path in enumerate(paths):
        photo = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        top, left = [(side - min(photo.shape[:2])) // 2 for side in photo.shape[:2]]
        square = photo[top : photo.shape[0] - top, left : photo.shape[1] - left]
        found[i] = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    return found


def pillow(paths, size):
    "A plain loop with Pillow."
    found = np.empty((len(paths), size, size, 3), np.uint8)
    for i, path in enumerate(paths):
        found[i] = ImageOps.fit(Image.open(path).convert("RGB"), (size, size), Image.Resampling.BOX)
    return found


def tf_data(paths, size):
    "tf.data with as many threads as it likes."
    import tensorflow as tf

    def read(path):
        photo = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        side = tf.reduce_min(tf.shape(photo)[:2])
        square = tf.image.resize_with_crop_or_pad(photo, side, side)
        return tf.cast(tf.image.resize(square, (size, size), method="area"), tf.uint8)

    batches = tf.data.Dataset.from_tensor_slices(paths).map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(64).prefetch(tf.data.AUTOTUNE)
    return np.concatenate(list(batches.as_numpy_iterator()))


def keras_directory(folder, size):
    "image_dataset_from_directory, which cuts to a square when it is asked to."
    import keras

    options = {"labels": None, "image_size": (size, size), "batch_size": 64, "shuffle": False, "crop_to_aspect_ratio": True, "verbose": False}
    return np.concatenate([np.asarray(batch).astype(np.uint8) for batch in keras.utils.image_dataset_from_directory(folder, **options)])


def many(paths, n, folder):
    "A table of n photos, which are links to a few."
    rows = [Path(folder, f"P_{i:07d}.jpg") for i in range(n)]
    for link, path in zip(rows, itertools.cycle(paths)):
        link.symlink_to(path)
    ids = [row.stem for row in rows]
    table = pd.DataFrame({"image_id": ids, "lesion_id": ids, "dx": np.resize(data.CLASSES, n)})
    table.to_csv(Path(folder, "metadata.csv"), index=False)


def psnr(a, b):
    "Decibels between two photos."
    return 10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-3))


def fidelity(paths, size):
    "How far our pixels are from those of a full decode: the squares, and before the last resize."
    squares, decoded = [], []
    for path in paths:
        whole, reduced = data.read_photo(path), data.read_photo(path, side=size)
        squares.append(psnr(data.fit_photo(reduced, size), data.fit_photo(whole, size)))
        decoded.append(psnr(reduced, cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)))
    for way, found in (("ours beside a full decode", squares), ("the decoding alone, beside a full decode reduced as far", decoded)):
        row = at_least(fact("fidelity", way, float(np.median(found)), "dB"), 40)
        yield row | {"amount": len(found), "least": f"{min(found):.4g}", "most": f"{max(found):.4g}"}


def warm(n, paths, repeats):
    "How long a cache of n photos takes to open, and a table to read before that."
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SKIN_LESION_CACHE"] = str(Path(folder, "cache"))
        photos = Path(folder, "photos")
        photos.mkdir()
        many(paths, n, photos)
        table = data.load_table(photos)
        data.pixels(table, 16)
        ways = {"open a warm cache": lambda: data.pixels(table, 16), "read the table, then open": lambda: data.pixels(data.load_table(photos), 16)}
        for row in compare("warm start", ways, repeats):
            yield at_most(row | {"amount": n}, 1)


def measure(wanted):
    size, n = wanted.size, 48 if wanted.quick else wanted.photos
    table = data.load_table(sample.data_folder(wanted.data or "sample"))
    table = table[table["path"].str.lower().str.endswith((".jpg", ".jpeg"))].head(n)
    if table.empty:
        raise SystemExit("No JPEG photo in this folder; expected some. Leave --data out to take the sample.")
    paths = table["path"].tolist()
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            shutil.copy(path, folder)
        ways = {
            "ours": partial(ours, table, size),
            "one OpenCV loop": partial(opencv, paths, size),
            "one Pillow loop": partial(pillow, paths, size),
            "tf.data, decode_jpeg": partial(tf_data, paths, size),
            "Keras image_dataset_from_directory": partial(keras_directory, folder, size),
        }
        yield from compare(f"build at {size} px", ways, wanted.repeats, len(paths), goals=GOALS)
        yield from fidelity(paths[:200], size)
        yield from warm(500 if wanted.quick else 10_015, paths, wanted.repeats)


if __name__ == "__main__":
    parser, parse = arguments(__file__, __doc__)
    parser.add_argument("--photos", type=int, default=400, help="photos in a cache")
    parser.add_argument("--size", type=int, default=224, help="side of the square")
    wanted = parse()
    sys.exit(finish(measure(wanted), wanted))
