"""Several labels at once: every model trains on them, and what is missing neither trains nor scores.

Metrics are scikit-learn's, intervals those of resampling the videos.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from msa_paper.core import MsaPaperError
from msa_paper.corpus import Corpus, check_corpus, need_labels
from msa_paper.data.cards import card
from msa_paper.experiment.evaluation import evaluate, predict
from msa_paper.experiment.locked import lock, pack, unlock, unpack
from msa_paper.experiment.loss import balance_of, labelled, loss_of
from msa_paper.experiment.portable import Loaded, differences, export_run, load, predict_together
from msa_paper.experiment.robustness import probe_robustness
from msa_paper.experiment.mechanism_probes import Subject
from msa_paper.experiment.run import run_seed
from msa_paper.experiment.specification import RunSpec, spec_hash
from msa_paper.experiment.store import Store
from msa_paper.experiment.training import Training, fit
from msa_paper.formats.feature_files import stored_corpus
from msa_paper.formats.feature_store import store_corpus
from msa_paper.loaders import batches
from msa_paper.measures.bootstrap import all_draws, replicates, resampled
from msa_paper.measures.comparisons import compare, estimate
from msa_paper.measures.ids import metrics_of, resampled_metrics
from msa_paper.measures.metrics import label_metrics, task_metrics
from msa_paper.model.contract import build_model, check_model, drawn_batch
from msa_paper.registry import model as models
from msa_paper.report.resamples import sums_of
from msa_paper.report.resamples import test_key as label_key
from msa_paper.schema import DataSpec, Modality
from msa_paper.tasks import TASKS, Task, check_labels

MOOD = Task("mood", ("tired", "tense", "glad"), scoring="labels")
SIZES = {"train": 30, "validation": 10, "test": 12}
CLOSED = models.names(closed_form=True)
TRAINED = [(name, k % 2 == 0) for k, name in enumerate(models)] + [("full", False), ("bc_lstm", True)]
EVERY = [(name, per_step) for name in models for per_step in (False, True)]


def generated(per_step=False, seed=0, missing=0.2):
    "Three labels that follow from the features, some of them missing; one label a sequence, or one a step."
    rng = np.random.default_rng(seed)
    n, dims = sum(SIZES.values()), {"text": 6, "face": 4}
    cuts = np.r_[0, rng.integers(2, 6, n).cumsum()]
    features = {m: rng.normal(size=(cuts[-1], d)).astype(np.float32) for m, d in dims.items()}
    cause = np.c_[features["text"][:, :2], features["face"][:, 0]]
    if not per_step:
        cause = np.add.reduceat(cause, cuts[:-1]) / np.diff(cuts)[:, None]
    labels = (cause > [0, 0.2, -0.2]).astype(np.float32)
    labels[rng.uniform(size=labels.shape) < missing] = np.nan
    ids, last = np.array([f"v{i}" for i in range(n)]), np.cumsum([0, *SIZES.values()])
    splits = {s: np.arange(a, b) for s, a, b in zip(SIZES, last, last[1:])}
    spec = DataSpec({m: Modality(d, "vector") for m, d in dims.items()}, MOOD, per_step)
    steps = np.array([f"step{i}" for i in range(cuts[-1])]) if per_step else None
    offsets = dict.fromkeys(dims, cuts)
    made = Corpus("moods", "made", spec, features, offsets, labels, ids, splits, ids, steps)
    return check_corpus(made)


def small(name):
    return models.facts(name).get("small") or {}


def spec_of(name, **more):
    "A training of a moment."
    fixed = dict(epochs=1, batch_size=8, learning_rate=0.01, progress=False, settings=small(name)) | more
    return RunSpec(model=name, task="mood", **fixed)


def trained(name, corpus, **more):
    "A model after a moment of training."
    module = Training(spec_of(name, **more), corpus.spec, 1)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, corpus, Path(folder))
    return module


def built(name, corpus):
    "A model with drawn weights; in closed form fitted."
    torch.manual_seed(0)
    model = build_model(name, corpus.spec, small(name))
    if name in CLOSED:
        model.fit_closed_form(corpus.without("test"), lambda batch: batch)
    return model


def touched(model, names):
    "The same model; parameters that rightly get no gradient get one of zero and one."

    def add_nothing(m, _, y):
        return y + sum((m.get_parameter(n) - m.get_parameter(n).detach()).sum() for n in names)

    model.register_forward_hook(add_nothing)
    return model


@pytest.mark.parametrize("name", models)
def test_a_model_keeps_its_contract_with_several_labels_a_sequence(name):
    kinds = {"text": Modality(6), "face": Modality(4, "frames", 2)}
    data = DataSpec(kinds, MOOD, aligned=False)
    batch = drawn_batch(data, ((4, 8), (6, 0), (1, 2)), torch.Generator().manual_seed(0))
    assert batch.labels.shape == (3, 3)  # three labels of three sequences of up to six steps
    torch.manual_seed(0)
    model = build_model(name, data, small(name))
    assert model(batch).shape == (3, 3)
    check_model(model, batch, 3)


@pytest.mark.parametrize("name", models)
def test_a_model_keeps_its_contract_with_several_labels_a_step(name):
    corpus = generated(True)
    batch, model = next(iter(batches(corpus, "train", 5))), built(name, corpus)
    if name == "raven":  # there is one frame in each word
        model = touched(model, ["inside.face.lstm.weight_hh_l0"])
    assert model(batch).shape == batch.labels.shape
    check_model(model, batch, 3)


@pytest.mark.parametrize("name, per_step", TRAINED)
def test_a_model_trains_and_is_scored_on_several_labels_and_the_same_twice(name, per_step):
    corpus = generated(per_step)
    module, again = trained(name, corpus), trained(name, corpus)
    found = evaluate(module, corpus, "test")
    assert list(found.metrics) == list(metrics_of(MOOD))
    assert all(np.isfinite(v) for v in found.metrics.values())
    assert found.predictions.columns.tolist()[3:] == ["p_tired", "p_tense", "p_glad"]
    assert found.predictions.iloc[:, 3:].to_numpy().min() >= 0
    assert found.predictions.iloc[:, 3:].to_numpy().max() <= 1
    assert list(found.replicates) == list(resampled_metrics(MOOD))
    assert found.predictions.equals(evaluate(again, corpus, "test").predictions)
    other = Training(spec_of(name), corpus.spec, 2)
    other.load_state_dict(load_bytes(save(module.cpu().state_dict())))
    assert predict(other, corpus, "test")[0].equals(found.predictions)


@pytest.mark.parametrize("name, per_step", [(n, s) for n, s in EVERY if n not in CLOSED])
def test_a_model_learns_several_labels_by_heart(name, per_step):
    corpus = generated(per_step)
    model, batch = built(name, corpus).eval(), next(iter(batches(corpus, "train", 4)))  # without dropout
    rate = 0.1 if name == "text_encoder" else 0.01  # a linear map, where there are no token numbers
    optimiser = torch.optim.Adam(model.parameters(), rate)
    for _ in range(400):
        loss = loss_of(*labelled(model(batch), batch.labels), "binary_cross_entropy")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.02:
            break
    assert loss < 0.02
    output, y = labelled(model(batch), batch.labels)
    assert torch.equal(output[:, 0] > 0, y == 1)


def test_the_linear_map_finds_what_the_labels_are_made_of():
    corpus = generated(True, missing=0.5)
    constant = evaluate(trained("dummy", corpus), corpus, "test").metrics
    linear = evaluate(trained("ridge", corpus), corpus, "test").metrics
    assert constant["wa_mean"] == 0.5
    assert linear["wa_mean"] > 0.85
    assert constant["f1_mean"] == pytest.approx(constant["constant_mean"], abs=0.15)  # train's, the test's


@pytest.mark.parametrize("per_step", (False, True))
def test_what_is_missing_is_neither_learnt_nor_scored(per_step):
    corpus = generated(per_step)
    gone = np.isnan(corpus.labels)
    assert gone.any(0).all()
    output = torch.randn((3, 4, 3) if per_step else (12, 3), requires_grad=True)
    labels = (torch.rand(output.shape) > 0.5).float()
    labels[..., 1][0] = torch.nan
    loss_of(*labelled(output, labels), "binary_cross_entropy").backward()
    assert torch.equal(output.grad == 0, labels.isnan())
    module = trained("full", corpus)
    table, y = predict(module, corpus, "test")
    p = table.iloc[:, 3:].to_numpy()
    changed = np.where(np.isnan(y), 1 - p, p)  # what is said where nothing is annotated
    assert task_metrics(MOOD, p, y) == task_metrics(MOOD, changed, y)
    assert replicates(MOOD, p, y, table.group).equals(replicates(MOOD, changed, y, table.group))


def test_a_balanced_loss_says_yes_to_what_is_rare():
    corpus = generated(True, missing=0.1)
    rare = corpus.labels.copy()
    rare[:, 2] = np.where((rare[:, 2] == 1) & (rare[:, 0] == 1) & (rare[:, 1] == 1), 1, rare[:, 2] * 0)
    corpus = replace(corpus, labels=rare)
    no, yes = balance_of(corpus)
    train = rare[label_rows(corpus, "train")]
    for k, y in enumerate(train.T):
        assert no[k] * (y == 0).sum() == pytest.approx(float(yes[k] * (y == 1).sum()), rel=1e-5)
    said = {}
    for loss in ("binary_cross_entropy", "balanced_cross_entropy"):
        module = trained("bc_lstm", corpus, loss=loss, epochs=6)
        assert (module.balance is None) == (loss == "binary_cross_entropy")
        said[loss] = (predict(module, corpus, "test")[0]["p_glad"] >= 0.5).mean()
    assert said["balanced_cross_entropy"] > said["binary_cross_entropy"] + 0.05


def label_rows(corpus, split):
    "Where the labels of the steps of a split lie."
    cuts = corpus.offsets["text"]
    return np.concatenate([np.arange(cuts[n], cuts[n + 1]) for n in corpus.splits[split]])


def test_longer_padding_is_no_label():
    corpus = generated(True)
    batch = next(iter(batches(corpus, "train", 3)))
    long = torch.cat([batch.labels, torch.full((3, 5, 3), torch.nan)], 1)
    output = torch.randn(*batch.labels.shape)
    padded = torch.cat([output, torch.full((3, 5, 3), 9.0)], 1)
    for left, right in zip(labelled(output, batch.labels), labelled(padded, long)):
        assert torch.equal(left, right)
    assert torch.equal(labelled(padded, batch.labels)[0], labelled(output, batch.labels)[0])


def test_metrics_are_those_of_scikit_learn_where_a_label_is_annotated():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(400, 3)).astype(np.float32)
    y = (rng.uniform(size=p.shape) < [0.5, 0.1, 0.02]).astype(float)
    y[rng.uniform(size=y.shape) < 0.3] = np.nan
    found, right, n = label_metrics(p, y, MOOD.classes), 0, 0
    for k, c in enumerate(MOOD.classes):
        there = ~np.isnan(y[:, k])
        truth, guess = y[there, k].astype(int), (p[there, k] >= 0.5).astype(int)
        assert found[f"wa_{c}"] == pytest.approx(balanced_accuracy_score(truth, guess))
        assert found[f"f1_{c}"] == pytest.approx(f1_score(truth, guess, average="weighted"))
        assert found[f"share_{c}"] == truth.mean()
        always = np.full(len(truth), truth.mean() >= 0.5)
        assert found[f"constant_{c}"] == pytest.approx(f1_score(truth, always, average="weighted"))
        right, n = right + accuracy_score(truth, guess, normalize=False), n + there.sum()
    assert found["acc_labels"] == right / n
    assert found["n"] == (~np.isnan(y)).any(1).sum()
    for kind in ("wa", "f1", "constant"):
        assert found[f"{kind}_mean"] == pytest.approx(np.mean([found[f"{kind}_{c}"] for c in MOOD.classes]))


def test_metrics_by_hand():
    y = np.array([[1, 0], [1, 0], [0, 0], [0, 1]], float)
    p = np.array([[0.9, 0.1], [0.2, 0.7], [0.1, 0.2], [0.6, 0.5]])
    m = label_metrics(p, y, ("a", "b"))
    # a: TP 1 of P 2, TN 1 of N 2; b: TP 1 of P 1, TN 2 of N 3
    assert m["wa_a"] == pytest.approx((1 * 2 / 2 + 1) / (2 * 2))
    assert m["wa_b"] == pytest.approx((1 * 3 / 1 + 2) / (2 * 3))
    assert m["f1_a"] == pytest.approx(0.5)
    assert m["f1_b"] == pytest.approx((3 * (2 * 2 / (2 + 3)) + 1 * (2 * 1 / (2 + 1))) / 4)
    assert m["acc_labels"] == 5 / 8
    assert m["constant_b"] == pytest.approx(3 * (2 * 3 / (4 + 3)) / 4)


def test_intervals_are_those_of_resampling_the_videos():
    rng = np.random.default_rng(3)
    group = np.repeat([f"v{g}" for g in range(15)], rng.integers(3, 12, 15))
    p = rng.uniform(size=(len(group), 3))
    y = (rng.uniform(size=p.shape) < 0.3 + 0.4 * p).astype(float)
    y[rng.uniform(size=y.shape) < 0.2] = np.nan
    quick, names, slow = replicates(MOOD, p, y, group), np.unique(group), []
    for counts in all_draws(15)[:200]:
        rows = np.concatenate([np.repeat(np.flatnonzero(group == g), c) for g, c in zip(names, counts)])
        slow.append([task_metrics(MOOD, p[rows], y[rows])[id] for id in quick])
    np.testing.assert_allclose(quick[:200].to_numpy(), slow, atol=1e-6)
    points = task_metrics(MOOD, p, y)
    for id in quick:
        told = estimate({1: (points[id], quick[id].to_numpy())}, 15.0)
        assert told["low"] < points[id] < told["high"]
        none = compare({1: (points[id], quick[id])}, {1: (points[id], quick[id])}, 15.0)
        assert (none["mean"], none["se"]) == (0, 0)


def test_predictions_of_several_seeds_name_the_labels():
    corpus = generated()
    both = [Loaded(f"s{k}", spec_of("lmf"), corpus.spec, trained("lmf", corpus)) for k in (1, 2)]
    table = predict_together(both, corpus, "test")
    p = table[["p_tired", "p_tense", "p_glad"]].to_numpy()
    for told, row in zip(table["labels"], p):
        assert told == "+".join(c for c, v in zip(MOOD.classes, row) if v >= 0.5)
    assert "class" not in table
    one_of = replace(corpus.spec, task=Task("one", MOOD.classes))
    told = "the run predicts any of tired, tense, glad; the data ask for tired, tense, glad"
    assert differences(corpus.spec, one_of) == [told]
    assert differences(corpus.spec, corpus.spec) == []


def test_the_whole_way_from_a_file_to_locked_sums(tmp_path):
    made, protocol = generated(), "official"
    emotions = replace(made.spec, task=TASKS["mosei_emotions"])
    felt = replace(made, name="mosei", protocol=protocol, spec=emotions, labels=np.tile(made.labels, 2))
    options = dict(file=str(store_corpus(felt, tmp_path / "mosei.safetensors")))
    store, spec = Store(tmp_path / "runs"), spec_of("full", dataset="mosei", protocol=protocol, data=options)
    spec = spec.model_copy(update=dict(task="mosei_emotions", seeds=(1, 2), results=str(store.folder)))
    corpus = stored_corpus("mosei", protocol, "mosei_emotions", tmp_path / "mosei.safetensors", {})
    np.testing.assert_array_equal(corpus.labels, felt.labels)
    runs = [run_seed(spec, seed, corpus, store) for seed in spec.seeds]
    assert runs[0].metrics["test"]["n"] > 0
    sums = sums_of(runs[0])
    again = resampled(emotions.task, sums)
    np.testing.assert_allclose(again.to_numpy(), runs[0].replicates.to_numpy(), atol=1e-5)
    locked = lock(pack({("c", 1): sums}), label_key(runs[0]))
    assert unpack(unlock(locked, label_key(runs[1])))["c", 1].tolist() == sums.tolist()
    taken = [load(export_run(run, tmp_path / f"seed{run.seed}"), "cpu") for run in runs]
    told = predict_together(taken, corpus, "test")
    assert set("+".join(told["labels"]).split("+")) <= {"", *emotions.task.classes}
    counts = card(corpus)["splits"]["train"]["histogram"]
    assert counts["happy"] == np.nansum(felt.labels[felt.splits["train"], 0])
    assert list(counts) == [*emotions.task.classes, "none of them"]


@pytest.mark.parametrize("per_step", (False, True))
def test_robustness_counts_every_label(per_step):
    corpus = generated(per_step)
    subject = Subject(Training(spec_of("full"), corpus.spec, 1), corpus)
    found = probe_robustness(subject)
    assert found["metric"] == "acc_labels"
    assert found["n"] == int((~subject.batch.labels.isnan()).sum())
    assert all(0 <= c["score"] <= 1 for c in found["conditions"])


def test_labels_that_cannot_be_are_named():
    ids = np.array(["v0", "v1"])
    for labels, told in (
        ([[0, 1, 2], [0, 0, 1]], "1 labels that are neither 0 nor 1, the first: v0, 'glad' (2) (of 2)"),
        ([[0, 1, 0], [0.5, np.inf, 1]], "1 infinite labels, the first: v1, 'tense' (inf); 1 labels that"),
        ([0, 1], "labels of shape (n), not (n, 3)"),
        ([[0, 1], [1, 0]], "labels of shape (n, 2), not (n, 3)"),
    ):
        with pytest.raises(MsaPaperError) as error:
            check_labels(labels, MOOD, ids, "a file")
        assert error.value.what.startswith(told)
        assert "tired, tense, glad" in error.value.remedy
    corpus = generated()
    corpus.labels[corpus.splits["validation"], 1] = np.nan
    with pytest.raises(MsaPaperError, match="split 'validation' has a label 'tense' of task 'mood'"):
        need_labels(corpus)


def test_a_loss_that_does_not_fit_is_refused_and_no_configuration_has_another_name_now():
    corpus = generated()
    with pytest.raises(MsaPaperError, match="loss 'cross_entropy' does not fit task 'mood'"):
        Training(spec_of("lmf", loss="cross_entropy"), corpus.spec, 1)
    one = replace(corpus.spec, task=TASKS["binary"])
    with pytest.raises(MsaPaperError, match="loss 'binary_cross_entropy' does not fit task 'binary'"):
        Training(spec_of("lmf", loss="binary_cross_entropy"), one, 1)
    assert spec_hash(RunSpec()) == "0bb7fc10"
