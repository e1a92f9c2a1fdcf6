"""What each ingredient of the training is worth: one change at a time, several seeds, judged on validation lesions only.

    python benchmarks/ablations.py                                                    on the sample, in minutes, to see that it runs
    python benchmarks/ablations.py --data DATA --split results/split.csv --runs runs/ablations --out results/ablations.csv

Every change is tried under each seed like the base it is compared with, and a run that was killed goes on where it stopped. The differences are
those of balanced accuracy, mean AUC and melanoma recall on the validation lesions, over all seeds at once, with 95 % intervals from a paired
bootstrap over lesions. Both sides were calibrated on these lesions, so both are a little too good; the test part is not looked at.
"""
import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skin_lesion.data import CLASSES, atomic_write, cache_folder, fit_photo, load_split, load_table, split_lesions
from skin_lesion.evaluate import bootstrap, decide, intervals, paired_difference
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, train

LITE = {"weights": "imagenet", "frozen": "lite0_blocks2_add", "learning_rate": 5e-4, "weight_decay": 0.05, "patience": 99}
BASES = {
    "sample": Config(model="cnn", size=64, epochs=2, batch_size=16),
    "real": Config(model="efficientnet_lite0", size=112, epochs=5, **LITE),
}
FLIPS, COLOUR, PATIENT = "8 flips and turns", "colour constancy", "age, sex and site, joined late"
MEAN, DISTILLED = "mean of the networks of all seeds", "networks of all seeds distilled into one"
TRAINED = {
    "natural sampling": {"sampler": "natural"},
    "weighted loss, natural sampling": {"sampler": "natural", "loss": "weighted"},
    "logit-adjusted loss": {"loss": "logit_adjusted"},
    "augmentation 1.5": {"augmentation": 1.5},
    "label smoothing 0.05": {"label_smoothing": 0.05},
    "mixup 0.2": {"mixup": 0.2},
    "mean of the last 3 epochs": {"average": 3},
    "twice as many epochs": {"epochs": 10},
    "144 pixels": {"size": 144},
    "balanced sampling": {"sampler": "balanced"},
    "focal loss": {"loss": "focal"},
    "rare classes augmented more": {"targeted": True},
    "nothing frozen": {"frozen": None},
}
CHANGES = (FLIPS, PATIENT, MEAN, DISTILLED, COLOUR, *TRAINED)
METRICS = ("balanced_accuracy", "macro_auc", "recall.mel")


def shades_of_grey(photo, power=6):
    "Colour constancy: the channels are scaled until their Minkowski means agree (Finlayson and Trezzi, 2004)."
    light = (photo.astype(float) ** power).mean(axis=(0, 1)) ** (1 / power)
    return np.clip(photo * (light.mean() / light), 0, 255).round().astype(np.uint8)


def recoloured(table, size, folder):
    "The table with photos whose light is taken out, as squares of their own."
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in table["image_id"]]
    for old, new in zip(table["path"], paths, strict=True):
        if not new.exists():
            with atomic_write(new) as draft:
                Image.fromarray(shades_of_grey(fit_photo(old, size))).save(draft, "PNG")
    return table.assign(path=[str(path) for path in paths])


def answered(answers, probabilities, info):
    "The predictions with other probabilities, and the decisions that follow from them."
    decision = np.array(CLASSES)[decide(probabilities, info["prevalence"], info["prior"])]
    return answers.assign(**dict(zip(CLASSES, probabilities.T, strict=True)), decision=decision)


def with_patient(answers, info, table):
    "Probabilities times what age, sex and site say of each diagnosis, as if these and the photo were independent given the diagnosis."
    told, known = table.set_index("image_id")[["age", "sex", "localization"]].astype(str), (table["part"] == "train").to_numpy()
    says = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(max_iter=1000)).fit(told[known], table["dx"][known])
    order = [list(says.classes_).index(dx) for dx in CLASSES]
    shares = table["dx"][known].value_counts(normalize=True)[list(CLASSES)].to_numpy()
    joined = answers[list(CLASSES)].to_numpy() * says.predict_proba(told.loc[answers["image_id"]])[:, order] / shares
    return answered(answers, joined / joined.sum(axis=1, keepdims=True), info)


