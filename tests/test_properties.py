"What holds of every table: the split, the weights, the samplers, and the scores, which are those of scikit-learn and of the challenge's own program."
import re
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.utils.class_weight import compute_class_weight
from soak import LONG, fault

from skin_lesion.data import CLASSES, MALIGNANT, PARTS, check_split, fold_lesions, load_split, save_split, split_hash, split_lesions
from skin_lesion.evaluate import N_BINS, average_lesions, bootstrap, decide, lesion_weights

EXAMPLES = settings(max_examples=500 if LONG else 60, derandomize=not LONG, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def photo_table(lesions):
    "A table from the photos of each lesion, by class."
    rows = [(f"{dx}-{i}", dx) for dx, photos in lesions.items() for i, n in enumerate(photos) for _ in range(n)]
    table = pd.DataFrame(rows, columns=["lesion_id", "dx"])
    return table.assign(image_id=[f"P{i}" for i in range(len(table))]).sample(frac=1, random_state=len(table))


LESIONS = st.dictionaries(st.sampled_from(CLASSES), st.lists(st.integers(1, 4), min_size=1, max_size=40), min_size=1)
SHARES = st.one_of(st.just(0.0), st.floats(0.01, 0.45))
SEED = st.integers(0, 2**32 - 1)


@EXAMPLES
@given(lesions=LESIONS, test=SHARES, validation=SHARES, seed=SEED)
def test_a_split_keeps_lesions_whole_and_shares_exact(lesions, test, validation, seed):
    table = photo_table(lesions)
    shares = {"test": test, "validation": validation}
    wanted = {dx: {part: max(1, round(s * len(n))) if s else 0 for part, s in shares.items()} for dx, n in lesions.items()}
    small = [dx for dx in CLASSES if dx in lesions and sum(wanted[dx].values()) >= len(lesions[dx])]
    with fault("splits"):
        if small:
            with pytest.raises(ValueError, match=rf"Class {small[0]} has {len(lesions[small[0]])} lesion"):
                split_lesions(table, test, validation, seed)
            return
        split = split_lesions(table, test, validation, seed)
        check_split(split)
        assert (split.groupby("lesion_id")["part"].nunique() == 1).all()
        counts = split.drop_duplicates("lesion_id").groupby(["dx", "part"]).size()
        for dx, sizes in wanted.items():
            assert {part: int(counts.get((dx, part), 0)) for part in sizes} == sizes and (dx, "train") in counts
        shuffled = split_lesions(table.sample(frac=1, random_state=1), test, validation, seed)
        assert split_hash(shuffled) == split_hash(split)


@EXAMPLES
@given(lesions=LESIONS, seed=SEED, pairs=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), max_size=8))
def test_lesions_that_share_a_picture_stay_together(lesions, seed, pairs):
    table = photo_table(lesions)
    names = sorted(set(table["lesion_id"]))
    joined = pd.DataFrame([(names[i % len(names)], names[j % len(names)]) for i, j in pairs], columns=["lesion_id", "other_lesion_id"])
    with fault("splits"):
        try:
            split = split_lesions(table, 0.2, 0.1, seed, together=joined)
        except ValueError as error:
            assert re.match(f"Class ({'|'.join(lesions)}) has (\\d+ lesion.+too few|no lesion for the part)", str(error)), error
            return
        assert split.groupby("dx")["part"].nunique().eq(len(PARTS)).all()
        part = split.set_index("lesion_id")["part"].to_dict()
        assert all(part[one] == part[other] for one, other in joined.itertuples(index=False)) and set(part.values()) <= set(PARTS)
        check_split(split)


@EXAMPLES
@given(lesions=LESIONS, k=st.integers(2, 6), seed=SEED)
def test_folds_keep_lesions_whole_and_classes_even(lesions, k, seed):
    table = photo_table(lesions)
    small = [dx for dx in CLASSES if dx in lesions and len(lesions[dx]) < k]
    with fault("splits"):
        if small:
            with pytest.raises(ValueError, match=f"Class {small[0]} has"):
                fold_lesions(table, k, seed)
            return
        folds = fold_lesions(table, k, seed)
        assert (folds.groupby("lesion_id")["fold"].nunique() == 1).all()
        counts = folds.drop_duplicates("lesion_id").groupby(["dx", "fold"]).size().unstack(fill_value=0)
        assert counts.shape[1] == k and (counts.max(axis=1) - counts.min(axis=1)).max() <= 1


@EXAMPLES
@given(lesions=LESIONS, crossing=st.integers(0, 10**6))
def test_no_split_with_a_crossing_lesion_is_taken(lesions, crossing, tmp_path_factory):
    table = photo_table(lesions).assign(part="train")
    several = table[table["lesion_id"].duplicated(keep=False)]
    path = tmp_path_factory.getbasetemp() / "split.csv"
    with fault("splits"):
        save_split(table, path)
        assert load_split(path, table).equals(table)
        path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
        with pytest.raises(ValueError, match="more than once"):
            load_split(path, table)
        if len(several):
            table.loc[several.index[crossing % len(several)], "part"] = "test"
            with pytest.raises(ValueError, match="on both sides"):
                save_split(table, path)


