"What tests of faults run in processes of their own, which say where they are. One process loads the library, and every other is a fork of it."
import multiprocessing
import os
import signal
import time
from contextlib import suppress

import keras

# JAX and PyTorch start threads while they load, which a fork does not survive.
FORKED = keras.backend.backend() == "tensorflow" and "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if FORKED else "spawn")
CONTEXT.set_forkserver_preload([f"skin_lesion.{name}" for name in ("train", "evaluate", "predict", "download", "sample", "app")])
PLACES = {
    "data": ["_fill", "unzip_photos"],
    "train": ["save_weights", "save_checkpoint", "finish_run", "write_predictions", "save"],
    "evaluate": ["report"],
    "sample": ["make_sample"],
    "predict": ["open_model", "predict"],
    "download": ["fetch", "unzip_photos"],
}


def _say_where(pipe):
    "Let the functions in PLACES, and the beginning of an epoch, tell the pipe that they were called."
    from importlib import import_module

    def told(name, function):
        def call(*args, **kwargs):
            pipe.send(name)
            return function(*args, **kwargs)

        return call

    for module, names in PLACES.items():
        module = import_module(f"skin_lesion.{module}")
        for name in names:
            setattr(module, name, told(name, getattr(module, name)))
    from skin_lesion.train import Keeper

    Keeper.on_epoch_begin = told("epoch", Keeper.on_epoch_begin)


def _enter(pipe, work, cache, log, args):
    "The whole life of a child."
    os.environ["SKIN_LESION_CACHE"] = str(cache)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has it ignored
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    if pipe:
        _say_where(pipe)
    work(*args)


class Child:
    "A function that runs in a process of its own, with a cache folder of its own."

    def __init__(self, folder, work, *args):
        self.log, self.heard = folder / "stderr.txt", []
        self.pipe, theirs = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_enter, args=(theirs, work, folder / "cache", self.log, args))
        self.process.start()
        theirs.close()

    def listen(self, *places, nth=1):
        "Wait until the child is at one of these places for the nth time; False if it ended before."
        while self.pipe.poll(120):
            try:
                place = self.pipe.recv()
            except EOFError:
                place = None
            self.heard.append((place, time.time()))
            nth -= place in places
            if place is None or not nth:
                return place is not None
        raise TimeoutError(f"nothing was heard from the child since {self.heard}")

    def end(self):
        "The exit code of the child, and the last of what it said on standard error."
        self.listen()
        self.process.join(60)
        return self.process.exitcode, self.log.read_text()[-3000:]

    def strike(self, places, delay):
        "Kill the child a moment after it came to one of these places; whether it was there to be killed."
        if self.listen(*places):
            time.sleep(delay)
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        code, said = self.end()
        assert code in (0, -signal.SIGKILL), said
        return code != 0

    def lasted(self):
        "How long the child stayed at each place, the longest time."
        times = {}
        for (place, start), (_, stop) in zip(self.heard, self.heard[1:], strict=False):
            times[place] = max(stop - start, times.get(place, 0))
        return times


def train_and_report(table, run, config):
    "A training and its report."
    from skin_lesion import evaluate, train

    train.train(table, run, config, resume=True)
    evaluate.report(run)


def draw_sample():
    "The sample of the cache folder, of few and small photos."
    from skin_lesion import sample

    whole = sample.make_sample
    sample.make_sample = lambda folder: whole(folder, n_photos=60, mix={"nv": 1, "mel": 1}, size=(90, 120))
    sample.default_sample()


def fetch(folder, address, files, limit=None):
    "A download of files that another process serves, onto a disk that refuses files over `limit` bytes."
    import resource

    from skin_lesion import download

    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    download.FILES = files
    download.download(folder, address)


def build_cache(photo, n, size):
    "The pixel cache of a table that shows one photo n times."
    import pandas as pd

    from skin_lesion import data

    data.pixels(pd.DataFrame({"image_id": [f"P{i}" for i in range(n)], "path": str(photo)}), size)


def store_features(path, n):
    "The features of n photos, in eight views."
    import keras
    import numpy as np

    from skin_lesion import imbalance, train

    network = keras.Model(photo := keras.Input((32, 32, 3)), keras.layers.Flatten()(photo))
    train.cached(imbalance.Batches(np.zeros((n, 32, 32, 3), np.uint8), np.zeros(n, int), np.arange(n)), network, 8, path)


def shell(words, limit=None, place="save_checkpoint", nth=2):
    "The command line; on the nth call of a place in `train` the disk begins to refuse files over `limit` bytes."
    import resource
    import sys

    from skin_lesion import app, train

    def fill(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return whole(*args, **kwargs)

    calls, whole = [], getattr(train, place)
    if limit:
        setattr(train, place, fill)
    sys.argv = ["skin-lesion", *map(str, words)]
    app.main()
