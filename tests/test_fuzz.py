"""Damaged files of every kind: data, or one clear error; never another exception, a hang, or code that runs.

`MSA_PAPER_FUZZ=10000 pytest tests/test_fuzz.py` tries that many files in all; by default a few hundred.
"""

import copy
import os
import pickle
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import save_file

from msa_paper.core import MsaPaperError
from msa_paper.data.planted import planted_corpus
from msa_paper.extract.text import read_text_features
from msa_paper.formats.bc_lstm_csv import mosi_corpus, write_generated_mosi
from msa_paper.formats.dialogues import conversation_corpus
from msa_paper.formats.generated_dialogues import generated_conversations, generated_tuple
from msa_paper.formats.csd_corpus import csd_corpus
from msa_paper.formats.feature_files import feature_corpus
from msa_paper.formats.feature_store import open_corpus, store_corpus
from msa_paper.formats.generated import generated_lmf, generated_mmsa, generated_mult
from msa_paper.formats.generated_csd import write_generated_csd, write_generated_vectors
from msa_paper.formats.mfn_arrays import mfn_corpus, write_generated_mfn
from msa_paper.data.mosei import mosei_videos
from msa_paper.formats.transcripts import transcripts
from msa_paper.formats.generated_transcripts import write_generated_transcripts
from msa_paper.formats.word_vectors import read_vectors

SIZES, SHAPES = (14, 5, 6), ((7, 6), (9, 4), (11, 3))
TOTAL = int(os.environ.get("MSA_PAPER_FUZZ", 400))


class Payload:
    "What an attacker would put into a pickle."

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def pickled(tree):
    return lambda path: path.write_bytes(pickle.dumps(tree, 4))


def features(kind, dataset, task):
    def read(path):
        return feature_corpus(dataset, "official", task, path.name, kind, folder=path.parent, any_size=True)

    return read


def dialogues(protocol, task, dataset="iemocap"):
    size = dict(any_size=True) if dataset == "iemocap" else {}
    return lambda path: conversation_corpus(dataset, protocol, task, path, **size)


def videos(path):
    (path.parent / "mosei" / "video_level").mkdir(parents=True, exist_ok=True)
    shutil.copy(path, path.parent / "mosei" / "video_level" / "video_level_922.npz")
    return mosei_videos(folder=path.parent, any_size=True)


def video_arrays():
    rng = np.random.default_rng(0)
    return dict(
        video_id=np.array([f"v{i}" for i in range(20)]),
        language=rng.normal(size=(20, 5)),
        acoustic=rng.normal(size=(20, 4)),
        visual=rng.normal(size=(20, 3)),
        mean_sentiment=rng.uniform(-3, 3, 20),
        official_split=np.array(["train", "valid", "test", "none"] * 5),
    )


def in_folder(write, name, read):
    "A reader of a folder: one of its files is the one that is damaged."
    base = {}

    def prepare(path):
        if "raw" not in base:
            write(path.parent / "good")
            base["raw"] = (path.parent / "good" / name).read_bytes()
        path.write_bytes(base["raw"])

    def again(path):
        target = path.parent / "good" / name
        target.write_bytes(path.read_bytes())
        try:
            return read(path.parent / "good")
        finally:
            target.write_bytes(base["raw"])

    return prepare, again


CONVERSATIONS = generated_conversations()
ALIGNED = (7, 6), (7, 4), (7, 3)
MULT, MULT_IEMOCAP = (generated_mult(dataset, True, SIZES, ALIGNED) for dataset in ("mosi", "iemocap"))
TREES = {  # name → what a pickle or an .npz holds, and its reader
    "mmsa": (generated_mmsa("mosi", "unaligned_50", SIZES, SHAPES), features("mmsa", "mosi", "regression")),
    "mult": (MULT, features("mult", "mosi", "seven")),
    "mult_iemocap": (MULT_IEMOCAP, features("mult", "iemocap", "iemocap4")),
    "lmf": (generated_lmf("iemocap", (5, 3, 4)), features("lmf", "iemocap", "sad")),
    "tuple": (generated_tuple(CONVERSATIONS), dialogues("context", "iemocap4")),
    "meld": (generated_tuple(CONVERSATIONS, True), dialogues("context", "meld_emotions", "meld")),
}
ARCHIVES = {
    "npz": (CONVERSATIONS, dialogues("B", "iemocap4")),
    "videos": (video_arrays(), videos),
}