COUNTS = st.lists(st.integers(1, 10_000), min_size=7, max_size=7).map(np.array)


@EXAMPLES
@given(counts=COUNTS)
def test_class_weights_are_scikit_learns(counts):
    from skin_lesion.imbalance import class_weights

    y = np.repeat(np.arange(7), np.minimum(counts, 300))
    counts = np.bincount(y)
    balanced = compute_class_weight("balanced", classes=np.arange(7), y=y)
    assert np.allclose(class_weights(counts), balanced, rtol=1e-9)
    for beta in (0.0, 0.9, 0.9999):
        weights = class_weights(counts, beta)
        assert np.isclose((weights * counts).sum(), counts.sum(), rtol=1e-9)
        effective = (1 - beta**counts) / (1 - beta)  # Cui et al. (2019), equation 2
        assert np.allclose(weights * effective, (weights * effective)[0], rtol=1e-9)


@EXAMPLES
@given(
    counts=st.lists(st.integers(0, 60), min_size=2, max_size=7).filter(any),
    sampler=st.sampled_from(["natural", "square_root", "balanced"]),
    seed=SEED,
)
def test_a_sampler_shows_its_mix_and_every_photo_as_often_as_the_next(counts, sampler, seed):
    from skin_lesion.imbalance import SAMPLERS, epoch_rows, sampler_shares

    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows, power = epoch_rows(y, sampler, seed, 0), SAMPLERS[sampler]
    expected = np.array([n**power if n else 0.0 for n in counts])
    expected = expected / expected.sum()
    assert np.allclose(sampler_shares(counts, sampler), expected, rtol=1e-9)
    assert len(rows) == len(y) and np.abs(np.bincount(y[rows], minlength=len(counts)) - expected * len(y)).max() <= 1
    used = np.bincount(rows, minlength=len(y))
    assert all(np.ptp(used[y == c]) <= 1 for c, n in enumerate(counts) if n)
    assert np.array_equal(rows, epoch_rows(y, sampler, seed, 0))
    if sampler == "natural":
        assert np.array_equal(np.sort(rows), np.arange(len(y)))
    if len(y) > 50:
        assert not np.array_equal(rows, epoch_rows(y, sampler, seed, 1)) and not np.array_equal(rows, epoch_rows(y, sampler, seed + 1, 0))


@st.composite
def predictions(draw):
    "A table of predictions, with ties and with classes that do not occur."
    n, seed = draw(st.integers(2, 60)), draw(SEED)
    rng = np.random.default_rng(seed)
    present = rng.choice(7, draw(st.integers(1, 7)), replace=False)
    truth = rng.choice(present, n)
    probabilities = rng.dirichlet(np.full(7, draw(st.sampled_from([0.2, 1.0]))), n).round(draw(st.sampled_from([1, 2, 9]))) + 1e-3
    probabilities += draw(st.sampled_from([0, 0.3])) * np.eye(7)[truth]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    table = pd.DataFrame(probabilities, columns=list(CLASSES))
    lesion = truth * 100 + rng.integers(0, 9, n)
    known = {"image_id": [f"P{i}" for i in range(n)], "lesion_id": [f"L{i}" for i in lesion], "dx": np.array(CLASSES)[truth], "part": "test"}
    return pd.DataFrame(known).join(table).assign(decision=np.array(CLASSES)[decide(probabilities)])


def expected_scores(table, weight):
    "The same scores by scikit-learn, each photo with a weight."
    p = table[list(CLASSES)].to_numpy()
    truth, decision = table["dx"].to_numpy(), table["decision"].to_numpy()
    how = {"labels": list(CLASSES), "sample_weight": weight, "average": None, "zero_division": 0}
    per_class = {"recall": metrics.recall_score(truth, decision, **how), "f1": metrics.f1_score(truth, decision, **how)}
    scores = {"accuracy": metrics.accuracy_score(truth, decision, sample_weight=weight)}
    present = [dx for dx in CLASSES if weight[truth == dx].sum() > 0]
    scores["balanced_accuracy"] = np.mean([per_class["recall"][CLASSES.index(dx)] for dx in present])
    for name, values in per_class.items():
        scores |= {f"{name}.{dx}": value if dx in present else np.nan for dx, value in zip(CLASSES, values, strict=True)}
    areas = [metrics.roc_auc_score(truth == dx, p[:, i], sample_weight=weight) for i, dx in enumerate(CLASSES) if len(present) > 1 and dx in present]
    scores["macro_auc"] = np.mean(areas) if areas else np.nan
    ill = np.isin(truth, MALIGNANT)
    sick = metrics.recall_score(ill, np.isin(decision, MALIGNANT), sample_weight=weight, zero_division=np.nan)
    well = metrics.recall_score(~ill, ~np.isin(decision, MALIGNANT), sample_weight=weight, zero_division=np.nan)
    return scores | {"malignant.sensitivity": sick, "malignant.specificity": well}


