"""The paired test holds its level and the interval covers, on a thousand made-up experiments of each size."""

import numpy as np
import pytest

from msa_paper.experiment.published import open_results
from msa_paper.measures.comparisons import effective_groups, minimum_detectable_effect, p_value, uncertainty
from msa_paper.measures.comparisons import test_groups as groups_of
from msa_paper.measures.simulations import planted_matrices, planted_predictions, rejected
from msa_paper.report.tables import difference, summary

SIZES = (10, 31), (5, 31), (3, 300)
MIXTURES = {
    "two models": (1, 0.2, 0.9),
    "near twins": (0, 0.25, 1),
    "seeds matter": (0.5, 0.5, 1),
    "all alike": (1, 0.2, 0.5),
}


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("seeds, groups", SIZES)
def test_rejects_five_percent_of_a_thousand_true_nulls(seeds, groups, mixture):
    rate = rejected(planted_matrices(seeds, groups, *MIXTURES[mixture], seed=2026), groups)
    assert 0.035 <= rate <= 0.065, rate


@pytest.mark.parametrize("seeds, groups", SIZES)
def test_never_rejects_too_often_whatever_varies(seeds, groups):
    for mixture in ((0, 0, 1), (1, 0, 0.01), (0, 1, 0.01), (1, 0, 4), (1, 0.1, 0.1), (0.2, 1, 1)):
        rate = rejected(planted_matrices(seeds, groups, *mixture, seed=7), groups)
        assert rate <= 0.065, (mixture, rate)


@pytest.mark.parametrize("seeds, groups", SIZES)
def test_intervals_cover_a_skewed_truth(seeds, groups):
    matrices = planted_matrices(seeds, groups, 0.4, 0.05, 0.3, mean=0.9, skewed=True, seed=2026)
    covered = 1 - rejected(matrices, groups, truth=0.9)
    assert 0.935 <= covered <= 0.965, covered


def test_ratios_hold_their_level_and_find_what_is_there():
    def rates(**more):
        found = {}
        for part in planted_predictions(10, 31, seed=5, **more):
            for metric, (points, draws) in part.items():
                found.setdefault(metric, []).append(p_value(*uncertainty(points, draws, 31)) < 0.05)
        return {m: np.concatenate(v).mean() for m, v in found.items()}

    null, better = rates(matrices=1000), rates(matrices=100, gain=0.3)
    assert all(0.02 <= v <= 0.065 for v in null.values()), null
    assert all(better[m] > 0.4 for m in ("mae", "corr", "acc2_has0", "f1_has0")), better


def test_minimum_detectable_effect_is_found_four_times_in_five():
    points, draws = next(planted_matrices(10, 31, 1, 0.2, 0.9, seed=3))
    _, se, df = uncertainty(points, draws, 31)
    delta = minimum_detectable_effect((se**2).mean() ** 0.5, df.mean())
    assert 0.76 <= rejected(planted_matrices(10, 31, 1, 0.2, 0.9, mean=delta, seed=4), 31) <= 0.84


def test_unequal_videos_count_for_less():
    size = np.r_[[100] * 3, [5] * 28]
    group = np.repeat(np.arange(31), size)
    assert effective_groups(group) < 7
    assert np.isclose(effective_groups(np.arange(40)), 40)


def test_published_runs_give_consistent_intervals_and_p_values():
    runs = {m: open_results().of("mosi", "mosi-context-regression", m) for m in ("full", "no_graph")}
    if len(runs["full"]) < 5 or len(runs["no_graph"]) < 5:
        pytest.skip("no published runs on MOSI")
    groups = groups_of(runs["full"])
    for metric in ("mae", "corr", "acc2_has0", "f1_has0"):
        d = difference(runs["no_graph"], runs["full"], metric)
        swapped = difference(runs["full"], runs["no_graph"], metric)
        means = {m: summary(runs[m], metric)["mean"] for m in runs}
        assert 20 < groups <= 31
        assert 4 <= d["df"] <= 30
        assert (d["p"] < 0.05) == (d["low"] > 0 or d["high"] < 0)
        assert np.isclose(d["mean"], means["no_graph"] - means["full"])
        assert d["detectable"] > 2.5 * d["se"]
        assert np.isclose(swapped["mean"], -d["mean"])
        assert np.isclose(swapped["p"], d["p"])
