"""What readers make of generated files: a corpus of what was written, or one sentence with file and remedy.

Every strategy writes files of a kind that readers meet: sound ones, and ones with a fault. What was written
is known, so that a corpus is checked against it and not against what the reader says of itself.
"""

import bz2
import gzip
import io
import lzma
import pickle
import re
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msa_paper.core import MsaPaperError
from msa_paper.data.cards import card, card_markdown
from msa_paper.data.mosei import mosei_videos
from msa_paper.extract.text import extract_text, read_text_features
from msa_paper.formats.bc_lstm_csv import SEGMENTS, mosi_corpus, write_generated_mosi
from msa_paper.formats.csd import Csd
from msa_paper.formats.dialogues import conversation_corpus
from msa_paper.formats.feature_files import feature_corpus
from msa_paper.formats.feature_store import open_corpus
from msa_paper.formats.folds import read_folds
from msa_paper.formats.generated_transcripts import write_generated_transcripts
from msa_paper.formats.mult import IEMOCAP_ORDER
from msa_paper.formats.npz import read_npz
from msa_paper.formats.pickles import read_pickle
from msa_paper.formats.transcripts import notes_of, transcripts
from msa_paper.formats.word_vectors import read_vectors
from msa_paper.tasks import TASKS

SPLITS = ("train", "validation", "test")
NAMES = {"train": "train", "validation": "valid", "test": "test"}
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


def tried(examples):
    "So many inputs, the same ones every time."
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=SLOW
    )


@contextmanager
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def ended(read, place):
    "What a reader ends in: a corpus, or one sentence that says what, where and what to do."
    try:
        return read()
    except MsaPaperError as error:
        assert str(place) in str(error.where), str(error)
        assert error.remedy and "\n" not in error.what and len(error.what) < 900, str(error)
        return error


def refused(end, *says):
    assert isinstance(end, MsaPaperError), f"it was read: {getattr(end, 'notes', end)}"
    assert any(re.search(s, f"{end.what} | {end.remedy}") for s in says), str(end)


def rows_of(corpus, m, n):
    cuts = corpus.offsets[m]
    return np.asarray(corpus.features[m][slice(int(cuts[n]), int(cuts[n + 1]))])


@dataclass
class Written:
    "A file's content, sample by sample, and what has to come of it."

    tree: object
    steps: dict = field(default_factory=dict)  # {modality: arrays of the samples in order}
    labels: list = field(default_factory=list)
    ids: list = field(default_factory=list)
    groups: list = field(default_factory=list)
    sizes: tuple = ()
    says: tuple = ()  # of the error; empty: it is read
    notes: dict = field(default_factory=dict)  # what is noted: {modality or '': {what: how many}}


def check_read(corpus, written):
    "The corpus holds what was written, and the card says what is noted."
    assert not isinstance(corpus, MsaPaperError), str(corpus)
    assert [len(corpus.splits[s]) for s in SPLITS] == list(written.sizes)
    assert corpus.ids.tolist() == written.ids
    assert corpus.groups.tolist() == written.groups
    np.testing.assert_array_equal(corpus.labels, np.array(written.labels, np.float32))
    for m, samples in written.steps.items():
        for n, x in enumerate(samples):
            np.testing.assert_array_equal(rows_of(corpus, m, n), x.astype(np.float32), err_msg=f"{m} {n}")
    page = card_markdown(card(corpus))
    for m, counts in written.notes.items():
        for what, count in counts.items():
            found = corpus.notes[m] if m else corpus.notes
            assert found.get(what) == count, (m, what, found)
            assert f"{count:,}" in page, page


def check_end(end, written):
    if written.says:
        refused(end, *written.says)
    else:
        check_read(end, written)


# MMSA -------------------------------------------------------------------------------------------------------

SHAPES = {"text": (5, 3), "audio": (7, 2), "vision": (6, 4)}


def padded(rng, n, T, d, side, steps=None):
    "Arrays of values that are no zeros, padded on one side, and the samples without their padding."
    lengths = rng.integers(1, T + 1, n) if steps is None else steps
    x = rng.normal(5, 1, (n, T, d)).astype(np.float32)
    at = np.arange(T)
    keep = at < lengths[:, None] if side == "right" else at >= T - lengths[:, None]
    x[~keep] = 0
    return x, lengths, [x[i][keep[i]] for i in range(n)]


def mmsa_part(rng, split, n, aligned, side, limit):
    "One split in MMSA's layout, and what it holds."
    steps = rng.integers(1, 6, n) if aligned else None
    shapes = {m: (5, d) for m, (_, d) in SHAPES.items()} if aligned else SHAPES
    found = {m: padded(rng, n, T, d, side, steps) for m, (T, d) in shapes.items()}
    words = found["text"][1]
    if side == "right":  # word pieces are never padded on the left
        mask = (np.arange(5) < words[:, None]).astype(np.float32)
        pieces = dict(text_bert=np.stack([mask * 101, mask, mask * 0], 1))
    else:
        pieces = {}
    labels = np.clip(rng.normal(0, limit / 2, n), -limit, limit).round(1).astype(np.float32)
    part = {m: x for m, (x, _, _) in found.items()} | pieces
    part |= dict(
        raw_text=np.array([f"made up {i}" for i in range(n)]),
        id=[f"{split}{i // 2}$_${i % 2}" for i in range(n)],
        regression_labels=labels,
        annotations=["x"] * n,
    )
    if not aligned:
        part |= {f"{m}_lengths": found[m][1].tolist() for m in ("audio", "vision")}
    return part, {m: samples for m, (_, _, samples) in found.items()}


def in_bytes(tree):
    "Keys as Python 2 wrote them."
    if not isinstance(tree, dict):
        return tree
    return {k.encode() if isinstance(k, str) else k: in_bytes(v) for k, v in tree.items()}


def joined_samples(parts):
    return {m: [x for _, steps in parts.values() for x in steps[m]] for m in SHAPES}


def turned(written, rng):
    "Some clips padded at the other end: read from there, as their lengths say."
    part = written.tree["train"]
    x, lengths = part["audio"], np.array(part["audio_lengths"])
    some = np.flatnonzero((lengths < x.shape[1]) & (np.arange(len(x)) % 3 == 0))
    for i in some:
        x[i] = np.roll(x[i], x.shape[1] - lengths[i] if (x[i, 0] != 0).any() else lengths[i], axis=0)
    if len(some) * 2 < (lengths < x.shape[1]).sum():
        written.notes = {"audio": {"other_end": len(some)}} if len(some) else {}


