"""Attacks on what is tracked: no label can be had from it that the predictions alone do not give."""

import itertools
import json
import re
import subprocess
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from conftest import PROJECT
from msa_paper.report.figure6 import scattered
from msa_paper.report.pages import shown_on
from msa_paper.report.figure6 import jittered
from msa_paper.report.resamples import with_truth
from msa_paper.measures.bootstrap import group_draws, replicates
from msa_paper.core import MsaPaperError, data_folder
from msa_paper.intensity import targets_from_intensity
from msa_paper.tasks import TASKS
from msa_paper.formats.transcripts import READ
from msa_paper.experiment.published import open_results

LISTED = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True).stdout
TRACKED = [p for p in LISTED.split("\n")[:-1] if (PROJECT / p).is_file()]
INTENSITIES = (
    ("planted", "planted-mixed-regression"),
    ("mosi", "mosi-context-regression"),
    ("mosei", "mosei-context-regression"),
    ("mosei", "mosei-videos-regression"),
)
CLASSES = (
    ("planted", "planted-mixed-iemocap4"),
    ("mosi", "mosi-context-binary"),
    ("iemocap", "iemocap-context-iemocap4"),
    ("mosei", "mosei-context-seven"),
)


def given(run):
    "The predictions of a run, if they are published."
    try:
        return run.predictions
    except MsaPaperError:
        return None


def labelled(table, spec):
    "Predictions with the truth; of MOSEI's transcripts, without extracting features for it."
    if (spec.dataset, spec.protocol) != ("mosei", "context"):
        return with_truth(table, spec)
    told = READ["mosei"](data_folder()).set_index("id").label
    truth = targets_from_intensity(told.reindex(table.id).to_numpy(), spec.task)
    return table.assign(truth=truth)


class Known:
    "What somebody without the labels has of the full model; and, to judge the attack, the truth."

    def __init__(self, study, key):
        self.where = study, key
        self.every = open_results().of(study, key, "full")
        if not self.every:
            pytest.skip(f"no published run of the full model on {key}")
        self.runs = [r for r in self.every if given(r) is not None]
        try:
            tables = [labelled(given(r), r.spec) for r in self.runs]
        except MsaPaperError as error:
            pytest.skip(f"the labels of {key} are not in the data folder: {error.what}")
        self.truth, self.group = tables[0].truth.to_numpy(), pd.factorize(tables[0].group)[0]
        there = ~np.isnan(self.truth)
        columns = [c for c in tables[0] if c.startswith("p_") or c == "prediction"]
        self.p = np.stack([t[columns].to_numpy(np.float64)[there] for t in tables])  # (seeds, n, outputs)
        self.truth, self.group = self.truth[there], self.group[there]
        self.covariance = open_results().covariance

    def metric(self, name):
        "A published metric of every seed."
        return np.array([r.metrics["test"][name] for r in self.runs])


def errors(guess, truth):
    "Mean error, and the share of labels that are met within .1."
    return float(np.abs(guess - truth).mean()), float((np.abs(guess - truth) <= 0.1).mean())


def alone(p, mean, sd, r):
    "The best that predictions and a data card allow: a seed, their mean, or their mean on the labels' scale."
    middle = p.mean(0)
    scaled = mean + r * sd * (middle - middle.mean()) / middle.std()
    return [*p, middle, scaled, np.round(middle * 5) / 5, np.round(middle * 3) / 3]


def linear(p, mean, sd, r):
    "Correlations are linear in the labels, once mean and deviation are known: the least change that fits."
    n, middle = p.shape[1], p.mean(0)
    A = np.concatenate([p - p.mean(1, keepdims=True), np.ones((1, n))])
    b = np.r_[n * r * p.std(1) * sd, n * mean]
    return middle + np.linalg.lstsq(A, b - A @ middle, rcond=1e-6)[0]


