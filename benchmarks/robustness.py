"""What changes in a photo cost a trained model: balanced accuracy and flipped answers, on one part of a split.

    python benchmarks/robustness.py --model runs/demo                                        on the sample
    python benchmarks/robustness.py --model best --data DATA --split results/split.csv --out results/best/robustness.csv
"""
import argparse

import cv2
import numpy as np
import pandas as pd
from scipy.special import softmax
from tqdm import tqdm

from skin_lesion.data import fit_photo, load_split, load_table, read_photo, split_lesions
from skin_lesion.drawing import add_corners, add_hairs, add_ruler
from skin_lesion.evaluate import decide, lesion_weights, paired_difference
from skin_lesion.models import log_probabilities
from skin_lesion.predict import open_model
from skin_lesion.sample import data_folder


def jpeg(photo, quality):
    "Through a JPEG file of this quality."
    return cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def covered(photo, share):
    "A black frame over a share of the shorter side."
    width, framed = int(share * min(photo.shape[:2])), np.zeros_like(photo)
    framed[width:-width, width:-width] = photo[width:-width, width:-width]
    return framed


def drawn(photo, artefact, rng):
    "What the sample draws on its lens, on a photo."
    picture = artefact(photo.astype(np.float32) / 255, rng, photo.shape[0] / 450)
    return np.clip(255 * picture, 0, 255).round().astype(np.uint8)


CHANGES = {
    "none": lambda photo, rng: photo,
    "JPEG, quality 75": lambda photo, rng: jpeg(photo, 75),
    "JPEG, quality 20": lambda photo, rng: jpeg(photo, 20),
    "blur, 1.5 pixels": lambda photo, rng: cv2.GaussianBlur(photo, (0, 0), 1.5),
    "blur, 4 pixels": lambda photo, rng: cv2.GaussianBlur(photo, (0, 0), 4),
    "darker by a fifth": lambda photo, rng: cv2.convertScaleAbs(photo, alpha=0.8),
    "brighter by a fifth": lambda photo, rng: cv2.convertScaleAbs(photo, alpha=1.2),
    "warm light": lambda photo, rng: cv2.convertScaleAbs(photo * np.float32([1.1, 1, 0.8])),
    "cold light": lambda photo, rng: cv2.convertScaleAbs(photo * np.float32([0.85, 1, 1.1])),
    "hairs": lambda photo, rng: drawn(photo, add_hairs, rng),
    "ruler": lambda photo, rng: drawn(photo, add_ruler, rng),
    "dark corners": lambda photo, rng: drawn(photo, add_corners, rng),
    "border covered, 10 %": lambda photo, rng: covered(photo, 0.1),
}


def answers(model, info, table, change):
    "Predictions for changed photos; the same photo is always changed in the same way."
    rows = []
    for start in tqdm(range(0, len(table), 64), desc="predict", leave=False, disable=None):
        batch = table.iloc[start : start + 64]
        photos = [fit_photo(change(read_photo(path), np.random.default_rng(start + i)), info.size) for i, path in enumerate(batch["path"])]
        rows.append(softmax(log_probabilities(model, np.stack(photos), info.views), axis=1))
    probabilities = np.concatenate(rows)
    decision = np.array(info.classes)[decide(probabilities, info.prevalence, info.prior)]
    known = table[["image_id", "lesion_id", "dx", "part"]].reset_index(drop=True)
    return known.join(pd.DataFrame(probabilities, columns=list(info.classes))).assign(decision=decision)


def flips(before, after):
    "Share of answers that changed, with its interval over lesions."
    changed = (before["decision"] != after["decision"]).to_numpy()
    weights = np.concatenate(list(lesion_weights(before["lesion_id"])), axis=1)
    shares = weights[changed].sum(axis=0) / weights.sum(axis=0)
    return {"flipped": shares[0], "flipped_low": np.quantile(shares[1:], 0.025), "flipped_high": np.quantile(shares[1:], 0.975)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="best")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--split")
    parser.add_argument("--part", default="test")
    parser.add_argument("--most", type=int, default=100, help="photos of a class at most, one of each lesion first")
    parser.add_argument("--out")
    args = parser.parse_args()
    model, info = open_model(args.model)
    table = load_table(data_folder(args.data))
    table = load_split(args.split, table) if args.split else split_lesions(table)
    table = table[table["part"] == args.part].sample(frac=1, random_state=0)
    table = table.iloc[table.groupby("lesion_id").cumcount().argsort(kind="stable")].groupby("dx").head(args.most)
    found = {name: answers(model, info, table, change) for name, change in CHANGES.items()}
    rows = {}
    for name in list(CHANGES)[1:]:
        rows[name] = {"photos": len(table)}
        for metric, column in (("balanced_accuracy", "balanced_accuracy"), ("recall.mel", "melanoma_recall")):
            gap = paired_difference(found[name], found["none"], metric)
            rows[name] |= {column: gap["difference"], f"{column}_low": gap["low"], f"{column}_high": gap["high"]}
        rows[name] |= flips(found["none"], found[name])
    result = pd.DataFrame(rows).T.rename_axis("change").astype({"photos": int})
    print(result.round(3).to_string())
    if args.out:
        result.to_csv(args.out, float_format="%.4g")


if __name__ == "__main__":
    main()