def beyond(written, rng):
    "Data on both sides of a clip's length: those outside are counted, and said on the card."
    part = written.tree["train"]
    lengths = part["audio_lengths"]
    if min(lengths[1:]) < 7:  # another clip tells the padded end
        part["audio"][0] = 1
        written.steps["audio"][0] = np.ones((lengths[0], 2))
        written.notes = {"audio": {"outside_lengths": 7 - lengths[0]}}


def labels_out(written, rng):
    written.tree["valid"]["regression_labels"][0] = rng.choice([3.2, -55, 1e6])
    written.says = (r"1 labels outside \[−",)


def labels_infinite(written, rng):
    written.tree["test"]["regression_labels"][0] = rng.choice([np.inf, -np.inf])
    written.says = ("1 infinite labels",)


def labels_missing(written, rng):
    written.tree["train"]["regression_labels"][0] = np.nan
    written.labels[0] = np.nan


def labels_gone(written, rng):
    for part in written.tree.values():
        part["regression_labels"] = part["regression_labels"] * np.nan
    written.says = ("no sample has a label",)


def labels_as_texts(written, rng):
    part = written.tree["train"]
    part["regression_labels"] = part["regression_labels"].astype(str)
    written.says = ("no array of numbers but ndarray of <U",)


def labels_too_few(written, rng):
    written.tree["train"]["regression_labels"] = written.tree["train"]["regression_labels"][:-1]
    written.says = (r"an array of shape \(\d+,\), expected",)


def labels_alone_out(written, rng):
    for part in written.tree.values():
        part["regression_labels_T"] = part["regression_labels"].copy()
    written.tree["test"]["regression_labels_T"][0] = 99
    written.says = ("1 labels outside",)


def ids_twice(written, rng):
    part = written.tree["train"]
    part["id"] = [part["id"][0]] * 2 + part["id"][2:]
    written.says = ("1 segments stand there twice, the first: train0",)


def ids_in_two_splits(written, rng):
    written.tree["test"]["id"] = [written.tree["train"]["id"][0]] + written.tree["test"]["id"][1:]
    written.says = ("1 samples stand in two splits, the first: train0",)


def ids_of_bytes(written, rng):
    for part in written.tree.values():
        part["id"] = np.array([i.encode() for i in part["id"]], object)


def ids_without_video(written, rng):
    part = written.tree["valid"]
    n, begin = len(part["id"]), written.sizes[0]
    part["id"] = [f"clip{i}" for i in range(n)]
    written.ids[begin : begin + n] = written.groups[begin : begin + n] = part["id"]
    written.notes = {"": {"groups_unknown": n}}


def ids_as_numbers(written, rng):
    written.tree["train"]["id"] = np.arange(len(written.tree["train"]["id"]))
    written.says = ("a int where a text should be",)


def video_on_both_sides(written, rng):
    part = written.tree["test"]
    part["id"] = [f"train0$_${9 + i}" for i in range(len(part["id"]))]
    begin = sum(written.sizes[:2])
    written.ids[begin:] = part["id"]
    written.groups[begin:] = ["train0"] * len(part["id"])


def lengths_too_many(written, rng):
    written.tree["train"]["audio_lengths"] = [1, *written.tree["train"]["audio_lengths"]]
    written.says = (r"\d+ lengths for \d+ samples",)


def lengths_impossible(written, rng):
    written.tree["train"]["vision_lengths"][0] = [99, -1, 1.5, float("nan")][rng.integers(4)]
    written.says = ("lengths that are no whole numbers from 0 to",)


def masks_reversed(written, rng):
    part = written.tree["train"]
    part["text_bert"] = part["text_bert"].copy()
    part["text_bert"][:, 1, 0] = 0
    part["text_bert"][:, 1, 1] = 1
    written.says = ("attention masks are not ones and then zeros",)


def entry_gone(written, rng):
    del written.tree["test"][rng.choice(["audio", "vision", "text", "id", "regression_labels"])]
    written.says = ("no entry '",)


def split_gone(written, rng):
    del written.tree[rng.choice(["train", "valid", "test"])]
    written.says = ("no entry '",)


def split_twice(written, rng):
    written.tree["dev"] = written.tree["valid"]
    written.says = ("2 entries for split 'validation'",)


def entry_beside(written, rng):
    written.tree["about"] = "made up"


def shape_wrong(written, rng):
    written.tree["train"]["vision"] = written.tree["train"]["vision"][:, 0]
    written.says = (r"an array of shape \(\d+, 4\), expected",)


def widths_differ(written, rng):
    written.tree["test"]["vision"] = written.tree["test"]["vision"][..., :3]
    written.says = (r"\[3, 4\] columns in the three splits",)


def modality_empty(written, rng):
    for part in written.tree.values():
        part["audio"] = part["audio"][..., :0]
    written.says = ("no sample has a number",)


def values_missing(written, rng):
    x = written.tree["train"]["vision"]
    k = written.tree["train"].get("vision_lengths", [1])[0]
    row = 0 if (x[0, 0] != 0).any() else -k
    x[0, row, 0] = np.nan
    rest = np.concatenate([s[:, 0] for s in written.steps["vision"][: written.sizes[0]]])
    found = written.steps["vision"][0].copy()
    found[0, 0] = np.nan
    keep = rest[1:]
    found[0, 0] = keep.sum(dtype=np.float64) / len(keep)
    written.steps["vision"][0] = found
    written.notes = {"vision": {"nan": 1, "replaced_steps": 1}}


def values_gone(written, rng):
    for part in written.tree.values():
        part["vision"] = np.full_like(part["vision"], np.nan)
    written.says = ("values is a number",)


def modality_silent(written, rng):
    for part in written.tree.values():
        part["audio"] = np.zeros_like(part["audio"])
    written.says = ("steps of training are zeros alone", "no sample has a step within its length")


def lengths_of_nothing(written, rng):
    for part in written.tree.values():
        part["vision_lengths"] = [0] * len(part["vision_lengths"])
    written.says = ("no sample has a step within its length",)


def a_list_instead(written, rng):
    written.tree = [written.tree]
    written.says = ("a list where a dictionary should be",)


