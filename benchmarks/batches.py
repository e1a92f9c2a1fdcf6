"""How many augmented photos a second reach the network?

    pip install -e . -r benchmarks/requirements.txt
    python benchmarks/batches.py                # writes benchmarks/results/batches.csv

Rotation by any angle, flip, zoom, shift, brightness, contrast and the lamp's colour, on the same uint8 photos in memory, with every way's own
machinery for batches. What a way cannot do is left out of its work, which is to its advantage, and named.
"""
import os
import sys
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
from timing import arguments, at_least, compare, finish

from skin_lesion import data, sample
from skin_lesion.imbalance import Augmentation, Batches

BATCH = 32
PEERS = ("Keras layers in tf.data", "Keras ImageDataGenerator", "albumentations, one loop", "albumentations, threads")
PER_SECOND = 3000


def drain(batches):
    "Take batches as a training does, one after the other; a way that makes smaller ones than the others is not compared."
    for batch in batches:
        if len(batch) != BATCH:
            raise ValueError(f"a batch of {len(batch)} photos, expected {BATCH}")


def ours(photos, y, steps):
    batches = Batches(photos, y, batch_size=BATCH, sampler="natural")
    return lambda: drain(batches[step % len(batches)][0] for step in range(steps))


def keras_layers(photos, y, steps):
    "Preprocessing layers, batch by batch; they have no colour of the lamp."
    import tensorflow as tf
    from keras import layers

    how = Augmentation()
    turns, zoom, shift = how.rotation / 360, (-how.zoom, how.zoom), how.shift
    change = [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(turns, fill_mode="reflect"),
        layers.RandomZoom(zoom, fill_mode="reflect"),
        layers.RandomTranslation(shift, shift, fill_mode="reflect"),
        layers.RandomBrightness(how.brightness),
        layers.RandomContrast(how.contrast),
    ]

    def augment(batch, labels):
        batch = tf.cast(batch, tf.float32)
        for layer in change:
            batch = layer(batch, training=True)
        return batch, labels

    source = tf.data.Dataset.from_tensor_slices((photos, y)).shuffle(len(y)).repeat().batch(BATCH)
    source = source.map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return lambda: drain(batch for batch, _ in source.take(steps).as_numpy_iterator())


def generator(photos, y, steps):
    "The generator of many tutorials; its channel shift is added, not multiplied, and it has no contrast."
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    how = Augmentation()
    options = {"width_shift_range": how.shift, "height_shift_range": how.shift, "zoom_range": how.zoom, "horizontal_flip": how.flip}
    options |= {"brightness_range": (1 - how.brightness, 1 + how.brightness), "channel_shift_range": 255 * how.colour, "fill_mode": "reflect"}
    source = ImageDataGenerator(rotation_range=how.rotation, **options).flow(photos, y, batch_size=BATCH)
    return lambda: drain(next(source)[0] for _ in range(steps))


def albumentations(photos, y, steps, threads):
    "The same transforms, one warp for the four that move pixels."
    import albumentations as A
    import cv2

    how = Augmentation()
    change = A.Compose([
        A.HorizontalFlip(p=0.5),
        A.Affine(
            rotate=(-how.rotation, how.rotation), scale=(np.exp(-how.zoom), np.exp(how.zoom)), translate_percent=(-how.shift, how.shift),
            interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REFLECT_101, p=1,
        ),
        A.RandomBrightnessContrast(how.brightness, how.contrast, p=1),
        A.RGBShift(*[255 * how.colour] * 3, p=1),
    ])
    pool, rng = ThreadPoolExecutor(), np.random.default_rng(0)

    def batch():
        chosen = rng.integers(0, len(photos), BATCH)
        results = (pool.map if threads else map)(lambda i: change(image=photos[i])["image"], chosen)
        return np.stack(list(results)), y[chosen]

    return lambda: drain(batch()[0] for _ in range(steps))


def made(make, *arguments):
    "A way, or why it does not run."
    try:
        return make(*arguments)
    except Exception as error:
        return f"does not run: {type(error).__name__}: {str(error).splitlines()[0][:150]}"


def measure(wanted):
    table = data.load_table(sample.data_folder(wanted.data or "sample")).head(64 if wanted.quick else 384)  # whole batches
    photos, steps = np.asarray(data.pixels(table, wanted.size)), 3 if wanted.quick else wanted.steps
    y, makers = data.labels(table), (keras_layers, generator)
    ways = {"ours": ours(photos, y, steps)} | dict(zip(PEERS, [made(make, photos, y, steps) for make in makers], strict=False))
    ways |= {name: made(albumentations, photos, y, steps, threads) for name, threads in zip(PEERS[2:], (False, True), strict=True)}
    rows = list(compare(f"batches of {BATCH} at {wanted.size} px", ways, wanted.repeats, steps * BATCH, goals=dict.fromkeys(PEERS, 2)))
    rows[0] = at_least(rows[0], PER_SECOND)
    notes = {PEERS[0]: "without the lamp's colour", PEERS[1]: "without contrast"}
    return [row | ({"note": notes[row["way"]]} if row["way"] in notes and "value" in row else {}) for row in rows]


if __name__ == "__main__":
    parser, parse = arguments(__file__, __doc__)
    parser.add_argument("--steps", type=int, default=60, help="batches in a round")
    parser.add_argument("--size", type=int, default=224, help="side of the photos in pixels")
    wanted = parse()
    sys.exit(finish(measure(wanted), wanted, ("albumentations", "scipy")))
