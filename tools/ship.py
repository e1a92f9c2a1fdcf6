"""Put a finished run into the package as the model that ships, and keep what its shipped weights answer.

    SKIN_LESION_DATA=ham10000 python tools/ship.py runs/NAME
    SKIN_LESION_DATA=ham10000 python tools/results.py

writes `skin_lesion/best/` (float16 weights, the split, and what the model has seen) and `results/best/`. Refused when the smaller weights
change a test score by more than 0.002. Where the official validation photos of ISIC 2018 Task 3 lie beside the data
(`isic2018_task3_validation`), their predictions are kept as well.
"""
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from skin_lesion.data import atomic_write, colour_quantiles, colour_statistics, load_split, load_table, pixels
from skin_lesion.evaluate import evaluate
from skin_lesion.models import save
from skin_lesion.predict import load_best_model, open_model
from skin_lesion.train import predict_table, write_predictions

ROOT = Path(__file__).resolve().parent.parent
SHIPPED, KEPT = ROOT / "skin_lesion" / "best", ROOT / "results" / "best"
TOLERANCE = 0.002


def moved(before, after, info):
    "The largest change of a score of the test part between two tables of predictions."
    scores = [evaluate(table[table["part"] == "test"], info.prevalence, info.prior, n_boot=2) for table in (before, after)]
    return max(abs(scores[0][name]["value"] - scores[1][name]["value"]) for name in ("balanced_accuracy", "accuracy", "macro_auc", "ece"))


def official(network, info, folder):
    "Answers for the official validation photos, which are part of neither split nor training."
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no lesion_id")
        table = load_table(folder).assign(part="unseen")
    return predict_table(network, info, table, np.arange(len(table)))


def main(run):
    data = Path(os.environ["SKIN_LESION_DATA"])
    table = load_split(ROOT / "results" / "split.csv", load_table(data))
    trained, info = open_model(run)
    if info.colours is None:  # a run made before training kept them
        seen = colour_statistics(pixels(table, info.size), np.flatnonzero(table["part"] == "train"))
        info = replace(info, colours=colour_quantiles(seen))
    SHIPPED.mkdir(exist_ok=True), KEPT.mkdir(exist_ok=True)
    save(trained, SHIPPED / "model.npz", info)
    shutil.copy(run / "familiarity.npz", SHIPPED / "familiarity.npz")
    shutil.copy(ROOT / "results" / "split.csv", SHIPPED / "split.csv")
    network, info = load_best_model()
    predictions = predict_table(network, info, table, np.flatnonzero(table["part"] != "train"))
    change = moved(pd.read_csv(run / "predictions.csv", dtype={"image_id": str, "lesion_id": str}), predictions, info)
    print(f"float16 weights change the scores of the test part by {change:.5f} at most")
    if change > TOLERANCE:
        raise ValueError(f"That is more than {TOLERANCE}. Ship another run, or the weights of this one in float32.")
    for name in ("config.json", "environment.json", "history.csv"):
        shutil.copy(run / name, KEPT / name)
    write_predictions(KEPT, predictions, info)
    beside = data.parent / "isic2018_task3_validation"
    if beside.exists():
        with atomic_write(KEPT / "official_validation.csv") as draft:
            official(network, info, beside).to_csv(draft, index=False, float_format="%.6g")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