ANY_MMSA = (
    *(labels_out, labels_infinite, labels_missing, labels_gone, labels_as_texts, labels_too_few),
    *(labels_alone_out, ids_twice, ids_in_two_splits, ids_of_bytes, ids_without_video, ids_as_numbers),
    *(video_on_both_sides, entry_gone, split_gone, split_twice, entry_beside, shape_wrong, widths_differ),
    *(modality_empty, modality_silent, values_gone, a_list_instead, None),
)
OWN_CLOCKS = (turned, beyond, lengths_too_many, lengths_impossible, lengths_of_nothing, values_missing, None)


@st.composite
def mmsa_files(draw):
    aligned = draw(st.booleans())
    side = draw(st.sampled_from(["right", "left"]))
    fault = draw(st.sampled_from(ANY_MMSA + (() if aligned else OWN_CLOCKS * 3)))
    limit = draw(st.sampled_from([3.0, 1.0]))
    sizes = tuple(draw(st.integers(3, 6)) for _ in SPLITS)
    seed = draw(st.integers(0, 10**6))
    return aligned, side, fault, limit, sizes, seed, draw(st.integers(0, 5)), draw(st.booleans())


def written_mmsa(aligned, side, fault, limit, sizes, seed):
    rng = np.random.default_rng(seed)
    parts = {s: mmsa_part(rng, name, n, aligned, side, limit) for (s, name), n in zip(NAMES.items(), sizes)}
    if not aligned:
        for part, steps in parts.values():  # somebody's file has no sample that fills the array on both
            for m in ("audio", "vision"):
                x, k = part[m], part[f"{m}_lengths"]
                if k[0] == x.shape[1]:
                    row = -1 if side == "right" else 0
                    x[0, row] = 0
                    k[0] -= 1
                    steps[m][0] = steps[m][0][:-1] if side == "right" else steps[m][0][1:]
    ids = [i for part, _ in parts.values() for i in part["id"]]
    labels = np.concatenate([part["regression_labels"] for part, _ in parts.values()]).tolist()
    tree = {NAMES[s]: part for s, (part, _) in parts.items()}
    written = Written(tree, joined_samples(parts), labels, ids, [i.split("$_$")[0] for i in ids], sizes)
    if fault is not None:
        fault(written, rng)
    return written


def read_mmsa(path, limit):
    dataset, task = ("mosi", "regression") if limit == 3 else ("sims", "sims_regression")
    return feature_corpus(dataset, "official", task, str(path), any_size=True)


@tried(150)
@given(mmsa_files())
def test_mmsa_files_are_read_right_or_refused(case):
    aligned, side, fault, limit, sizes, seed, protocol, python2 = case
    written = written_mmsa(aligned, side, fault, limit, sizes, seed)
    with folder() as place:
        path = place / "features.pkl"
        path.write_bytes(pickle.dumps(in_bytes(written.tree) if python2 else written.tree, protocol))
        end = ended(lambda: read_mmsa(path, limit), path)
        check_end(end, written)
        if not written.says:
            page = card_markdown(card(end))
            assert ("entries of the file that are not read: about" in page) == (fault is entry_beside)
            assert ("The same video or dialogue in two splits" in page) == (fault is video_on_both_sides)


# MulT and LMF -----------------------------------------------------------------------------------------------


def emotions_of(rng, n):
    "One of four emotions a sample, in pairs of columns, and the class of each."
    emotion = rng.integers(4, size=n)
    yes = np.arange(4) == emotion[:, None]
    classes = [TASKS["iemocap4"].classes.index(IEMOCAP_ORDER[e]) for e in emotion]
    return np.stack([~yes, yes], -1).astype(int), classes


def mult_part(rng, split, n, iemocap, with_ids):
    found = {m: padded(rng, n, T, d, "left") for m, (T, d) in SHAPES.items()}
    part = {m: x for m, (x, _, _) in found.items()}
    if iemocap:
        part["labels"], labels = emotions_of(rng, n)
    else:
        labels = np.clip(rng.normal(0, 1.5, n), -3, 3).round(1)
        part["labels"] = labels[:, None, None]
    ids = [f"{split}_{i}" for i in range(n)]
    groups = ids
    if with_ids:
        part["id"] = np.array([[f"{split}{i // 2}".encode(), str(i), str(i + 1)] for i in range(n)], object)
        ids, groups = (
            [f"{split}{i // 2}_{i}_{i + 1}" for i in range(n)],
            [f"{split}{i // 2}" for i in range(n)],
        )
    return part, {m: samples for m, (_, _, samples) in found.items()}, list(labels), ids, groups


def open_ends(parts):
    "Samples whose arrays have zeros at the end that MulT does not pad."
    return {m: sum(int((part[m][:, -1] == 0).all(1).sum()) for part in parts) for m in ("audio", "vision")}


def ids_repeat(written, rng):
    part = written.tree["train"]
    if "id" in part:
        part["id"][1] = part["id"][0]
        n = written.sizes[0]
        again = ["train0_0_1", "train0_0_1", *written.ids[2:n]]
        written.ids[:n] = [f"{i}#{k}" for k, i in enumerate(again)]
        written.notes |= {"": {"ids_repeated": 1}}


def ids_too_few(written, rng):
    part = written.tree["valid"]
    part["id"] = [["v", "0", "1"]]
    written.says = (r"no \d+ ids",)


def mult_split_again(written, rng):
    if "id" in written.tree["train"]:
        written.tree["test"]["id"][0] = written.tree["train"]["id"][0]
        written.says = ("1 samples stand in two splits, the first: train0_0_1",)


def mult_labels_out(written, rng):
    written.tree["train"]["labels"] = written.tree["train"]["labels"] * 0 + 9
    written.says = ("labels outside", "no pairs of 0 and 1")


def mult_entry_gone(written, rng):
    del written.tree["train"]["vision"]
    written.says = ("no entry 'vision'",)


MULT_FAULTS = (
    ids_repeat,
    ids_too_few,
    mult_split_again,
    mult_labels_out,
    mult_entry_gone,
    split_gone,
    None,
    None,
)