def nonlinear(p, group, equations, start, steps=150):
    "All equations at once, those of errors and of variances over resamples too, by gradients from a start."
    counts = torch.tensor(np.concatenate(list(group_draws(group.max() + 1))), dtype=torch.float64)
    inside = torch.nn.functional.one_hot(torch.tensor(group)).double().T
    P, y = torch.tensor(p), torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.LBFGS([y], max_iter=steps, history_size=30, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        off = sum(((f(P, y, inside, counts) - v) / s).square().sum() for f, v, s in equations)
        total = off + 1e-3 * (y - torch.tensor(start)).square().mean()
        total.backward()
        return total

    optimiser.step(loss)
    return y.detach().numpy()


def mae(P, y, inside, counts):
    return (P - y).abs().mean(1)


def corr(P, y, inside, counts):
    a, b = P - P.mean(1, keepdim=True), y - y.mean()
    return (a * b).mean(1) / (a.square().mean(1) * b.square().mean()).sqrt()


def resampled_mae(P, y, inside, counts):
    "MAE of every seed on every resample of the videos: (draws, seeds)."
    return (counts @ (inside @ (P - y).abs().T)) / (counts @ inside.sum(1))[:, None]


def constant(P, y, inside, counts, at):
    "MAE of the constant model, and its variance over resamples: exact, where the constant is known."
    drawn = (counts @ (inside @ (at - y).abs())) / (counts @ inside.sum(1))
    return torch.stack([(at - y).abs().mean(), drawn.var(unbiased=False)])


def published_equations(known, at):
    "What is published of runs with known predictions (first seed, constant), as equations in the labels."
    found = [(mae, torch.tensor(known.metric("mae")), 1e-4), (corr, torch.tensor(known.metric("corr")), 1e-4)]
    floor = open_results().of(*known.where, "dummy")
    if floor:
        c = known.covariance[f"+1*{floor[0].row['configuration']}.mae"]
        target = torch.tensor([floor[0].metrics["test"]["mae"], c["between"]])
        found.append((partial(constant, at=at), target, target.abs() * 1e-3))
    return found


@pytest.mark.parametrize("study, key", INTENSITIES)
def test_intensities_cannot_be_solved_for(study, key):
    known = Known(study, key)
    p, y = known.p[:, :, 0], known.truth
    mean, sd = round(y.mean(), 4), round(y.std(), 4)  # what a data card says
    r = known.metric("corr")
    base = [errors(g, y) for g in alone(p, mean, sd, r.mean())]
    solved = linear(p, mean, sd, r)
    attacks = {"linear": solved, "linear, on the labels' grid": np.round(solved * 15) / 15}
    if len(np.unique(known.group)) < 400:
        equations = published_equations(known, mean)
        attacks["all equations"] = nonlinear(p, known.group, equations, p.mean(0))
        attacks["all equations, from the linear solution"] = nonlinear(p, known.group, equations, solved)
    found = {name: errors(g, y) for name, g in attacks.items()}
    best = min(e for e, _ in base), max(s for _, s in base)
    told = "; ".join(f"{n} {e:.4f}, {s:.1%}" for n, (e, s) in found.items())
    print(f"{key}: predictions alone {best[0]:.4f}, {best[1]:.1%}; {told}")
    for name, (error, share) in found.items():
        assert error >= 0.995 * best[0], name
        assert share <= best[1] + 0.01, name


def test_the_attack_is_a_good_one():
    "Resamples, which earlier commits held, give labels back: errors by a linear system, signs by agreement."
    rng = np.random.default_rng(0)
    y = np.clip(rng.normal(0, 1.2, 150), -3, 3)
    p = y + rng.normal(0, 0.8, (3, 150))
    counts = np.concatenate(list(group_draws(150)))
    drawn = np.stack([replicates(TASKS["regression"], q[:, None], y, np.arange(150)).mae for q in p], 1)
    shares = counts / counts.sum(1, keepdims=True)
    size = np.linalg.lstsq(shares, drawn, rcond=None)[0].T  # |p − y| of every sample: (seeds, n)
    candidates = np.stack([p + size, p - size])  # (2, seeds, n)
    signs = itertools.product((0, 1), repeat=3)
    spread = [np.ptp([candidates[i, 0], candidates[j, 1], candidates[k, 2]], axis=0) for i, j, k in signs]
    best = np.argmin(spread, axis=0)
    solved = candidates[best // 4, 0, np.arange(150)]
    before, after = errors(p.mean(0), y), errors(solved, y)
    print(f"mean error of predictions {before[0]:.3f}, of labels solved for from resamples {after[0]:.1e}")
    assert after[0] < 1e-3
    assert after[1] == 1


def counted(scores, true):
    "Scores on the scale of how often each class is: what a data card adds to the predictions."
    for _ in range(20):
        scores = scores * (true / scores.sum(0))
        scores = scores / scores.sum(1, keepdims=True)
    return scores


def one_hot(guess, classes):
    return np.eye(classes)[guess]


@pytest.mark.parametrize("study, key", CLASSES)
def test_classes_cannot_be_solved_for(study, key):
    "Accuracy and the F1 of each class are linear in the labels' indicators, once the classes are counted."
    known = Known(study, key)
    S, n, C = known.p.shape
    names, true = TASKS[known.runs[0].spec.task].classes, np.bincount(known.truth.astype(int), minlength=C)
    rows, values = [], []
    for s, run in enumerate(known.runs):
        guess = one_hot(known.p[s].argmax(1), C)
        rows.append(guess.ravel())
        values.append(n * run.metrics["test"]["acc"])
        for c, name in enumerate(names):
            hits = np.zeros((n, C))
            hits[:, c] = guess[:, c]
            rows.append(hits.ravel())
            values.append(run.metrics["test"][f"f1_{name}"] * (true[c] + guess[:, c].sum()) / 2)
    A, start = np.array(rows), known.p.mean(0).ravel()
    solved = start + np.linalg.lstsq(A, np.array(values) - A @ start, rcond=1e-6)[0]

    def right(scores):
        "The share of samples whose class is met."
        return float((scores.reshape(n, C).argmax(1) == known.truth).mean())

    base, found = max(right(q) for q in (*known.p, *(counted(q, true) for q in known.p))), right(solved)
    print(f"{key}: predictions alone {base:.2%} right, solved {found:.2%}")
    assert found <= base + max(0.005, 2.5 / n)


@pytest.mark.parametrize("study", shown_on("figure6"))
def test_the_picture_gives_no_label_back(study):
    "Figure 6: every point is looked for by the height of its prediction, with the exact place of every dot."
    known = Known(study, scattered(study).key)
    if study == "planted":
        pytest.skip("the planted corpus is everybody's: its exact scatter is committed")
    y, p = known.truth, known.p[0, :, 0]
    x, z = jittered(y, p)
    nearest = x[np.abs(z[None] - p[:, None]).argmin(1)]
    row, column = linear_sum_assignment(np.abs(z[None] - p[:, None]))
    weights = np.exp(-0.5 * ((z[None] - p[:, None]) / 0.35) ** 2)
    smooth = weights @ x / weights.sum(1)
    r = known.metric("corr")
    base = [errors(g, y) for g in alone(known.p[:, :, 0], y.mean(), y.std(), r.mean())]
    best = min(e for e, _ in base), max(s for _, s in base)
    for name, guess in {"nearest": nearest, "assigned": x[column], "smoothed": smooth}.items():
        error, share = errors(guess, y)
        print(f"{study}, {name}: {error:.4f}, {share:.1%}; predictions alone {best[0]:.4f}, {best[1]:.1%}")
        assert error >= 0.995 * best[0], name
        assert share <= best[1] + 0.01, name


def test_few_runs_on_one_test_have_their_predictions_told():
    "Each run's metrics are equations in the labels: fewer than one for every 150 of them, over all studies."
    told, samples = {}, {}
    for study in (s for name, s in open_results().studies.items() if name != "planted"):  # everybody's labels
        for configuration, table in study.predictions.items():
            row = next(r for r in study.rows if r["configuration"] == configuration)
            test = row["dataset"], row["protocol"], row["test_n"]
            seeds = [c for c in table if re.fullmatch(r"s\d+", c) and table[c].notna().any()]
            told[test], samples[test] = told.get(test, 0) + len(seeds), row["test_n"]
    assert told
    assert not {test: n for test, n in told.items() if n > max(1, samples[test] // 150)}


def test_nothing_tracked_holds_resamples_or_exact_points():
    assert not [p for p in TRACKED if "replicates" in p]
    assert not [p for p in TRACKED if re.search(r"figures/(?!planted/)[^/]*/figure6\.(svg|pdf)", p)]
    for path in (p for p in TRACKED if p.startswith("results/") and p.endswith(".parquet")):
        columns = pd.read_parquet(PROJECT / path).columns
        assert not {"truth", "label", "labels", "intensity"} & set(columns), path


def test_nothing_tracked_quotes_the_data():
    "No transcript in a tracked text, notebook or drawing."
    table = data_folder() / "mosi" / "label.csv"
    if not table.is_file():
        pytest.skip("no real MOSI files in the data folder (MSA_PAPER_DATA)")
    real = pd.read_csv(table, dtype=str)
    quotes = [t for t in real["text"].dropna() if len(t) > 40][:: max(1, len(real) // 400)]
    assert len(quotes) > 200
    for path in (p for p in TRACKED if p.endswith((".ipynb", ".md", ".json", ".csv", ".svg", ".py"))):
        text = (PROJECT / path).read_text()
        assert not [q for q in quotes if q in text], path


def test_sidecars_hold_few_digits():
    for path in (p for p in TRACKED if p.startswith("figures/") and p.endswith(".json")):
        found = re.findall(r"-?\d+\.(\d+)", json.dumps(json.loads((PROJECT / path).read_text())))
        assert not [d for d in found if len(d.rstrip("0")) > 9], path
