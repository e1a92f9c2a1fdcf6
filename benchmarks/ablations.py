"""What each ingredient of the training is worth: one change at a time, several seeds, judged on validation lesions only.

    python benchmarks/ablations.py                                                    on the sample, in minutes, to see that it runs
    python benchmarks/ablations.py --data DATA --split results/split.csv --runs runs/ablations --out results/ablations.csv

Every change is trained under each seed like the base it is compared with, and a run that was killed goes on where it stopped. The difference
is that of balanced accuracy on the validation lesions, over all seeds at once, with a 95 % interval from a paired bootstrap over lesions. Both
sides were calibrated on these lesions, so both are a little too good; the test part is not looked at.
"""
import argparse
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from skin_lesion.data import atomic_write, cache_folder, load_split, load_table, split_lesions
from skin_lesion.evaluate import evaluate, paired_difference
from skin_lesion.sample import data_folder
from skin_lesion.train import Config, train

LITE = {"weights": "imagenet", "frozen": "lite0_blocks2_add", "learning_rate": 5e-4, "weight_decay": 0.05, "patience": 99}
BASES = {
    "sample": Config(model="cnn", size=64, epochs=2, batch_size=16),
    "real": Config(model="efficientnet_lite0", size=128, epochs=6, **LITE),
}
CHANGES = {
    "natural sampling": {"sampler": "natural"},
    "balanced sampling": {"sampler": "balanced"},
    "weighted loss, natural sampling": {"sampler": "natural", "loss": "weighted"},
    "logit-adjusted loss": {"loss": "logit_adjusted"},
    "focal loss": {"loss": "focal"},
    "augmentation 1.5": {"augmentation": 1.5},
    "rare classes augmented more": {"targeted": True},
    "label smoothing 0.05": {"label_smoothing": 0.05},
    "mixup 0.2": {"mixup": 0.2},
    "mean of the last 3 epochs": {"average": 3},
    "twice as many epochs": {"epochs": 12},
    "160 pixels": {"size": 160},
    "8 flips and turns": {"views": 8},
    "nothing frozen": {"frozen": None},
}


def predictions(table, base, change, seeds, runs):
    "Validation predictions of one setting over all seeds, and the minutes they took."
    found, minutes = [], 0
    for seed in seeds:
        config = replace(base, seed=seed, **change)
        name = "-".join(f"{key}_{value}" for key, value in change.items()) or "base"
        run = train(table, runs / f"{name}-seed{seed}", config, resume=True)
        answers = pd.read_csv(run / "predictions.csv", dtype={"image_id": str, "lesion_id": str})
        found.append(answers[answers["part"] == "validation"].assign(image_id=lambda t, seed=seed: t["image_id"] + f"/{seed}"))
        minutes += json.loads((run / "environment.json").read_text())["minutes"]
        info = json.loads((run / "model.json").read_text())
    return pd.concat(found, ignore_index=True), minutes, info


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--runs", type=Path, default=cache_folder() / "runs" / "ablations")
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    table = load_table(data_folder(wanted.data))
    table = load_split(wanted.split, table) if wanted.split else split_lesions(table)
    base = BASES["sample" if wanted.data == "sample" else "real"]
    plain, minutes, info = predictions(table, base, {}, wanted.seeds, wanted.runs)
    whole = evaluate(plain, info["prevalence"], info["prior"])["balanced_accuracy"]
    rows = [{"change": "base", "seeds": len(wanted.seeds), "balanced_accuracy": whole["value"], "minutes": minutes}]
    for name in wanted.only:
        if name == "nothing frozen" and base.frozen is None:
            continue
        changed, minutes, _ = predictions(table, base, CHANGES[name], wanted.seeds, wanted.runs)
        gap = paired_difference(changed, plain)
        rows.append({"change": name, "seeds": len(wanted.seeds), "balanced_accuracy": whole["value"] + gap["difference"], "minutes": minutes} | gap)
        print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False, header=len(rows) == 2), flush=True)
        if wanted.out:
            with atomic_write(wanted.out) as draft:
                pd.DataFrame(rows).to_csv(draft, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
