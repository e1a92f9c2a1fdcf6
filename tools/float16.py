"""Measure what rounding a run's weights to float16 does to its scores: the way of a model that ships, for a network whose float32 weights are there.

    SKIN_LESION_DATA=ham10000 python tools/float16.py runs/NAME

writes `results/float16.json`.
"""
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from ship import ROOT, moved

from skin_lesion.data import atomic_write, load_split, load_table
from skin_lesion.models import load, save
from skin_lesion.predict import open_model
from skin_lesion.train import predict_table


def main(run):
    table = load_split(ROOT / "results" / "split.csv", load_table(os.environ["SKIN_LESION_DATA"]))
    trained, info = open_model(run)
    with tempfile.TemporaryDirectory() as folder:
        rounded, _ = load(save(trained, Path(folder) / "model.npz", info))
    after = predict_table(rounded, info, table, np.flatnonzero(table["part"] != "train"))
    before = pd.read_csv(run / "predictions.csv", dtype={"image_id": str, "lesion_id": str})
    change, gap = moved(before, after, info), np.abs(before.filter(list(info.classes)) - after.filter(list(info.classes))).to_numpy().max()
    found = {"network": run.name, "command": f"python tools/float16.py runs/{run.name}"}
    found |= {"largest change of a score": round(float(change), 5), "largest change of a probability": round(float(gap), 5)}
    with atomic_write(ROOT / "results" / "float16.json") as draft:
        draft.write_text(json.dumps(found, indent=1))
    print(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
