"What the benchmarks share: ways measured in turn, one table with ratios, one CSV file."
import argparse
import csv
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from skin_lesion.data import atomic_write

COLUMNS = ["part", "way", "amount", "value", "unit", "least", "most", "times_ours", "goal", "holds", "note", "command", "machine", "versions"]
INSTRUCTIONS = {"avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}  # what a processor says of itself: what it has


def arguments(script, doc):
    "The options that every benchmark has: --quick, --repeats, --data, --out."
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats, to see that all of it runs; written to a temporary folder")
    parser.add_argument("--repeats", type=int, help="rounds that are timed, after one that is not; 5, or 2 with --quick")
    parser.add_argument("--data", help="a data folder; the synthetic sample by default")
    parser.add_argument("--out", type=Path, help="the CSV file to write; benchmarks/results/ by default")
    name = f"{Path(script).stem}.csv"

    def parse():
        wanted = parser.parse_args()
        folder = Path(tempfile.gettempdir()) / "skin_lesion_benchmarks" if wanted.quick else Path(script).parent / "results"
        wanted.out, wanted.repeats = wanted.out or folder / name, wanted.repeats or (2 if wanted.quick else 5)
        return wanted

    return parser, parse


def in_turn(ways, repeats):
    "{way: seconds of every round}, the ways in turn, after one round that does not count; a way that fails gives the reason."
    found = {name: [] if callable(work) else work for name, work in ways.items()}
    for turn in range(repeats + 1):
        print(f"round {turn} of {repeats}", file=sys.stderr, flush=True)
        for name, work in ways.items():
            if not callable(work) or isinstance(found[name], str):
                continue
            try:
                start = time.perf_counter()
                measured = work()
                took = time.perf_counter() - start
            except Exception as error:
                found[name] = f"does not run: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
                continue
            if turn:
                found[name].append(measured if isinstance(measured, float) else took)
    return found


def compare(part, ways, repeats, amount=None, unit="photos", goals=None):
    """Rows for ways of doing the same thing, of which the first is ours.

    A way is a function (timed, unless it returns the seconds as a float), the seconds of its rounds, or the reason why there is none. With an
    amount the value is how much of it is done in a second. `goals` are the least factors by which ours has to be faster than a way.
    """
    took, goals = in_turn(ways, repeats), goals or {}
    if isinstance(first := took[next(iter(ways))], str):
        raise RuntimeError(f"{next(iter(ways))} {first}")
    ours = np.median(first)
    for name, seconds in took.items():
        row = {"part": part, "way": name, "amount": amount or ""}
        if isinstance(seconds, str):
            yield row | {"note": seconds} | ({"goal": f"ours >= {goals[name]} x", "holds": False} if name in goals else {})
            continue
        rates = sorted(amount / s for s in seconds) if amount else sorted(seconds)
        row |= {"value": digits(np.median(rates)), "unit": f"{unit}/s" if amount else "s", "least": digits(rates[0]), "most": digits(rates[-1])}
        factor = np.median(seconds) / ours
        row |= {"times_ours": f"{factor:.3g}"} if name != next(iter(ways)) else {}
        yield row | ({"goal": f"ours >= {goals[name]} x", "holds": bool(factor >= goals[name])} if name in goals else {})


def fact(part, way, value, unit="", goal="", holds="", note=""):
    "A row for something that is no comparison of times."
    value = value if isinstance(value, str) else digits(value)
    return {"part": part, "way": way, "value": value, "unit": unit, "goal": goal, "holds": holds, "note": note}


def at_least(row, least):
    "A row whose value has to be so large."
    return row | {"goal": f">= {least}", "holds": float(row["value"]) >= least}


def at_most(row, most):
    "A row whose value has to be so small."
    return row | {"goal": f"<= {most}", "holds": float(row["value"]) <= most}


def digits(value):
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def surroundings(packages):
    "The machine and the versions behind the numbers."
    versions = [f"python {platform.python_version()}"]
    for name in ("keras", "tensorflow", "numpy", "opencv-python-headless", "pillow", *packages):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    cpu = Path("/proc/cpuinfo")
    said = dict(line.split("\t", 1) for line in cpu.read_text().splitlines() if "\t" in line) if cpu.exists() else {}
    name, flags = (said.get(key, ": ").split(":")[1].split() for key in ("model name", "flags"))
    widest = next((known for flag, known in INSTRUCTIONS.items() if flag in flags), "")
    parts = [" ".join(name) or platform.processor(), widest, f"{os.cpu_count()} cores", platform.system()]
    return {"machine": ", ".join(filter(None, parts)), "versions": ", ".join(versions)}


def kept(rows, path, around):
    "The rows as they come, each written at once; parts of an earlier run that are not measured now stay in the file."
    earlier, done = [], []
    if path.exists():
        with open(path, newline="") as file:
            earlier = list(csv.DictReader(file))
    for row in rows:
        done.append(row | around)
        parts = {each["part"] for each in done}
        with atomic_write(path) as draft, open(draft, "w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows([each for each in earlier if each["part"] not in parts] + done)
        yield row


def finish(rows, wanted, packages=()):
    "Print the table, write it, and say by the exit code whether every goal is met; small sizes have none."
    around = {"command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]), **surroundings(packages)}
    rows = list(kept(rows, wanted.out, around))
    shown = [COLUMNS[:-3], *[[str(row.get(column, "")) for column in COLUMNS[:-3]] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print(*around.values(), sep="\n")
    print(f"written to {wanted.out}")
    return int(not wanted.quick and any(row.get("holds") is False for row in rows))
