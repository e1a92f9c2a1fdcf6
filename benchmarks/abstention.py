"""Pictures that show no skin lesion: how many of them does a trained model turn away?

    python benchmarks/abstention.py --model runs/demo                                        on the sample
    python benchmarks/abstention.py --model best --data DATA --split results/split.csv --out results/best/abstention.csv

The limit of strangeness is a model's own and comes from validation photos. Pictures marked `tune` were looked at when the measure was chosen, those
marked `test` come from other sources and were not. Needs scikit-image for its pictures.
"""
import argparse
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
import skimage
from sklearn.datasets import load_sample_images

from skin_lesion.data import fit_photo, load_split, load_table, pixels, read_photo, split_lesions
from skin_lesion.drawing import draw_skin
from skin_lesion.predict import open_familiarity, open_model, photo_features
from skin_lesion.sample import data_folder

SIDE = 450


def crops(picture, rng, n):
    "Random squares of at least 100 pixels or the shorter side."
    height, width = picture.shape[:2]
    for _ in range(n):
        side = rng.integers(min(100, height, width), min(height, width) + 1)
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        yield picture[top : top + side, left : left + side]


def files(folder, suffixes=(".png", ".jpg", ".jpeg")):
    "Every picture in a folder that has a side of 64 pixels or more."
    for path in sorted(Path(folder).glob("*")):
        if path.suffix.lower() in suffixes:
            try:
                picture = read_photo(path)
            except ValueError:
                continue
            if min(picture.shape[:2]) >= 64:
                yield picture


def noise(rng, smooth):
    "Random colours, blurred."
    picture = rng.normal(size=(SIDE, SIDE, 3)).astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), smooth) if smooth else picture
    return cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def drawing(rng):
    "Discs, boxes and lines on a plain ground."
    picture = np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(rng.integers(1, 8)):
        colour, (a, b) = rng.integers(0, 256, 3).tolist(), rng.integers(0, SIDE, (2, 2)).tolist()
        shape = rng.integers(3)
        if shape == 0: cv2.circle(picture, a, int(rng.integers(10, 150)), colour, -1)
        elif shape == 1: cv2.rectangle(picture, a, b, colour, -1)
        else: cv2.line(picture, a, b, colour, int(rng.integers(1, 12)))
    return picture


def page(rng):
    "Lines of letters, dark on light."
    ground, ink = rng.integers(180, 256, 3), rng.integers(0, 90, 3).tolist()
    picture = np.full((SIDE, SIDE, 3), ground, np.uint8)
    scale = rng.uniform(0.4, 2)
    for y in range(20, SIDE, int(30 * scale) + 4):
        text = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz     ,."), 60))
        cv2.putText(picture, text, (5, y), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1 + int(scale), cv2.LINE_AA)
    return picture


def stripes(rng):
    "A grating in two colours."
    y, x = np.mgrid[:SIDE, :SIDE]
    wave = 0.5 + 0.5 * np.sin((x * rng.normal() + y * rng.normal()) / rng.uniform(2, 40))[..., None]
    return (wave * rng.integers(0, 256, 3) + (1 - wave) * rng.integers(0, 256, 3)).astype(np.uint8)


def pictures(n=40):
    "(role, source, picture), about n of each source."
    rng = np.random.default_rng(0)
    shelves = {
        ("tune", "photos of scikit-learn"): load_sample_images().images,
        ("tune", "pictures of matplotlib"): list(files(Path(matplotlib.get_data_path()) / "sample_data")),
        ("test", "pictures of scikit-image"): list(files(Path(skimage.__file__).parent / "data")),
    }
    for (role, source), shelf in shelves.items():
        for picture in shelf:
            yield from ((role, source, crop) for crop in crops(picture, rng, -(-n // len(shelf))))
    made = {
        ("tune", "white noise"): lambda i: noise(rng, 0),
        ("tune", "drawings"): lambda i: drawing(rng),
        ("test", "smooth noise"): lambda i: noise(rng, rng.uniform(2, 60)),
        ("test", "text"): lambda i: page(rng),
        ("test", "stripes"): lambda i: stripes(rng),
        ("test", "skin without a lesion, synthetic"): lambda i: draw_skin(i),
    }
    for (role, source), make in made.items():
        yield from ((role, source, make(i)) for i in range(n))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="best")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--split")
    parser.add_argument("--out")
    args = parser.parse_args()
    (model, info), familiarity = open_model(args.model), open_familiarity(args.model)
    table = load_table(data_folder(args.data))
    table = load_split(args.split, table) if args.split else split_lesions(table)
    rows = np.flatnonzero(table["part"] == "test")
    lesions = familiarity.strangeness(photo_features(model, pixels(table, info.size), rows))
    found = pd.DataFrame(pictures(), columns=["role", "source", "picture"])
    photos = np.stack([fit_photo(np.ascontiguousarray(picture), info.size) for picture in found.pop("picture")])
    found["strangeness"] = familiarity.strangeness(photo_features(model, photos, np.arange(len(photos))))
    known = table.iloc[rows][["image_id", "lesion_id", "dx"]].assign(role="lesions", source="test photos", strangeness=lesions)
    found = pd.concat([found, known])
    away = (found["strangeness"] > 1).groupby([found["role"], found["source"]])
    print(away.agg(["size", "mean"]).round(3).to_string())
    print(f"test pictures of other things turned away: {(found['strangeness'] > 1)[found['role'] == 'test'].mean():.3f}")
    if args.out:
        found.to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