@EXAMPLES
@given(table=predictions())
def test_scores_are_scikit_learns_on_the_photos_and_in_every_resample(table):
    found, weights = bootstrap(table, 3), np.concatenate(list(lesion_weights(table["lesion_id"], 3)), axis=1)
    with fault("scores"):
        for i in range(4):
            expected = expected_scores(table, weights[:, i])
            assert found.loc[i, list(expected)].to_numpy(float) == pytest.approx(list(expected.values()), abs=1e-9, nan_ok=True)
        if table["dx"].nunique() > 1:
            assert found["balanced_accuracy"][0] == pytest.approx(metrics.balanced_accuracy_score(table["dx"], table["decision"]), abs=1e-9)


def test_the_class_order_is_the_published_one():
    assert CLASSES == ("akiec", "bcc", "bkl", "df", "nv", "vasc", "mel") and set(MALIGNANT) == {"akiec", "bcc", "mel"}


@EXAMPLES
@given(seed=SEED)
def test_a_decision_follows_bayes_under_the_stated_prior(seed):
    rng = np.random.default_rng(seed)
    p, prevalence, prior = rng.dirichlet(np.ones(7), 20), *rng.dirichlet(np.ones(7), 2)
    likelihood = p / prevalence
    assert np.array_equal(decide(p, prevalence, prior), (likelihood * prior).argmax(axis=1))
    assert np.array_equal(decide(p, prevalence), likelihood.argmax(axis=1)) and np.array_equal(decide(p), p.argmax(axis=1))


@EXAMPLES
@given(table=predictions())
def test_the_calibration_error_is_its_definition(table):
    p = table[list(CLASSES)].to_numpy()
    sure, right = p.max(axis=1), np.array(CLASSES)[p.argmax(axis=1)] == table["dx"]
    bins = pd.Series(np.searchsorted(np.quantile(sure, np.arange(1, N_BINS) / N_BINS), sure))
    error = sum(len(i) / len(sure) * abs(right.to_numpy()[i].mean() - sure[i].mean()) for i in bins.groupby(bins).groups.values())
    with fault("scores"):
        assert bootstrap(table, 1)["ece"][0] == pytest.approx(error, abs=1e-9)


@EXAMPLES
@given(table=predictions())
def test_resamples_take_lesions_whole_and_lesions_are_averaged(table):
    with fault("scores"):
        for block in lesion_weights(table["lesion_id"], 5):
            weights = pd.DataFrame(block).groupby(table["lesion_id"].to_numpy())
            assert (weights.nunique() == 1).all(axis=None)
            assert (weights.first().sum() == table["lesion_id"].nunique()).all()
        lesions = average_lesions(table).set_index("lesion_id")
        means = table.groupby("lesion_id")[list(CLASSES)].mean()
        assert np.allclose(lesions.loc[means.index, list(CLASSES)], means, rtol=1e-9) and set(lesions["decision"]) <= set(CLASSES)


@EXAMPLES
@given(table=predictions())
def test_the_official_score_of_the_challenge(table):
    """
    Balanced multi-class accuracy, the official score of ISIC 2018 (task 3), as the challenge's own program computes it.

    Its source, github.com/ImageMarkup/isic-challenge-scoring, `metrics.balanced_multiclass_accuracy`: the diagonal of the
    confusion matrix over the number of photos of each class, averaged over the classes that occur.
    """
    found = bootstrap(table, 1)["balanced_accuracy"][0]
    with fault("scores"):
        present = [dx for dx in CLASSES if (table["dx"] == dx).any()]
        by_hand = np.mean([(table["decision"] == dx)[table["dx"] == dx].mean() for dx in present])
        assert found == pytest.approx(by_hand, abs=1e-9)


def official_score():
    "The challenge's own function, where its package is installed; what it unzips with is not needed."
    sys.modules.setdefault("zipfile_deflate64", zipfile)
    try:
        from isic_challenge_scoring.metrics import balanced_multiclass_accuracy
    except ImportError:
        return None
    return balanced_multiclass_accuracy


@pytest.mark.skipif(official_score() is None, reason="isic-challenge-scoring is not installed; make soak installs it")
@EXAMPLES
@given(table=predictions())
def test_the_challenges_own_program_gives_the_same_score(table):
    truth, answers = (pd.get_dummies(table[name]).reindex(columns=list(CLASSES), fill_value=0).astype(float) for name in ("dx", "decision"))
    with fault("scores"):
        official = official_score()(truth, answers, pd.Series(1.0, table.index))
        assert bootstrap(table, 1)["balanced_accuracy"][0] == pytest.approx(official, abs=1e-9)


@pytest.mark.parametrize("classes", [7, 3])
def test_the_score_in_training_is_the_score_of_the_report(classes):
    from skin_lesion.imbalance import BalancedAccuracy

    rng = np.random.default_rng(0)
    truth, logits, offset = rng.integers(0, classes, 90), rng.normal(size=(90, 7)), rng.normal(size=7)
    metric = BalancedAccuracy(offset=offset)
    for part in np.split(np.arange(90), 3):
        metric.update_state(np.eye(7)[truth[part]], logits[part])
    expected = metrics.recall_score(truth, (logits + offset).argmax(axis=1), average="macro", labels=range(classes))
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)
