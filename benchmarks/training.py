"""What does a training step cost beyond the network, what makes the network fast here, and what do stored features save?

    pip install -e . -r benchmarks/requirements.txt
    python benchmarks/training.py               # writes benchmarks/results/training.csv

- step: a step of the library's training (photos from the cache, augmentation, callbacks) against `train_on_batch` on arrays in memory.
  Batches made before the first step that counts, and none made during the last ones, would be free: `AHEAD` steps at both ends do not count.
- variants: the same step in float32 and bfloat16, with and without XLA and oneDNN, with one thread and with all, on each backend that is installed
  beside this one (`make test-jax`, `make test-torch`), each in a process of its own, which waits while another one is timed.
- head: an epoch of head training on stored features against one with the frozen network in the loop, without augmentation, and how far the results
  are apart.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
import keras
import numpy as np
from timing import arguments, at_most, compare, digits, fact, finish, in_turn

from skin_lesion import data, models, sample, train
from skin_lesion.imbalance import Batches, Share, class_counts

NETWORKS = ("cnn", "efficientnet_lite0", "densenet121")
MOST = 1.03
AHEAD = 3
PATIENCE, ROUND = 900, 60  # seconds for the first round of a variant, which compiles, and for each after it
BACKENDS = {"jax": ".venv-jax", "torch": ".venv-torch"}


def split_sample(wanted):
    "The table, its pixels and labels."
    table = data.load_table(sample.data_folder(wanted.data or "sample"))
    return data.split_lesions(table)


class Clock(train.Keeper):
    "What `train.fit` does after each step, and when; there is no end of an epoch."

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.ends = [*getattr(self, "ends", []), time.perf_counter()]

    def on_epoch_end(self, epoch, logs=None):
        pass

    def seconds(self):
        return self.ends[-AHEAD - 1] - self.ends[AHEAD - 1]


class Few(Share):
    "A few steps of a training, over and over the same batches if need be."

    def __init__(self, batches, steps):
        super().__init__(batches, 0, 1)
        self.steps, self.max_queue_size = steps, AHEAD - 1

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        return super().__getitem__(step % len(self.batches))


def trainer_of(name, size, counts, precision="float32", jit=None):
    "A network compiled as the second phase compiles it."
    with train.precision(precision):
        model = models.create(name, size)
    trainer = train.compile_phase(model, train.Config(name, size), counts, 1000)
    if jit is not None:
        trainer.jit_compile = jit
    return trainer


def through_train(trainer, batches, steps):
    "A function that trains for a few steps as `train.fit` does, and gives the seconds of those in the middle."
    def work():
        clock = Clock(None, None, batches, [], train.Config(epochs=1))
        with train._interruptible() as ending:
            trainer.fit(Few(batches, steps + 2 * AHEAD), epochs=1, shuffle=False, verbose=0, callbacks=[clock, ending])
        return clock.seconds()
    return work


def bare(trainer, photos, labels, steps):
    "A function that calls `train_on_batch`, and gives the seconds of all but the first."
    def work():
        ends = []
        for _ in range(steps + 1):
            trainer.train_on_batch(photos, labels)
            ends.append(time.perf_counter())
        return ends[-1] - ends[0]
    return work


def compare_steps(wanted, table):
    "A step through the library against a bare one."
    photos, y = data.pixels(table, wanted.size), data.labels(table)
    for name in wanted.networks:
        batches = Batches(photos, y, batch_size=wanted.batch, sampler="natural")
        trainer = trainer_of(name, wanted.size, class_counts(y))
        x, labels = batches[0]
        ways = {"through train": through_train(trainer, batches, wanted.steps), "train_on_batch in memory": bare(trainer, x, labels, wanted.steps)}
        took = in_turn(ways, wanted.repeats)
        rows = list(compare(f"step of {name}", took, wanted.repeats, wanted.steps * wanted.batch))
        costs = np.divide(*took.values())
        yield from rows
        row = fact(f"step of {name}", "cost of a step over a bare one", float(np.median(costs)))
        yield at_most(row, MOST) | {"least": digits(costs.min()), "most": digits(costs.max())}
        augmenting = next(compare("", {"": lambda batches=batches: [batches[i % len(batches)] for i in range(wanted.steps)]}, wanted.repeats))
        share = float(augmenting["value"]) / (wanted.steps * wanted.batch / float(rows[1]["value"]))
        yield fact(f"step of {name}", "making the batches alone, as a share of a bare step", share, note="what the cores do beside the network")


# Variants, each in a process of its own


def worker(job):
    "Time one variant in this process: a line with the backend, and the seconds of a round for each line that is read."
    if job["threads"]:
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
            tf.config.threading.set_inter_op_parallelism_threads(job["threads"])
        elif keras.backend.backend() == "torch":
            import torch

            torch.set_num_threads(job["threads"])
    rng = np.random.default_rng(0)
    photos, y = rng.integers(0, 256, (job["batch"], job["size"], job["size"], 3), dtype=np.uint8), np.arange(job["batch"]) % 7
    trainer = trainer_of(job["network"], job["size"], class_counts(y), job["precision"], job["jit"])
    work = bare(trainer, photos, np.eye(7, dtype="float32")[y], job["steps"])
    print(models.versions()["backend"], flush=True)
    for _ in sys.stdin:
        print(work(), flush=True)


def python_of(backend):
    "The Python of an environment that has a backend, or why there is none."
    if backend == keras.backend.backend():
        return sys.executable
    python = Path(__file__).resolve().parent.parent / BACKENDS[backend] / "bin" / "python"
    return str(python) if python.exists() else f"does not run: no environment with {backend}; make test-{backend} makes one"


class Variant:
    "A variant that waits in a process of its own; a call is a round and gives its seconds."

    def __init__(self, python, job, environment):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors, "text": True}
        self.process = subprocess.Popen([python, __file__, "--worker", json.dumps(job)], env={**os.environ, **environment}, **pipes)
        self.backend, self.patience = self.process.stdout.readline().strip(), PATIENCE

    def __call__(self):
        patience, self.patience = self.patience, ROUND
        late = threading.Timer(patience, self.process.kill)
        late.start()
        try:
            print(file=self.process.stdin, flush=True)
            return float(self.process.stdout.readline())
        except (OSError, ValueError) as error:
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-1:]
            ended = self.process.wait() == -signal.SIGKILL
            raise RuntimeError(f"no answer in {patience} s" if ended else "".join(last)) from error
        finally:
            late.cancel()

    def end(self):
        self.process.kill()
        self.process.wait()


def compare_variants(wanted):
    "How fast the same step is under each setting; the first is the default, which is to be the fastest or nearly so."
    here = keras.backend.backend()
    default = {"precision": "float32", "jit": None, "threads": 0}
    changes = {"bfloat16": {"precision": "mixed_bfloat16"}, "XLA": {"jit": True}, "one thread": {"threads": 1}}
    settings = {"float32, all threads (default)": (here, {}, {})} | {way: (here, change, {}) for way, change in changes.items()}
    settings |= {"without oneDNN": (here, {}, {"TF_ENABLE_ONEDNN_OPTS": "0"})}
    settings |= {f"{backend}, float32": (backend, {}, {}) for backend in BACKENDS if backend != here}
    for name in wanted.networks:
        job, ways = {"network": name, "size": wanted.size, "batch": wanted.batch, "steps": wanted.steps, **default}, {}
        for way, (backend, change, environment) in settings.items():
            python = python_of(backend)
            missing = python.startswith("does not run")
            ways[way] = python if missing else Variant(python, job | change, {"KERAS_BACKEND": backend, **environment})
        rows = list(compare(f"variants of {name}", ways, wanted.repeats, wanted.steps * wanted.batch))
        for row in rows:
            variant = ways[row["way"]]
            yield row if isinstance(variant, str) or "note" in row else row | {"note": variant.backend}
        for variant in ways.values():
            if not isinstance(variant, str):
                variant.end()
        fastest = min([float(row["times_ours"]) for row in rows if row.get("times_ours")], default=1)
        yield at_most(fact(f"variants of {name}", "seconds of the default, in times of the fastest", max(1, 1 / fastest)), 1.05)


# Head training


def head_trainer(wanted, photos, y, cached_views):
    "What the first phase trains, from the same start."
    keras.utils.set_random_seed(0)
    config = train.Config("efficientnet_lite0", wanted.size, weights="imagenet", cached_views=cached_views)
    model = models.create(config.model, config.size, config.weights)
    trainer = train.compile_phase(model, config, class_counts(y), None)
    rows = np.resize(np.arange(len(y)), wanted.photos)
    return model, trainer, Batches(photos, y, rows, wanted.batch, "natural", how=None)


def compare_heads(wanted, table):
    "An epoch of the head with the frozen network in the loop, and on its stored features."
    photos, y = data.pixels(table, wanted.size), data.labels(table)
    whole, trainer, batches = head_trainer(wanted, photos, y, 0)
    head, small, plain = head_trainer(wanted, photos, y, 1)
    with tempfile.TemporaryDirectory() as folder:
        edge = keras.Model(head.input, head.get_layer(train.frozen_edge(head)).output)
        start = time.perf_counter()
        features = train.cached(plain, edge, 1, Path(folder, "features.npy"))
        once = time.perf_counter() - start
        options = {"epochs": 1, "shuffle": False, "verbose": 0}
        ways = {
            "on stored features": lambda: small.fit(Share(features, 0, 1), **options) and None,
            "frozen network in the loop": lambda: trainer.fit(Share(batches, 0, 1), **options) and None,
        }
        yield from compare("head epoch of efficientnet_lite0", ways, wanted.repeats, wanted.photos, goals={"frozen network in the loop": 50})
        yield fact("head epoch of efficientnet_lite0", "storing the features, once", once, "s")
        apart = max(np.abs(a - b).max() for a, b in zip(whole.get_weights(), head.get_weights(), strict=True))
        yield at_most(fact("head epoch of efficientnet_lite0", "weights apart afterwards", float(apart)), 1e-4)


def measure(wanted):
    table = split_sample(wanted)
    table = table[table["part"] == "train"].reset_index(drop=True).head(64 if wanted.quick else len(table))
    parts = {"step": lambda: compare_steps(wanted, table), "variants": lambda: compare_variants(wanted), "head": lambda: compare_heads(wanted, table)}
    for part in wanted.only or parts:
        yield from parts[part]()


if __name__ == "__main__":
    parser, parse = arguments(__file__, __doc__)
    parser.add_argument("--only", nargs="+", choices=("step", "variants", "head"), help="some of the three comparisons")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="some of the networks; cnn alone with --quick")
    parser.add_argument("--steps", type=int, help="steps in a round; 20, or 3 with --quick")
    parser.add_argument("--batch", type=int, default=32, help="photos in a step")
    parser.add_argument("--size", type=int, help="side of the photos in pixels; 224, or 64 with --quick")
    parser.add_argument("--photos", type=int, help="photos in an epoch of the head, again and again where there are fewer; 2,048, or 64 with --quick")
    parser.add_argument("--worker", help="used by the script itself")
    wanted = parse()
    if wanted.worker:
        sys.exit(worker(json.loads(wanted.worker)))
    wanted.networks = wanted.networks or (NETWORKS[:1] if wanted.quick else NETWORKS)
    wanted.photos = wanted.photos or (64 if wanted.quick else 2048)
    wanted.steps, wanted.size = wanted.steps or (3 if wanted.quick else 20), wanted.size or (64 if wanted.quick else 224)
    sys.exit(finish(measure(wanted), wanted, ("jax", "torch")))
