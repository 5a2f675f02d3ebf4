"""Whole runs, as a user starts them: papermill, kill -9, misspelt parameters, another data set, figures."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import papermill
import pytest

from conftest import PROJECT
from msa_paper.core import MsaPaperError
from msa_paper.formats.bc_lstm_csv import write_generated_mosi
from msa_paper.jobs.engine import run_grid
from msa_paper.jobs.kernel import execute_notebook
from msa_paper.jobs.notebook import run_row
from msa_paper.experiment.specification import RunSpec
from msa_paper.experiment.store import Store

SMALL = dict(
    protocol="tone",
    data=dict(segments=400),
    settings=dict(width=8, tcn_levels=1),
    epochs=8,
    learning_rate=3e-3,
    seeds=(1, 2),
    progress=False,
)
SAME = (
    "metrics.json",
    "history.csv",
    "predictions.parquet",
    "replicates.parquet",
    "spec.json",
    "checkpoint.safetensors",
)


def small(folder, **changes):
    return RunSpec(**SMALL | changes, results=str(folder))


def contents(store):
    return {r.id: {name: (r.folder / name).read_bytes() for name in SAME} for r in store.runs()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "Two seeds of a small row, trained by papermill."
    folder = tmp_path_factory.mktemp("undisturbed")
    run_row(small(folder))
    return Store(folder)


def test_papermill_trains_and_publishes(undisturbed):
    assert [r.seed for r in undisturbed.runs()] == [1, 2]
    run = undisturbed.runs()[0]
    record = run.read("provenance.json")
    assert (
        record["data"]["sequences"]["test"] == 60
        and record["seconds"] > 0
        and record["memory"]["process_mib"] > 50
    )
    assert {"code", "data", "environment", "hardware", "memory", "started", "ended"} <= set(record)
    assert set(run.metrics) == {"validation", "test"} and "truth" not in run.predictions.columns
    notebook = next((undisturbed.folder / "notebooks").rglob("*.ipynb"))
    assert "injected-parameters" in notebook.read_text() and not list(undisturbed.folder.rglob("*.partial"))


@pytest.mark.parametrize("model, settings", [("ridge", {}), ("bc_lstm", {}), ("mfn", {}), ("tfn", {})])
def test_other_models_run_the_same_way(model, settings, tmp_path):
    run_row(small(tmp_path, model=model, settings=settings, seeds=(1,), epochs=1))
    assert Store(tmp_path).runs()[0].metrics["test"]["n"] == 60


def test_a_finished_run_is_not_repeated(undisturbed):
    before = {p: p.stat().st_mtime_ns for p in undisturbed.folder.rglob("*") if p.is_file()}
    assert run_grid([small(undisturbed.folder)]) == []
    assert before == {p: p.stat().st_mtime_ns for p in undisturbed.folder.rglob("*") if p.is_file()}


COMMAND = """
from msa_paper.jobs.engine import run_grid
from msa_paper.experiment.specification import RunSpec
if __name__ == "__main__": raise SystemExit(bool(run_grid([RunSpec(**{spec!r})])))
"""


def children(pid):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout.split()
    return [c for p in listed for c in (int(p), *children(int(p)))]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="kills process trees through /proc: Linux only")
def test_killed_in_the_middle_it_goes_on_and_ends_the_same(undisturbed, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(COMMAND.format(spec=small(tmp_path / "store").model_dump(mode="json")))
    command = subprocess.Popen([sys.executable, script], cwd=PROJECT)
    deadline = time.time() + 180
    while not list((tmp_path / "store").rglob("last.safetensors")):  # in the middle of the first training
        assert time.time() < deadline and command.poll() is None, "training did not begin"
        time.sleep(0.02)
    family = children(command.pid)
    assert len(family) >= 2, "the server and a kernel"
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    for _ in range(200):
        if not any(map(alive, family)):
            break
        time.sleep(0.1)
    assert not any(map(alive, family)), "a killed command leaves processes running"
    store = Store(tmp_path / "store")
    assert len(store.runs()) == 0 and list(
        store.folder.rglob("*.partial")
    )  # its two seeds were dealt out to two threads
    assert subprocess.run([sys.executable, script], cwd=PROJECT).returncode == 0
    assert contents(store) == contents(undisturbed)
    assert not list(store.folder.rglob("*.partial")) and not list(store.folder.rglob("*.lock"))
    assert any(r.read("provenance.json")["resumed_after"] is not None for r in store.runs())


def test_a_misspelt_parameter_is_an_error_inside_the_notebook_too(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'seeds'"):
        papermill.execute_notebook(
            PROJECT / "nbs/runs/train.ipynb",
            tmp_path / "out.ipynb",
            dict(sed=3),
            kernel_name="python3",
            progress_bar=False,
            cwd=str(PROJECT),
        )


def test_a_failed_row_is_told_and_kept(tmp_path):
    failures = run_grid([small(tmp_path, model="no_grpah"), small(tmp_path, seeds=(1,), epochs=1)], workers=2)
    assert len(failures) == 1 and "did you mean 'no_graph'" in failures[0]
    assert len(list(tmp_path.rglob("*.failed.ipynb"))) == 1 and len(Store(tmp_path).runs()) == 1


def test_evaluate_reads_weights_on_other_data(undisturbed, tmp_path):
    run = undisturbed.runs()[0]
    parameters = dict(
        run=run.id, protocol="tone", data=dict(segments=400), results=str(undisturbed.folder), progress=False
    )
    execute_notebook("runs/evaluate.ipynb", tmp_path / "same.ipynb", parameters)
    kept = json.loads(next((undisturbed.folder / "evaluations").rglob("metrics.json")).read_text())
    assert kept == run.metrics["test"]
    with pytest.raises(MsaPaperError, match="the weights do not fit the data"):
        execute_notebook(
            "runs/evaluate.ipynb",
            tmp_path / "other.ipynb",
            parameters | dict(protocol="quality", data=dict(segments=60, modalities={"a": {"dim": 16}})),
        )


def test_two_processes_train_as_one(tmp_path):
    "DDP on two CPU processes: the same interface as several GPUs."
    run_row(small(tmp_path, devices=2, seeds=(1,), epochs=2))
    run = Store(tmp_path).runs()[0]
    assert len(run.history) == 2 and run.metrics["test"]["n"] == 60


def test_bf16_trains(tmp_path):
    run_row(small(tmp_path, precision="bf16-mixed", seeds=(1,), epochs=2))
    assert Store(tmp_path).runs()[0].metrics["test"]["n"] == 60


def test_the_mosi_row_runs_on_generated_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_PAPER_DATA", str(write_generated_mosi(tmp_path / "data")))
    spec = RunSpec(
        dataset="mosi",
        protocol="context",
        settings=dict(width=8),
        batch_size=8,
        epochs=3,
        learning_rate=0.01,
        progress=False,
        results=str(tmp_path / "store"),
    )
    run_row(spec)
    run = Store(tmp_path / "store").runs()[0]
    assert run.metrics["test"]["n"] == 752 and run.predictions.query("split == 'test'").group.nunique() == 31
    assert len(run.read("provenance.json")["data"]["files"]) == 8


def test_real_mosi_is_what_its_page_says(mosi_folder):
    from msa_paper.formats.bc_lstm_csv import mosi_corpus

    corpus = mosi_corpus()
    segments = {s: int(corpus.lengths("text")[i].sum()) for s, i in corpus.splits.items()}
    assert segments["train"] + segments["validation"] == 1447 and segments["test"] == 752
    assert (len(corpus), corpus.labels.min(), corpus.labels.max(), int((corpus.labels == 0).sum())) == (
        93,
        -3,
        3,
        96,
    )


APART = {
    "takes a run's name apart": r'partition\("/s"\)|\.name\.split\("-|\.rsplit\("-|glob\("\*-\*/\*/s',
    "parses seeds": r'seeds"?\]?\.split\(',
    "asks for a data set by its name": r'[!=]= "(planted|mosi|mosei|iemocap|sims|meld)"',
}


@pytest.mark.parametrize("what", APART)
def test_one_place_knows(what):
    "`RunId`, `seeds_of` and declared facts; a second place would go on when the first changes."
    places = [
        p for folder in ("experiment", "studies") for p in (PROJECT / "msa_paper" / folder).glob("*.py")
    ]
    found = [f"{p.name}: {x[0]}" for p in places for x in re.finditer(APART[what], p.read_text())]
    assert len(places) > 30 and not found, f"{what}: {found}"
