"""Grad-CAM beside two independent implementations: are the heatmaps the same, and what do they cost?

    pip install -e . -r benchmarks/requirements.txt
    pip install --no-deps grad-cam==1.5.7       # without torchvision, which only its helpers for pictures need
    python benchmarks/gradcam.py                # writes benchmarks/results/gradcam.csv

Every way gets the same photos of the synthetic sample and explains the logit, at the resolution of the last feature map, with ReLU
and division by the maximum. `--only heatmaps` or `--only times` runs one half. Times need a machine that does nothing else.
"""
import argparse
import csv
import importlib.util
import os
import sys
import types
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tensorflow as tf
from timing import in_turn, surroundings

from skin_lesion import data, gradcam, models, sample, train

TOLERANCE = 1e-3
LIMITS = {"Grad-CAM, one class": ("plain prediction", 1.15), "Grad-CAM, all classes": ("plain prediction", 1.25)}
AT_LEAST = {"tf-keras-vis": 3, "Keras tutorial, photo by photo": 10}


# The networks and the photos


def networks(cache):
    "A small CNN and a DenseNet121, both trained on the sample, each with twenty photos that it has not learned from."
    table = data.split_lesions(data.load_table(sample.data_folder("sample")))
    brief = train.Config(model="densenet121", size=64, epochs=2, batch_size=32)
    runs = {"cnn": train.demo_run(table), "densenet121": train.train(table, cache / "densenet121", brief, resume=True)}
    test = table[table["part"] == "test"].head(20).reset_index(drop=True)
    small, info = models.load(runs["cnn"] / "model.keras")
    yield small, data.pixels(test, info.size)
    deep = models.create("densenet121", 224)
    deep.set_weights(models.load(runs["densenet121"] / "model.keras")[0].get_weights())
    yield deep, data.pixels(test, 224)


def shown(maps):
    "What speaks for the class, divided by its maximum."
    maps = np.maximum(maps, 0)
    peak = maps.max((1, 2), keepdims=True)
    return maps / np.where(peak > 0, peak, 1)


# The peers


def tutorial(model, target):
    "Grad-CAM as Keras' tutorial writes it (keras.io/examples/vision/grad_cam): one photo at a time under a GradientTape."
    both = keras.Model(model.input, [target.output, model.get_layer("logits").output])

    def explain(photo, index):
        with tf.GradientTape() as tape:
            activations, scores = both(photo[None])
            score = scores[:, index]
        weights = tf.reduce_mean(tape.gradient(score, activations), axis=(0, 1, 2))
        heatmap = tf.squeeze(activations[0] @ weights[..., tf.newaxis])
        return heatmap.numpy()

    return lambda photos, classes: np.stack([explain(photo, index) for photo, index in zip(photos, classes, strict=True)])


def keras_vis(model, target):
    "tf-keras-vis, on the logits, without its own scaling and enlarging."
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.scores import CategoricalScore

    peer = Gradcam(models.logits_model(model), clone=False)
    options = {"penultimate_layer": target.name, "seek_penultimate_conv_layer": False, "expand_cam": False, "normalize_cam": False}
    return lambda photos, classes: np.asarray(peer(CategoricalScore(list(map(int, classes))), photos, **options))


def without_torchvision():
    "An empty torchvision, where there is none: pytorch-grad-cam imports it for helpers that are not used here."
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops")
        parts = {name: types.ModuleType(name) for name in names}
        for name in ("Compose", "Normalize", "ToTensor"):
            setattr(parts["torchvision.transforms"], name, None)
        parts["torchvision.transforms.functional"].resize = None
        sys.modules.update(parts)


def torch_peer(model, target):
    "pytorch-grad-cam, on the same network written in PyTorch."
    without_torchvision()
    import torch
    from carried import carry_over
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = carry_over(models.logits_model(model))
    layer = network.part(target.name)
    peer = GradCAM(network, [layer])

    def explain(photos, classes):
        x, targets = torch.from_numpy(photos.transpose(0, 3, 1, 2).copy()), [ClassifierOutputTarget(int(i)) for i in classes]
        peer(x, targets)
        hooks = peer.activations_and_grads
        return peer.get_cam_image(x, layer, targets, hooks.activations[0].numpy(), hooks.gradients[0].numpy())

    return explain


PEERS = {
    "tf-keras-vis": (keras_vis, "tf-keras-vis"),
    "pytorch-grad-cam": (torch_peer, "grad-cam"),
    "Keras tutorial, photo by photo": (tutorial, "keras"),
}