@tried(35)
@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from(MULT_FAULTS),
    st.tuples(*[st.integers(3, 6)] * 3),
    st.integers(0, 10**6),
    st.integers(0, 5),
    st.booleans(),
)
def test_mult_files_are_read_right_or_refused(iemocap, with_ids, fault, sizes, seed, protocol, python2):
    rng = np.random.default_rng(seed)
    found = {s: mult_part(rng, s, n, iemocap, with_ids) for s, n in zip(SPLITS, sizes)}
    tree = {NAMES[s]: part for s, (part, *_) in found.items()}
    samples = joined_samples({s: x[:2] for s, x in found.items()})
    labels, ids, groups = ([v for x in found.values() for v in x[k]] for k in (2, 3, 4))
    written = Written(tree, samples, labels, ids, groups, sizes)
    written.notes = {} if with_ids else {"": {"groups_unknown": len(ids)}}
    if fault is not None:
        fault(written, rng)
    dataset, task = ("iemocap", "iemocap4") if iemocap else ("mosi", "regression")
    protocol_of = "A" if iemocap else "official"
    with folder() as place:
        path = place / "mult.pkl"
        path.write_bytes(pickle.dumps(in_bytes(tree) if python2 else tree, protocol))
        some = dict(format="mult", any_size=True)
        check_end(ended(lambda: feature_corpus(dataset, protocol_of, task, str(path), **some), path), written)


def lmf_part(rng, n):
    words, _, samples = padded(rng, n, 5, 3, "left")
    audio, vision = rng.normal(5, 1, (n, 2)), rng.normal(5, 1, (n, 4))
    part = {"glove": words, "covarep": audio, "facet": vision}
    return part, {"text": samples, "audio": list(audio[:, None]), "vision": list(vision[:, None])}


def lmf_entry_gone(written, rng):
    holder = next(iter(written.tree.values()))
    part = holder.get("train", holder)
    del part["facet"]
    written.says = ("no entry 'facet'",)


def lmf_words_gone(written, rng):
    holder = next(iter(written.tree.values()))
    part = holder.get("train", holder)
    part["covarep"] = np.full_like(part["covarep"], np.nan)
    part["glove"] = part["glove"][:, 0]
    written.says = ("an array of shape",)


def lmf_split_gone(written, rng):
    holder = next(iter(written.tree.values()))
    del (holder if "test" in holder else written.tree)["test"]
    written.says = ("no entry 'test'",)


