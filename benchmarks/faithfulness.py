"""Whether the heatmaps of a model deserve belief: all methods, measured on the photos of the test part that an expert outlined.

    python benchmarks/faithfulness.py --model runs/demo --out runs/demo                                    on the sample
    python benchmarks/faithfulness.py --model best --data DATA --split results/split.csv --out results/best
"""
import argparse

from skin_lesion.data import load_split, load_table, split_lesions
from skin_lesion.faithfulness import report
from skin_lesion.predict import open_model
from skin_lesion.sample import data_folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="best")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--split")
    parser.add_argument("--out", required=True, help="folder for the tables, faithfulness*.csv")
    args = parser.parse_args()
    model, info = open_model(args.model)
    folder = data_folder(args.data)
    table = load_table(folder)
    table = load_split(args.split, table) if args.split else split_lesions(table)
    print(report(model, table, folder, args.out, names=info.classes).to_string())


if __name__ == "__main__":
    main()