def ready(model, target):
    "{peer: its function, or why it does not run}."
    found = {}
    for name, (make, _) in PEERS.items():
        try:
            found[name] = make(model, target)
        except Exception as error:
            found[name] = f"does not run: {type(error).__name__}: {error}"
    return found


# The two comparisons


def compare_heatmaps(model, photos):
    "Largest difference of twenty heatmaps to each peer's, for the most probable class that has any heat."
    target = model.get_layer(gradcam.split_model(model).layers[0])
    x = np.asarray(photos, "float32")
    every = gradcam.heatmaps(model, np.asarray(photos), "all", upsample=False)
    classes = np.where(every.max((2, 3)) > 0, model.predict(x, verbose=0), -1).argmax(1)
    ours = gradcam.heatmaps(model, np.asarray(photos), classes, upsample=False)
    warm = f"{(ours.max((1, 2)) > 0).sum()} maps with heat"
    for peer, explain in ready(model, target).items():
        row = {"part": "heatmaps", "model": model.name, "way": peer, "photos": len(x), "limit": f"<= {TOLERANCE}"}
        try:
            if isinstance(explain, str):
                raise RuntimeError(explain)
            difference = np.abs(shown(explain(x, classes)) - ours).max()
            yield row | {"value": f"{difference:.1e}", "note": warm, "holds": bool(difference <= TOLERANCE)}
        except Exception as error:
            yield row | {"value": str(error).splitlines()[0][:200], "holds": ""}


def compare_times(model, photos, repeats):
    "Median, least and most seconds of each way for one batch, and how they compare."
    target, batch = model.get_layer(gradcam.split_model(model).layers[0]), np.asarray(photos)
    x = batch.astype("float32")
    classes = model.predict_on_batch(x).argmax(1)
    ways = {
        "plain prediction": lambda: model.predict_on_batch(batch.astype("float32")),
        "Grad-CAM, one class": lambda: gradcam.heatmaps(model, batch, classes, batch_size=len(batch)),
        "Grad-CAM, all classes": lambda: gradcam.heatmaps(model, batch, "all", batch_size=len(batch)),
    }
    for peer, explain in ready(model, target).items():
        ways[peer] = (lambda explain=explain: explain(x, classes)) if callable(explain) else explain
    took = in_turn(ways, repeats)
    median = {name: float(np.median(values)) for name, values in took.items() if not isinstance(values, str)}
    for name, values in took.items():
        row = {"part": "times", "model": model.name, "way": name, "photos": len(x)}
        if name not in median:
            yield row | {"value": values}
            continue
        yield row | {"value": f"{median[name]:.3f}", "least": f"{min(values):.3f}", "most": f"{max(values):.3f}"} | judged(name, median)


def judged(name, median):
    "How a way's median compares, and whether it keeps its limit."
    if name in LIMITS:
        base, limit = LIMITS[name]
        ratio = median[name] / median[base]
        return {"note": f"{ratio:.2f} x {base}", "limit": f"<= {limit}", "holds": ratio <= limit}
    if name == "plain prediction":
        return {}
    ratio, limit = median[name] / median["Grad-CAM, one class"], AT_LEAST.get(name)
    return {"note": f"{ratio:.2f} x Grad-CAM, one class"} | ({"limit": f">= {limit}", "holds": ratio >= limit} if limit else {})


# The table

COLUMNS = ["part", "model", "way", "photos", "value", "least", "most", "note", "limit", "holds", "machine", "versions"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("heatmaps", "times"), help="one of the two comparisons")
    parser.add_argument("--photos", type=int, default=16, help="photos in the batch that is timed")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that are timed, after one that is not")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gradcam.csv")
    wanted = parser.parse_args()
    around, rows = surroundings(["torch", *(package for _, package in PEERS.values() if package != "keras")]), []
    for model, photos in networks(data.cache_folder() / "runs" / "benchmark"):
        if wanted.only != "times":
            rows += compare_heatmaps(model, photos)
        if wanted.only != "heatmaps" and model.name == "densenet121":
            rows += compare_times(model, photos[: wanted.photos], wanted.repeats)
    for row in rows:
        print(" | ".join(str(row.get(column, "")) for column in COLUMNS[:-2]))
    print(*around.values(), sep="\n")
    with data.atomic_write(wanted.out) as draft, open(draft, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(row | around for row in rows)
    compared = [row for row in rows if row["part"] == "heatmaps"]
    alone = {row["model"] for row in compared} - {row["model"] for row in compared if row["holds"] is True}
    if alone:
        print(f"No peer confirms the heatmaps of {', '.join(sorted(alone))}: pip install -r benchmarks/requirements.txt")
    return int(bool(alone) or any(row.get("holds") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
