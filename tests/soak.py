"What the tests of faults share: `make soak` sets SOAK=1 for their long form, and prints how many faults were tried, survived and lost."
import os
from contextlib import contextmanager

from hypothesis import Phase, settings

settings.register_profile("first", phases=[Phase.explicit, Phase.generate])  # for broken lines: the first failure will do
LONG = os.environ.get("SOAK") == "1"
COUNTS = {}  # kind of fault: [tried, survived]


@contextmanager
def fault(kind, n=1):
    "Faults of one kind; they count as survived if the block ends well."
    count = COUNTS.setdefault(kind, [0, 0])
    count[0] += n
    yield
    count[1] += n


def summary():
    "The counts, a line each, and their sum."
    total = [sum(column) for column in zip(*COUNTS.values(), strict=True)]
    rows = [("faults", "tried", "survived", "lost")]
    rows += [(kind, tried, survived, tried - survived) for kind, (tried, survived) in [*sorted(COUNTS.items()), ("all", total)]]
    return "\n".join(f"{kind:32}{tried:>10}{survived:>10}{lost:>6}" for kind, tried, survived, lost in rows)