def meant(each):
    "The geometric mean of several models' probabilities, and its decisions."
    logs = np.mean([np.log(np.maximum(answers[list(CLASSES)].to_numpy(), 1e-30)) for answers, *_ in each], axis=0)
    return answered(each[0][0], softmax(logs, axis=1), each[0][1])


def trained(table, config, run):
    "Validation predictions of a training, its model's description, and the minutes it took."
    train(table, run, config, resume=True)
    answers = pd.read_csv(run / "predictions.csv", dtype={"image_id": str, "lesion_id": str})
    info, environment = (json.loads((run / f"{name}.json").read_text()) for name in ("model", "environment"))
    return answers[answers["part"] == "validation"], info, environment["minutes"]


def tried(change, table, config, seeds, runs):
    "The same for a change of a configuration, some of which need no training."
    bases, run = {seed: runs / f"base-seed{seed}" for seed in seeds}, runs / f"{change}-seed{config.seed}"
    base = bases[config.seed]
    if change == MEAN:
        each = [trained(table, replace(config, seed=seed), bases[seed]) for seed in seeds]
        return meant(each), each[0][1], 0
    if change == DISTILLED:
        return trained(table, replace(config, teachers=",".join(f"{run}/model.keras" for run in bases.values())), run)
    if change == FLIPS:
        return trained(table, replace(config, weights=str(base / "model.keras"), epochs=0, views=8), run)
    if change == COLOUR:
        return trained(recoloured(table, config.size, runs / "recoloured"), config, run)
    if change == PATIENT:
        answers, info, _ = trained(table, config, base)
        return with_patient(answers, info, table), info, 0
    return trained(table, replace(config, **TRAINED.get(change, {})), run)


def over_seeds(change, table, base, seeds, runs):
    "Predictions of a change under all seeds, and all minutes."
    each = [tried(change, table, replace(base, seed=seed), seeds, runs) for seed in seeds]
    answers = [answers.assign(image_id=answers["image_id"] + f"/{seed}") for (answers, _, _), seed in zip(each, seeds, strict=True)]
    return pd.concat(answers, ignore_index=True), sum(minutes for *_, minutes in each)


def columns(scores):
    "{metric and key: value} of {metric: {key: value}}."
    return {f"{metric} {key}": value for metric, of in scores.items() for key, value in of.items()}


def rows_of(wanted, table, base):
    "The base's scores, then what each change gains over it, as they come."
    plain, minutes = over_seeds("base", table, base, wanted.seeds, wanted.runs)
    scores = intervals(bootstrap(plain))
    yield {"change": "base", "minutes": minutes} | columns({metric: scores[metric] for metric in METRICS})
    for change in wanted.only:
        if change == "nothing frozen" and base.frozen is None:
            continue
        answers, minutes = over_seeds(change, table, base, wanted.seeds, wanted.runs)
        yield {"change": change, "minutes": minutes} | columns({metric: paired_difference(answers, plain, metric) for metric in METRICS})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=CHANGES)
    parser.add_argument("--runs", type=Path, default=cache_folder() / "runs" / "ablations")
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    table = load_table(data_folder(wanted.data))
    table = load_split(wanted.split, table) if wanted.split else split_lesions(table)
    base = BASES["sample" if wanted.data == "sample" else "real"]
    rows, command = [], " ".join(["python", "benchmarks/ablations.py", *map(shlex.quote, sys.argv[1:])])
    for row in rows_of(wanted, table, base):
        environment = json.loads((wanted.runs / f"base-seed{wanted.seeds[0]}" / "environment.json").read_text())
        rows.append(row | {"seeds": " ".join(map(str, wanted.seeds)), "command": command, "machine": environment["machine"]})
        print(pd.DataFrame([row]).round(3).to_string(index=False), flush=True)
        if wanted.out:
            with atomic_write(wanted.out) as draft:
                pd.DataFrame(rows).to_csv(draft, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
