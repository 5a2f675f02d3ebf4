"Generated folders of one's own data: read as they were written, or refused in one sentence."

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from msa_paper.core import MsaPaperError
from msa_paper.data.own import own
from msa_paper.data.own_check import check_own, page_of

TASKS = {
    "classes": 'kind = "classes"\nclasses = ["calm", "tense", "bored"]',
    "intensity": 'kind = "intensity"\nrange = [-1, 1]',
    "labels": 'kind = "labels"\nclasses = ["sad", "glad"]',
}
WAYS = "padded", "left", "keyed", "flat", "offsets", "vectors", "tensors"
FAULTS = """
a row less|an id twice|an empty id|a strange word|a text for a number|columns differ|a cut group|
a strange split|no array|a web page|half a file|text array|lengths too long|all of it missing|no such column|
an unknown field|infinite label"""
FAULTS = ["none"] * 3 + [fault.strip() for fault in FAULTS.split("|")]


def written(x, way, ids, path):
    "Sequences in one of the ways in which people save them; the file."
    lengths = np.array([len(s) for s in x])
    padded = np.zeros((len(x), lengths.max(), x[0].shape[1]), np.float32)
    for k, s in enumerate(x):
        padded[k, -len(s) :] = s if way == "left" else padded[k, -len(s) :]
        padded[k, : len(s)] = padded[k, : len(s)] if way == "left" else s
    flat = np.concatenate(x).astype(np.float32)
    if way in ("padded", "left"):
        np.save(path.with_suffix(".npy"), padded)
    elif way == "vectors":
        np.save(path.with_suffix(".npy"), np.stack([s[0] for s in x]).astype(np.float32))
    elif way == "keyed":
        np.savez(path.with_suffix(".npz"), **dict(zip(ids, x)))
    elif way == "flat":
        np.savez(path.with_suffix(".npz"), values=flat, lengths=lengths)
    elif way == "offsets":
        np.savez(path.with_suffix(".npz"), values=flat, offsets=np.r_[0, lengths.cumsum()])
    else:
        save_file(dict(values=flat, lengths=lengths), path.with_suffix(".safetensors"))
    return next(path.parent.glob(f"{path.name}.*"))


def labels_of(kind, rng, n):
    "Columns of labels, some of them missing."
    there = rng.random(n) > 0.2
    if kind == "classes":
        return dict(label=[w if k else "" for w, k in zip(rng.choice(["calm", "tense", "bored"], n), there)])
    if kind == "intensity":
        return dict(label=[f"{v:.2f}" if k else "" for v, k in zip(rng.uniform(-1, 1, n), there)])
    return {c: [str(v) if k else "" for v, k in zip(rng.integers(0, 2, n), there)] for c in ("sad", "glad")}


def given_in(table):
    "Whether a table gives splits."
    return "split" in table


def break_table(table, fault):
    "The table with one thing wrong."
    first = table.columns[-1]
    changes = {
        "a row less": lambda t: t.iloc[1:],
        "an id twice": lambda t: t.assign(id=[t.id[1], *t.id[1:]]),
        "an empty id": lambda t: t.assign(id=["", *t.id[1:]]),
        "a strange word": lambda t: t.assign(**{first: ["weird", *t[first][1:]]}),
        "a text for a number": lambda t: t.assign(**{first: ["1,5", *t[first][1:]]}),
        "infinite label": lambda t: t.assign(**{first: ["inf", *t[first][1:]]}),
        "a cut group": lambda t: t.assign(who="one"),
        "a strange split": lambda t: t.assign(split=["later", *t.split[1:]]) if given_in(t) else t,
    }
    return changes.get(fault, lambda t: t)(table)


def break_file(path, fault, x):
    "The file of a modality with one thing wrong."
    if fault == "no array":
        path.unlink()
    elif fault == "a web page":
        path.write_text("<!DOCTYPE html><title>quota exceeded</title>" + " " * 200)
    elif fault == "half a file":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif fault == "text array" and path.suffix == ".npy":
        np.save(path, np.array([["a"]] * len(x)))
    elif fault == "columns differ" and path.suffix == ".npz":
        np.savez(path, **{f"s{k}": s[:, : 1 + k % 2] for k, s in enumerate(x)})
    elif fault == "lengths too long" and path.suffix == ".npz":
        np.savez(path, values=np.concatenate(x), lengths=np.array([len(s) + 1 for s in x]))
    elif fault == "all of it missing":
        path.unlink()
        np.savez(path.with_suffix(".npz"), other=np.ones((3, 2)), strange=np.ones((3, 2)))


