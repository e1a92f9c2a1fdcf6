"""Keep a finished run in results/, and score everything that is kept there again.

    python tools/results.py                        score every folder in results/ from its predictions
    python tools/results.py runs/cnn cnn           first keep runs/cnn as results/cnn: tables and settings, no weights

With SKIN_LESION_DATA, results/best/slices.csv is made again too: it needs the photos' metadata, which is not kept here.
"""
import json
import os
import shutil
import sys
from pathlib import Path

import pandas as pd

from skin_lesion.data import atomic_write, load_table
from skin_lesion.evaluate import evaluate, slices

RESULTS = Path(__file__).parent.parent / "results"
KEPT = ("config.json", "environment.json", "history.csv", "model.json", "predictions.csv")


def keep(run, name):
    "Copy what a run is judged by."
    (RESULTS / name).mkdir(exist_ok=True)
    for file in KEPT:
        shutil.copy(Path(run) / file, RESULTS / name / file)


def score(folder):
    "Write metrics.json; give back the predictions by part."
    info = json.loads((folder / "model.json").read_text())
    predictions = pd.read_csv(folder / "predictions.csv", dtype={"image_id": str, "lesion_id": str})
    parts = dict(iter(predictions.groupby("part")))
    metrics = {part: evaluate(table, info["prevalence"], info["prior"]) for part, table in parts.items()}
    with atomic_write(folder / "metrics.json") as draft:
        draft.write_text(json.dumps(metrics, indent=1))
    print(folder.name, {part: round(of["balanced_accuracy"]["value"], 4) for part, of in metrics.items()})
    return parts


def score_slices(predictions, folder):
    "Write slices.csv: balanced accuracy and melanoma recall of each group of the test photos."
    table = load_table(os.environ["SKIN_LESION_DATA"])
    columns = {column: slices(predictions, table, column, watched="mel") for column in ("age", "sex", "localization", "dx_type")}
    stacked = pd.concat(columns, names=["column", "value"]).reset_index()
    with atomic_write(folder / "slices.csv") as draft:
        stacked.to_csv(draft, index=False, float_format="%.6g")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        keep(*sys.argv[1:])
    for folder in sorted(path.parent for path in RESULTS.glob("*/predictions.csv")):
        parts = score(folder)
        if folder.name == "best" and os.environ.get("SKIN_LESION_DATA"):
            score_slices(parts["test"], folder)