@tried(20)
@given(
    st.booleans(),
    st.sampled_from([lmf_entry_gone, lmf_words_gone, lmf_split_gone, None, None]),
    st.tuples(*[st.integers(3, 6)] * 3),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_lmf_files_are_read_right_or_refused(iemocap, fault, sizes, seed, python2):
    rng = np.random.default_rng(seed)
    parts = {s: lmf_part(rng, n) for s, n in zip(SPLITS, sizes)}
    labels, tree = [], {e: {} for e in IEMOCAP_ORDER} if iemocap else {}
    for (s, (part, _)), n in zip(parts.items(), sizes):
        pairs, classes = emotions_of(rng, n)
        y = np.clip(rng.normal(0, 1.5, n), -3, 3).round(1)
        labels += list(classes if iemocap else y)
        for k, e in enumerate(IEMOCAP_ORDER if iemocap else ()):
            tree[e][NAMES[s]] = part | {"label": pairs[:, k]}
        if not iemocap:
            tree[NAMES[s]] = part | {"label": y[:, None]}
    ids = [f"{s}_{i}" for s, n in zip(SPLITS, sizes) for i in range(n)]
    written = Written(
        tree, joined_samples(parts), labels, ids, ids, sizes, notes={"": {"groups_unknown": len(ids)}}
    )
    if fault is not None:
        fault(written, rng)
    dataset, task = ("iemocap", "iemocap4") if iemocap else ("mosi", "regression")
    with folder() as place:
        path = place / "lmf.pkl"
        path.write_bytes(pickle.dumps(in_bytes(tree) if python2 else tree, 2))
        some = dict(format="lmf", any_size=True)
        check_end(ended(lambda: feature_corpus(dataset, "A", task, str(path), **some), path), written)


# Dialogues --------------------------------------------------------------------------------------------------

IEMOCAP_WORDS = ("happiness", "sadness", "neutral", "anger", "excited", "frustration")
FOUR = dict(happiness=0, sadness=1, anger=2, neutral=3, excited=0)


@dataclass
class Talk:
    "Dialogues as they were written: names in order, utterances, classes, and what each dialogue is for."

    names: list
    utterances: dict
    classes: dict
    vectors: dict
    use: dict  # {dialogue: 'train', 'test' or ''}


def talk(rng, dialogues):
    names = [f"Ses0{k % 5 + 1}_{k}" for k in range(dialogues)]
    utterances = {d: [f"{d}_{i}" for i in range(rng.integers(1, 5))] for d in names}
    classes = {d: rng.integers(6, size=len(v)).tolist() for d, v in utterances.items()}
    dims = dict(text=3, audio=2, vision=4)
    vectors = {
        m: {d: list(rng.normal(size=(len(v), n))) for d, v in utterances.items()} for m, n in dims.items()
    }
    use = {d: "test" if k >= dialogues - 2 else "train" for k, d in enumerate(names)}
    return Talk(names, utterances, classes, vectors, use)


def as_tuple(t, meld):
    "The field's tuple."
    speakers = {d: ["MF"[i % 2] for i in range(len(v))] for d, v in t.utterances.items()}
    lists = [[d for d in t.names if t.use[d] == use] for use in ("train", "test")]
    text, audio, vision = t.vectors.values()
    said = {d: [f"made up {i}" for i in v] for d, v in t.utterances.items()}
    if meld:
        counted = {d: list(range(len(v))) for d, v in t.utterances.items()}
        return [counted, speakers, t.classes, text, audio, said, *lists, t.classes]
    return [dict(t.utterances), speakers, t.classes, text, audio, vision, said, *lists]


def in_bytes_everywhere(x):
    if isinstance(x, dict):
        return {in_bytes_everywhere(k): in_bytes_everywhere(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [in_bytes_everywhere(v) for v in x]
    return x.encode() if isinstance(x, str) else x


def tuple_in_no_list(t, tree):
    d = t.names[0]
    tree[-2 if len(tree[-1]) < 9 and isinstance(tree[-1], list) else -3].remove(d)
    t.use[d] = ""


def tuple_label_wrong(t, tree):
    tree[2][t.names[1]] = [9] * len(tree[2][t.names[1]])
    return "labels are not one of 0"


def tuple_on_both_sides(t, tree):
    lists = [x for x in tree if isinstance(x, list)]
    lists[1].append(lists[0][0])
    return "1 dialogues are in train and in test"


def tuple_unknown_dialogue(t, tree):
    [x for x in tree if isinstance(x, list)][0].append("nobody")
    return "1 dialogues of train and test have no utterances, the first: nobody"


def tuple_without_test(t, tree):
    [x for x in tree if isinstance(x, list)][1].clear()
    return "no test dialogue is named"


def tuple_short_features(t, tree):
    d = max(t.names, key=lambda d: len(t.utterances[d]))
    tree[3] = dict(tree[3]) | {d: tree[3][d][:-1]}
    return r"\d entries for the \d utterances of dialogue"


def tuple_without_features(t, tree):
    tree[4] = {d: x for d, x in tree[4].items() if d != t.names[2]}
    return r"no entries for the \d utterances of dialogue"


def tuple_widths(t, tree):
    tree[4] = dict(tree[4]) | {t.names[2]: [np.ones(7)] * len(t.utterances[t.names[2]])}
    return "vectors of different sizes"


def tuple_more_features(t, tree):
    tree[4] = dict(tree[4]) | {"nobody": [np.ones(2)]}
    t.more = 1


def tuple_values_missing(t, tree):
    tree[3] = dict(tree[3]) | {t.names[0]: [np.full(3, np.nan)] * len(t.utterances[t.names[0]])}
    return "NaN or infinite values in"


def tuple_longer(t, tree):
    tree += [dict(tree[3])] * 3
    return "where nine are known: it is laid out like a newer tuple"


def tuple_ids_twice(t, tree):
    d = max(t.names, key=lambda d: len(t.utterances[d]))
    ids = tree[0][d]
    tree[0] = dict(tree[0]) | {d: [ids[0]] * len(ids)}
    return "segments stand there twice" if len(ids) > 1 else None


TUPLE_FAULTS = (
    *(tuple_in_no_list, tuple_label_wrong, tuple_on_both_sides, tuple_unknown_dialogue, tuple_without_test),
    *(tuple_short_features, tuple_without_features, tuple_widths, tuple_more_features, tuple_values_missing),
    *(tuple_longer, tuple_ids_twice, None, None),
)


def check_dialogues(corpus, t, meld, labels):
    "Dialogues, labels and vectors are those that were written, and the test is the test."
    assert not isinstance(corpus, MsaPaperError), str(corpus)
    used = [d for d in t.names if t.use[d]]
    assert corpus.ids.tolist() == used
    assert sorted(corpus.ids[corpus.splits["test"]].tolist()) == sorted(d for d in used if t.use[d] == "test")
    assert sum(len(corpus.splits[s]) for s in SPLITS) == len(used)
    names = [f"{d}_{i}" if meld else u for d in used for i, u in enumerate(t.utterances[d])]
    assert corpus.step_ids.tolist() == names
    np.testing.assert_array_equal(corpus.labels, np.concatenate([labels(d) for d in used]))
    for m in corpus.spec.modalities:
        x = np.concatenate([np.stack(t.vectors[m][d]) for d in used]).astype(np.float32)
        np.testing.assert_array_equal(corpus.features[m], x)
    lost = sum(len(t.utterances[d]) for d in t.names if not t.use[d])
    assert corpus.notes.get("in_no_split", 0) == lost
    assert corpus.notes.get("dialogues_without_ids", 0) == getattr(t, "more", 0)
    page = card_markdown(card(corpus))
    assert (f"{lost:,} in no split, left out" in page) == (lost > 0)
    assert ("dialogues without ids" in page) == hasattr(t, "more")


@tried(50)
@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from(TUPLE_FAULTS),
    st.integers(12, 16),
    st.integers(0, 10**6),
    st.integers(0, 5),
)
def test_tuples_of_dialogues_are_read_right_or_refused(meld, python2, fault, dialogues, seed, protocol):
    t = talk(np.random.default_rng(seed), dialogues)
    tree = as_tuple(t, meld)
    says = fault(t, tree) if fault is not None else None
    dataset, task = ("meld", "meld_emotions") if meld else ("iemocap", "iemocap4")
    with folder() as place:
        path = place / "dialogues.pkl"
        path.write_bytes(pickle.dumps(tuple(in_bytes_everywhere(tree) if python2 else tree), protocol))
        end = ended(lambda: conversation_corpus(dataset, "context", task, path, any_size=True), path)
        if says:
            return refused(end, says)

        def labels(d):
            words = [IEMOCAP_WORDS[c] for c in t.classes[d]]
            return t.classes[d] if meld else [FOUR.get(w, np.nan) for w in words]

        check_dialogues(end, t, meld, labels)
        other, at = ("iemocap", "iemocap4") if meld else ("meld", "meld_emotions")
        wrong = ended(lambda: conversation_corpus(other, "context", at, path, any_size=True), path)
        refused(wrong, f"it is laid out like {'MELD' if meld else 'IEMOCAP'}'s tuple of dialogues")


def open_arrays(t):
    "The open format of dialogues."
    d = np.repeat(t.names, [len(t.utterances[n]) for n in t.names])
    order = [c for n in t.names for c in t.classes[n]]
    return dict(
        utterance_id=np.array([u for n in t.names for u in t.utterances[n]]),
        dialogue_id=d,
        speaker=np.array(["M"] * len(d)),
        emotion=np.array([IEMOCAP_WORDS[c] for c in order]),
        split=np.array([t.use[n] for n in d]),
        **{m: np.concatenate([np.stack(x[n]) for n in t.names]) for m, x in t.vectors.items()},
    )


ARRAYS = {  # what is changed → what is said; None: it is read
    "nothing": None,
    "texts as bytes": None,
    "word": "1 of .* labels are no word of task 'iemocap4': 'Joy'",
    "split": "unknown split 'dev'",
    "no speaker": "no entry 'speaker'",
    "short": "an array of shape",
    "flat": r"an array of shape \(\d+,\), expected",
    "no modality": "no modality",
    "twice": "segments stand there twice",
    "both sides": "1 dialogues are in train and in test",
    "apart": "the utterances of a dialogue do not stand together",
    "infinite": "NaN or infinite values in 1 utterances",
    "texts": "no array of numbers but ndarray of <U",
}


def changed_arrays(arrays, what):
    n = len(arrays["split"])
    some = {
        "texts as bytes": lambda: {k: np.char.encode(v) for k, v in arrays.items() if v.dtype.kind == "U"},
        "word": lambda: dict(emotion=np.r_[["Joy"], arrays["emotion"][1:]]),
        "split": lambda: dict(split=np.r_[["dev"], arrays["split"][1:]]),
        "no speaker": lambda: dict(speaker=None),
        "short": lambda: dict(audio=arrays["audio"][:-1]),
        "flat": lambda: dict(pitch=np.ones(n)),
        "no modality": lambda: dict(text=None, audio=None, vision=None),
        "twice": lambda: dict(utterance_id=np.full(n, "a")),
        "both sides": lambda: dict(split=np.r_[["train"], ["train"] * (n - 1)]),
        "apart": lambda: dict(dialogue_id=np.r_[arrays["dialogue_id"][1:], arrays["dialogue_id"][:1]]),
        "infinite": lambda: dict(text=np.r_[arrays["text"][:1] * np.inf, arrays["text"][1:]]),
        "texts": lambda: dict(gaze=np.full((n, 2), "x")),
    }
    return {k: v for k, v in (arrays | some.get(what, dict)()).items() if v is not None}


@tried(30)
@given(st.sampled_from(sorted(ARRAYS)), st.integers(12, 16), st.integers(0, 10**6))
def test_open_dialogues_are_read_right_or_refused(what, dialogues, seed):
    t = talk(np.random.default_rng(seed), dialogues)
    for d in t.names[:2] + t.names[-2:]:  # a dialogue that can be cut has two utterances
        if len(t.utterances[d]) < 2:
            t.utterances[d] = [f"{d}_0", f"{d}_1"]
            t.classes[d] = [0, 2]
            for x in t.vectors.values():
                x[d] = [x[d][0]] * 2
    arrays = open_arrays(t)
    if what == "both sides":
        arrays["split"][0] = "test"
    changed = arrays if what == "both sides" else changed_arrays(arrays, what)
    with folder() as place:
        path = place / "dialogues.npz"
        np.savez(path, **changed)
        end = ended(lambda: conversation_corpus("iemocap", "context", "iemocap4", path, any_size=True), path)
        if ARRAYS[what]:
            return refused(end, ARRAYS[what])
        check_dialogues(end, t, False, lambda d: [FOUR.get(IEMOCAP_WORDS[c], np.nan) for c in t.classes[d]])


# Tables -----------------------------------------------------------------------------------------------------

TABLE_OF = {"mosi": "label.csv", "mosei": "valid.tsv", "sims": "sims_transcripts.csv"}
LINES = {  # what is done to the lines of a table → what is said; None: it is read
    "nothing": None,
    "marked": None,  # as Excel writes UTF-8
    "crlf": None,
    "twice": "segments stand there twice",
    "header gone": "no column '|not a table",
    "semicolons": "no column '|not a table",
    "latin": "not a table",
    "utf-16": "a text in UTF-16, not a table",
    "page": r"a web page \(HTML\), not a table",
    "pointer": "a pointer of Git LFS, not a table",
    "packed": "a gzip archive, not a table",
    "empty": "not a table",
}


def changed_table(raw, what):
    lines = raw.splitlines(keepends=True)
    separator = b"\t" if b"\t" in lines[0] else b","
    return {
        "marked": b"\xef\xbb\xbf" + raw,
        "crlf": raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
        "twice": raw + lines[1],
        "header gone": b"".join(lines[1:]),
        "semicolons": raw.replace(separator, b";"),
        "latin": raw + b"caf\xe9" + lines[1],
        "utf-16": raw.decode().encode("utf-16"),
        "page": b"<!DOCTYPE html><html><body>sign in, please</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "packed": gzip.compress(raw),
        "empty": b"",
    }.get(what, raw)


@tried(40)
@given(
    st.sampled_from(sorted(TABLE_OF)),
    st.sampled_from(sorted(LINES)),
    st.tuples(*[st.integers(3, 9)] * 3),
    st.integers(0, 1000),
)
def test_tables_of_transcripts_are_read_right_or_refused(dataset, what, sizes, seed):
    with folder() as place:
        write_generated_transcripts(place, dataset, sizes, seed)
        good = transcripts(dataset, place, True)
        path = place / dataset / TABLE_OF[dataset]
        path.write_bytes(changed_table(path.read_bytes(), what))
        end = ended(lambda: transcripts(dataset, place, True), place)
        if LINES[what]:
            return refused(end, LINES[what])
        assert end.equals(good)
        assert [int((end.split == s).sum()) for s in SPLITS] == list(sizes)


@tried(15)
@given(
    st.sampled_from(["more texts", "fewer texts", "more rows", "fewer rows", "no row"]), st.integers(0, 1000)
)
def test_tables_that_do_not_belong_together(what, seed):
    "Ids that only one of two tables has are counted, or an error where the label has no text."
    with folder() as place:
        dataset = "sims" if "texts" in what else "mosei"
        write_generated_transcripts(place, dataset, (6, 4, 4), seed)
        path = place / dataset / ("sims_transcripts.csv" if dataset == "sims" else "emotions.csv")
        table = pd.read_csv(path)
        more = table.iloc[:2].assign(
            **({"name": ["x_0", "x_1"]} if dataset == "sims" else {"id": ["x", "y"]})
        )
        changed = {
            "more texts": pd.concat([table, more]),
            "fewer texts": table.iloc[:-1],
            "more rows": pd.concat([table, more]),
            "fewer rows": table.iloc[:-3],
            "no row": more,
        }[what]
        changed.to_csv(path, index=False)
        end = ended(lambda: transcripts(dataset, place, True), place)
        says = {
            "fewer texts": "1 segments without a transcript",
            "no row": "none of the 14 segments is in the table",
        }
        if what in says:
            return refused(end, says[what])
        expected = {"more texts": dict(texts_without_label=2), "fewer rows": dict(emotions_not_joined=3)}
        assert notes_of(end) == expected.get(what, {})
        assert len(end) == 14


@pytest.fixture(scope="module")
def bc_lstm(tmp_path_factory):
    return write_generated_mosi(tmp_path_factory.mktemp("bc_lstm"))


CSV_FAULTS = {
    "row": "segments, expected",
    "column": "74 columns|columns, expected|not a table of numbers",
    "empty cell": "NaN, empty or infinite values in 1 rows, the first is row 3",
    "infinite": "NaN, empty or infinite values in 1 rows, the first is row 3",
    "word": "not a table of numbers",
    "sign": "1 segments whose binary label contradicts the official one",
    "page": r"a web page \(HTML\), not a table",
    "packed": "a gzip archive, not a table",
    "nothing": None,
}


def changed_numbers(raw, what):
    lines = raw.decode().splitlines()
    cells = lines[2].split(",")
    changes = {
        "empty cell": ["", *cells[1:]],
        "infinite": ["inf", *cells[1:]],
        "word": ["soon", *cells[1:]],
        "column": cells[1:],
        "sign": [*cells[:-1], "0.0" if float(cells[-1]) else "1.0"],
    }
    if what == "column":
        return "\n".join(line.partition(",")[2] for line in lines).encode()
    if what == "row":
        return "\n".join(lines[:-1]).encode()
    if what in ("page", "packed"):
        return changed_table(raw, what)
    return "\n".join([*lines[:2], ",".join(changes.get(what, cells)), *lines[3:]]).encode()


@tried(12)
@given(st.sampled_from(sorted(CSV_FAULTS)), st.sampled_from(["audio_test0", "video_train0"]))
def test_bc_lstm_tables_are_read_right_or_refused(bc_lstm, what, name):
    path = bc_lstm / "mosi" / "bclstm" / f"{name}.csv"
    good = path.read_bytes()
    try:
        path.write_bytes(changed_numbers(good, what))
        end = ended(lambda: mosi_corpus(folder=bc_lstm), bc_lstm)
        if CSV_FAULTS[what]:
            return refused(end, CSV_FAULTS[what])
        m, part = ("audio", "test") if name.startswith("audio") else ("vision", "train")
        table = np.loadtxt(io.BytesIO(good), delimiter=",")
        read = np.concatenate([rows_of(end, m, n) for n in range(len(end))])
        there = {row.tobytes() for row in read}
        assert len(table) == SEGMENTS[part] and len(read) == sum(SEGMENTS.values())
        assert all(row.astype(np.float32).tobytes() in there for row in table[:, :-1])
    finally:
        path.write_bytes(good)


# Texts ------------------------------------------------------------------------------------------------------

NOTHING = ("", " ", "\n\t", "\u200b\u200d", "\ufffd", "\x00\x01", "\ufe0f", "\u00ad", "\u2028 \u2029", None)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    "A tiny encoder with random weights."
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    (place / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    layers = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config = BertConfig(vocab_size=len(words), pad_token_id=0, max_position_embeddings=16, **layers)
    BertModel(config).save_pretrained(place)
    BertTokenizerFast(str(place / "vocab.txt"), model_max_length=16).save_pretrained(place)
    return str(place)


SAID = st.lists(st.sampled_from(["good", "bad", "film", "unheard"]), min_size=1, max_size=20).map(" ".join)


@tried(25)
@given(st.lists(st.one_of(SAID, st.sampled_from(NOTHING), st.text(max_size=4)), min_size=1, max_size=6))
def test_texts_are_counted_for_what_they_are(encoder, texts):
    ids = [f"t{i}" for i in range(len(texts))]
    with folder() as place:
        try:
            found = read_text_features(extract_text(ids, texts, place, progress=False, model=encoder))
        except MsaPaperError as error:
            assert error.remedy and error.where
            unknown = "none of the .* tokens" in error.what or "none of" in error.what
            return refused(error, "transcripts are no text") if not unknown else None
        steps = np.diff(found.offsets)
        for text, n in zip(texts, steps):
            words = (text or "").split()
            if text in NOTHING:
                assert n == 0, repr(text)
            elif all(w in ("good", "bad", "film", "unheard") for w in words):
                assert n == min(len(words) + 2, 16)
        said = [t for t, n in zip(texts, steps) if n]
        assert found.facts["empty"] == len(texts) - len(said)
        assert found.facts["unknown"] >= sum(t.split()[:14].count("unheard") for t in said)
        assert found.facts["truncated"] >= sum(len(t.split()) > 14 for t in said)


# What is no such file ---------------------------------------------------------------------------------------


def zipped(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "made up")
    return stream.getvalue()


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("features.pkl"))
    return stream.getvalue()


def arrays():
    stream = io.BytesIO()
    np.savez(stream, words=np.array(["a"]), emb=np.ones((1, 2)))
    return stream.getvalue()


OTHERS = {  # content → what is said, and advised
    "a web page": (b"<!DOCTYPE html><title>Quota exceeded</title>", "fetch it again"),
    "a message of a server": (b"404: Not Found", "fetch it again"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "the pointer"),
    "a pointer of git-annex": (b"/annex/objects/SHA256E-s9--0.pkl\n", "the pointer"),
    "a file of zeros": (bytes(4096), "fetch it again"),
    "a JSON text": (b'{"error": 403}', "fetch it again"),
    "a gzip archive": (gzip.compress(b"made up"), "unpack it"),
    "an xz archive": (lzma.compress(b"made up"), "unpack it"),
    "a bzip2 archive": (bz2.compress(b"made up"), "unpack it"),
    "compressed by zlib": (zlib.compress(b"made up"), "unpack it"),
    "a zip archive": (zipped("features.pkl"), "unpack it"),
    "a tar archive": (tarred(), "unpack it"),
    "a rar archive": (b"Rar!\x1a\x07\x01\0" + bytes(9), "unpack it"),
    "a 7z archive": (b"7z\xbc\xaf\x27\x1c" + bytes(9), "unpack it"),
    "a file of PyTorch": (zipped("archive/data.pkl"), "as NumPy's arrays"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(64), "name the reader"),
    "an archive of NumPy's arrays": (arrays(), "name the reader|source='words'"),
    "a safetensors file": ((64).to_bytes(8, "little") + b'{"a":{"dtype":"F32"', "name the reader"),
    "a Parquet file": (b"PAR1" + bytes(9), "name the reader"),
    "a pickle": (pickle.dumps({"made": "up"}), "name the reader"),
}


READERS = {  # what is read → its reader, and the contents that are right for it
    "pickle": (read_pickle, ("a pickle",)),
    "features": (lambda path: read_mmsa(path, 3), ("a pickle",)),
    "dialogues.pkl": (lambda p: conversation_corpus("meld", "context", "meld_emotions", p), ("a pickle",)),
    "arrays.npz": (read_npz, ("an archive of NumPy's arrays",)),
    "vectors.npz": (read_vectors, ("an archive of NumPy's arrays",)),
    "sequence.csd": (Csd, ("an HDF5 file",)),
    "folds.json": (read_folds, ("a JSON text",)),
    "store.safetensors": (open_corpus, ("a safetensors file", "a JSON text")),
    "texts.safetensors": (read_text_features, ("a safetensors file", "a JSON text")),
}


@tried(60)
@given(st.sampled_from(sorted(OTHERS)), st.sampled_from(sorted(READERS)), st.booleans())
def test_what_is_no_such_file_is_named(what, name, blank):
    content, advice = OTHERS[what]
    read, right = READERS[name]
    content = b"\n" + content if blank and what in ("a web page", "a JSON text") else content
    with folder() as place:
        path = place / name
        path.write_bytes(content)
        if what not in right:
            end = ended(lambda: read(path), path)
            assert isinstance(end, MsaPaperError) and end.what.startswith(what), str(end)
            assert re.search(advice, end.remedy), str(end)


TEXTS = st.dictionaries(st.text(st.characters(codec="latin-1"), max_size=5), st.text(max_size=5), max_size=3)


@tried(40)
@given(TEXTS, st.integers(0, 10**6), st.integers(0, 5))
def test_every_protocol_and_its_changed_line_ends(texts, seed, protocol):
    rng = np.random.default_rng(seed)
    value = dict(texts=texts, x=rng.normal(size=(3, 2)), n=[1, None, 2.5, True], y=rng.integers(9, size=4))
    value["more"] = {f"line {i}": b"\n\r\n" for i in range(40)}
    raw = pickle.dumps(value, protocol)
    with folder() as place:
        path = place / "value.pkl"
        path.write_bytes(raw)
        found = read_pickle(path)
        assert found["texts"] == texts and found["n"] == value["n"] and found["more"] == value["more"]
        assert np.array_equal(found["x"], value["x"]) and np.array_equal(found["y"], value["y"])
        path.write_bytes(raw.replace(b"\n", b"\r\n"))
        end = ended(lambda: read_pickle(path), path)
        refused(end, "line ends were changed to CRLF.*binary")
        assert ("dos2unix" in end.remedy) == (protocol == 0)
        path.write_bytes(raw[: int(rng.integers(1, len(raw)))])
        refused(ended(lambda: read_pickle(path), path), ".")


# Files of another layout ------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
LAID_OUT = {  # whose layout → a file, how it is read
    "MMSA's pickle": ({NAMES[s]: mmsa_part(RNG, s, 3, True, "right", 3)[0] for s in SPLITS}, "format='mmsa'"),
    "MulT's pickle of sentiments": (
        {NAMES[s]: mult_part(RNG, s, 3, False, True)[0] for s in SPLITS},
        "format='mult' of mosi",
    ),
    "MulT's pickle of IEMOCAP": (
        {NAMES[s]: mult_part(RNG, s, 3, True, True)[0] for s in SPLITS},
        "format='mult' of iemocap",
    ),
    "LMF's pickle of MOSI": (
        {NAMES[s].encode(): in_bytes(lmf_part(RNG, 3)[0]) | {b"label": np.zeros((3, 1))} for s in SPLITS},
        "format='lmf' of mosi",
    ),
    "IEMOCAP's tuple of dialogues": (as_tuple(talk(RNG, 12), False), "source='conversations' of iemocap"),
    "MELD's tuple of dialogues": (as_tuple(talk(RNG, 12), True), "source='conversations' of meld"),
    "MAG-BERT's and MISA's lists": (
        {s: [[[["so"], [1], [2]], [[0.5]], "v[0]"]] for s in ("train", "dev", "test")},
        "no reader knows it",
    ),
}


def features_reader(kind, dataset, task):
    some = dict(format=kind, any_size=True)
    return lambda path: feature_corpus(dataset, "A", task, str(path), **some)


OF_LAYOUT = {
    "MMSA's pickle": features_reader("mmsa", "mosi", "regression"),
    "MulT's pickle of sentiments": features_reader("mult", "mosi", "regression"),
    "MulT's pickle of IEMOCAP": features_reader("mult", "iemocap", "iemocap4"),
    "LMF's pickle of MOSI": features_reader("lmf", "mosi", "regression"),
    "IEMOCAP's tuple of dialogues": lambda p: conversation_corpus(
        "iemocap", "context", "iemocap4", p, 0, True
    ),
    "MELD's tuple of dialogues": lambda p: conversation_corpus("meld", "context", "meld_emotions", p),
}


@pytest.mark.parametrize("read_as", OF_LAYOUT)
@pytest.mark.parametrize("layout", LAID_OUT)
def test_a_file_of_another_layout_is_told_which(layout, read_as, tmp_path):
    tree, advice = LAID_OUT[layout]
    path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps(tree, 2))
    end = ended(lambda: OF_LAYOUT[read_as](path), path)
    if layout == read_as:
        assert not isinstance(end, MsaPaperError), str(end)
    else:
        refused(end, re.escape(f"it is laid out like {layout}"))
        assert advice in end.remedy


NPZ_LAYOUTS = {
    "the open format of dialogues": open_arrays(talk(RNG, 12)),
    "a table of word vectors": dict(words=np.array(["a"]), emb=np.ones((1, 2))),
    "the labels of CH-SIMS": {f"{s}_corpus": np.array({"a": 1}, object) for s in ("train", "val", "test")},
}


@pytest.mark.parametrize("layout", NPZ_LAYOUTS)
def test_an_archive_of_another_layout_is_told_which(layout, tmp_path):
    place = tmp_path / "mosei" / "video_level"
    place.mkdir(parents=True)
    np.savez(place / "video_level_922.npz", **NPZ_LAYOUTS[layout])
    end = ended(lambda: mosei_videos(folder=tmp_path, any_size=True), tmp_path)
    refused(end, f"it is laid out like {layout}")
    (place / "video_level_922.npz").rename(tmp_path / "dialogues.pkl")
    path = tmp_path / "dialogues.pkl"
    for read in (OF_LAYOUT["MMSA's pickle"], OF_LAYOUT["MELD's tuple of dialogues"]):
        refused(ended(lambda: read(path), path), f"an archive of NumPy's arrays .*laid out like {layout}")