LABELS, WORDS, FRAMES = (
    f"csd/CMU_MOSI_{name}.csd" for name in ("Opinion_Labels", "ModifiedTimestampedWords", "COVAREP")
)


def sequences(folder):
    modalities = dict(text=WORDS, audio=FRAMES)
    return csd_corpus(
        folder=folder, labels=LABELS, sequences=modalities, fold_set="generated", vectors="vectors.npz"
    )


def damaged_csd(name):
    return (*in_folder(write_generated_csd, name, sequences), name.split(".")[-1])


def mfn_arrays(name):
    sizes = dict(train=6, validation=3, test=3)
    return (
        *in_folder(
            lambda folder: write_generated_mfn(folder, sizes),
            name,
            lambda folder: mfn_corpus(folder=folder, sizes=None),
        ),
        "h5",
    )


def mosi_csv(name):
    return (*in_folder(write_generated_mosi, name, lambda folder: mosi_corpus(folder=folder)), "csv")


def transcript_files(dataset, name):
    return (
        *in_folder(
            lambda folder: write_generated_transcripts(folder, dataset, (30, 9, 9)),
            name,
            lambda folder: transcripts(dataset, folder, True),
        ),
        name.split(".")[-1],
    )


def archive(arrays):
    return lambda path: np.savez(path, **arrays)


def stored_rows(path):
    return [x[0:] for x in open_corpus(path).features.values()]


def text_features(path):
    arrays = dict(offsets=np.array([0, 2, 2, 5]), values=np.ones((5, 4), np.float16))
    save_file(arrays, path, dict(facts="{}", ids='["a", "b", "c"]'))


def read_texts(path):
    features = read_text_features(path)
    return [np.array(features[i]) for i in range(len(features))]


def word_vectors(path):
    write_generated_vectors(path.parent)
    (path.parent / "vectors.npz").replace(path)


def store(path):
    store_corpus(planted_corpus("mixed", segments=30), path)


FILES = {  # name → how to write the good file, its reader, its suffix
    **{k: (pickled(tree), read, "pkl") for k, (tree, read) in TREES.items()},
    **{k: (archive(arrays), read, "npz") for k, (arrays, read) in ARCHIVES.items()},
    "store": (store, stored_rows, "safetensors"),
    "texts": (text_features, read_texts, "safetensors"),
    "vectors": (word_vectors, read_vectors, "npz"),
    "csd_labels": damaged_csd(LABELS),
    "csd_words": damaged_csd(WORDS),
    "csd_frames": damaged_csd(FRAMES),
    "csd_folds": damaged_csd("standard_folds.json"),
    "csd_vectors": damaged_csd("vectors.npz"),
    "mfn_h5": mfn_arrays("X_train.h5"),
    "mosi_csv": mosi_csv("mosi/bclstm/audio_test0.csv"),
    "mosi_script": mosi_csv("mosi/bclstm/transcripts.csv"),
    "mosei_tsv": transcript_files("mosei", "mosei/valid.tsv"),
    "sims_npz": transcript_files("sims", "sims/sims_label.npz"),
    "mosi_labels": transcript_files("mosi", "mosi/label.csv"),
}


def damaged_bytes(rng, raw):
    "Some bytes changed, or the end cut off, or something in front."
    raw = bytearray(raw)
    match rng.integers(4):
        case 0:
            return bytes(raw[: rng.integers(len(raw))])
        case 1:
            at = rng.integers(len(raw))
            return bytes(raw[:at] + rng.bytes(int(rng.integers(1, 50))) + raw[at:])
        case _:
            near = min(len(raw), 4000) if rng.random() < 0.5 else len(raw)  # headers are where it hurts
            for _ in range(rng.integers(1, 12)):
                raw[rng.integers(near)] = rng.integers(256)
            return bytes(raw)