@st.composite
def folders(draw):
    "What is written of one folder."
    return dict(
        seed=draw(st.integers(0, 10**6)),
        n=draw(st.integers(6, 14)),
        kind=draw(st.sampled_from(sorted(TASKS))),
        way=draw(st.sampled_from(WAYS)),
        table=draw(st.sampled_from(["csv", "tsv", "parquet"])),
        given=draw(st.booleans()),
        fault=draw(st.sampled_from(FAULTS)),
    )


def write(folder, seed, n, kind, way, table, given, fault):
    "One folder; the sequences and the columns that were meant."
    rng = np.random.default_rng(seed)
    ids = [f"s{k}" for k in range(n)]
    x = [rng.normal(3, 1, (rng.integers(1, 5), 2)) for _ in ids]
    x[0] = rng.normal(3, 1, (4, 2))
    rows = dict(id=ids, who=[f"w{k // 2}" for k in range(n)])
    if given:
        rows["split"] = ["train", "train", "valid", "valid", "test", "test"] + ["train"] * (n - 6)
    whole = pd.DataFrame(rows | labels_of(kind, rng, n))
    broken = break_table(whole, fault)
    if table == "parquet":
        broken.to_parquet(folder / "samples.parquet", index=False)
    else:
        broken.to_csv(folder / f"samples.{table}", index=False, sep="\t" if table == "tsv" else ",")
    path = written(x, way, ids, folder / "pulse")
    break_file(path, fault, x)
    said = f'name = "toy"\n[task]\n{TASKS[kind]}\n[samples]\nfile = "samples.{table}"\ngroup = "who"\n'
    said += 'split = "split"\n' if given else ""
    said = said.replace('"who"', '"whom"') if fault == "no such column" else said
    said += "colour = 1\n" if fault == "an unknown field" else ""
    (folder / "data.toml").write_text(said + "[modalities.pulse]\n")
    return x, whole


def same_labels(corpus, whole, kind):
    "Whether a corpus has the labels that were written."
    if kind == "labels":
        meant = whole[["sad", "glad"]].replace("", "nan").astype(float).to_numpy()
    elif kind == "intensity":
        meant = whole.label.replace("", "nan").astype(float).to_numpy()
    else:
        meant = whole.label.map({"calm": 0, "tense": 1, "bored": 2}).to_numpy(float)
    np.testing.assert_allclose(corpus.labels, meant, atol=1e-6)


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(folders())
def test_a_folder_is_read_as_written_or_refused_in_one_sentence(case):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        x, whole = write(folder, **case)
        try:
            corpus = own(folder)
        except MsaPaperError as error:
            assert error.what and "\n" not in error.what and len(error.what) < 500
            assert place in str(error), error
            assert error.remedy, error
            assert check_own(folder).faults, "the page says nothing of it"
            return
        assert corpus.ids.tolist() == whole.id.tolist()
        same_labels(corpus, whole, case["kind"])
        cuts = corpus.offsets["pulse"]
        for k, s in enumerate(x):
            s = s[:1] if case["way"] == "vectors" else s
            np.testing.assert_allclose(corpus.features["pulse"][slice(cuts[k], cuts[k + 1])], s, atol=1e-6)
        sides = [set(corpus.groups[i]) for i in corpus.splits.values()]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        untold = [f for f in check_own(folder).faults if "has a label of task" not in f]
        assert not untold, untold
        assert "| train |" in page_of(check_own(folder))


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"none"}))
def test_every_fault_is_refused(fault, tmp_path):
    ways = {"text array": "padded", "columns differ": "keyed", "lengths too long": "flat"}
    kinds = {"a text for a number": "intensity", "infinite label": "intensity", "a strange word": "classes"}
    case = dict(seed=1, n=8, kind=kinds.get(fault, "classes"), way=ways.get(fault, "keyed"), table="csv")
    if fault == "a row less":
        case["way"] = "padded"
    write(tmp_path, **case, given=True, fault=fault)
    with pytest.raises(MsaPaperError) as error:
        own(tmp_path)
    assert error.value.remedy and str(tmp_path) in str(error.value)