STRANGE = (
    *(None, "text", b"\xff\xfe", -1, 2**80, 1.5, [], {}, [[1, [2]], "x"]),
    *(np.zeros((2, 0)), np.array(["é"]), np.array([None, 3], object), float("nan"), True, (), set()),
)
OTHER_TYPES = "S3", "U2", "object", "int8", "float16", "bool", "complex64"


def changed(rng, x, proof):
    "The same value with another type, shape or content; or something else altogether."
    if rng.random() < 0.15:
        return Payload(proof)
    if isinstance(x, np.ndarray) and x.size and rng.random() < 0.8:
        y = x.copy()
        match rng.integers(7):
            case 0:
                return y[: rng.integers(len(y))] if y.ndim else y
            case 1:
                return y.astype(rng.choice(OTHER_TYPES)) if y.dtype.kind in "biuf" else y.astype(object)
            case 2:
                return y.T if y.ndim > 1 else y[:, None] if y.ndim else y
            case 3:
                if y.dtype.kind == "f":
                    y.ravel()[rng.integers(y.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
                return y
            case 4:
                return np.concatenate([y, y[:1]]) if y.ndim else y
            case 5:
                return y.ravel()
            case _:
                return y.tolist()
    if isinstance(x, list) and x and rng.random() < 0.8:
        y = list(x)
        y[rng.integers(len(y))] = STRANGE[rng.integers(len(STRANGE))]
        return y if rng.random() < 0.7 else y[:-1]
    return STRANGE[rng.integers(len(STRANGE))]


def damaged_tree(rng, tree, proof):
    "A value somewhere in the tree dropped or changed."
    tree = copy.deepcopy(tree)
    holder = tree = list(tree) if isinstance(tree, tuple) else tree
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[rng.integers(len(keys))]
        if isinstance(holder[key], dict) and holder[key] and rng.random() < 0.85:
            holder = holder[key]
            continue
        if rng.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = changed(rng, holder[key], proof)
        return tuple(tree) if isinstance(tree, list) else tree


def as_array(value):
    return value if isinstance(value, np.ndarray) else np.array(value, dtype=object)


def damaged(name, seed, good, path, proof):
    "Write a damaged copy: every other one of a tree has something else in it, the rest have other bytes."
    rng = np.random.default_rng([seed, len(name)])
    if name in TREES and seed % 2:
        tree = damaged_tree(rng, TREES[name][0], proof)
        path.write_bytes(pickle.dumps(tree, int(rng.integers(2, 6))))
    elif name in ARCHIVES and seed % 2:
        tree = damaged_tree(rng, ARCHIVES[name][0], proof)
        np.savez(path, **{k: as_array(v) for k, v in tree.items() if v is not None})
    else:
        path.write_bytes(damaged_bytes(rng, good))


def too_long(*_):
    raise TimeoutError("more than 10 s")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_ends_in_data_or_one_error(name, tmp_path):
    write, read, suffix = FILES[name]
    path, proof = tmp_path / f"file.{suffix}", tmp_path / "executed"
    write(path)
    good = path.read_bytes()
    read(path)
    signal.signal(signal.SIGALRM, too_long)
    ends = {True: 0, False: 0}
    for seed in range(max(TOTAL // len(FILES), 10)):
        damaged(name, seed, good, path, proof)
        signal.alarm(10)
        try:
            read(path)
            ends[True] += 1
        except MsaPaperError as error:
            assert error.where is not None or str(tmp_path) in str(error), (seed, str(error))
            assert len(str(error).splitlines()) <= 3, (seed, str(error))  # what, where, what to do
            ends[False] += 1
        except BaseException as error:
            shutil.copy(path, f"/tmp/fuzz-{name}-{seed}.{suffix}")
            raise AssertionError(f"{name}, file {seed}: {type(error).__name__}: {error}") from error
        finally:
            signal.alarm(0)
    assert not proof.exists(), "a payload was executed"
    assert ends[False] > 0, ends
    print(f"{name}: {ends[True]} read, {ends[False]} refused")
