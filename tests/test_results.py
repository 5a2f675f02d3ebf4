"""What is tracked is light; what is stored is protected, and named by what it read."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from conftest import PROJECT
from msa_paper.report.at_hand import AtHand
from msa_paper.report.derived import derived_text
from msa_paper.report.pooled import pooled_text
from msa_paper.report.pooled_comparisons import pooled_comparisons_text
from msa_paper.report.publish import publish
from msa_paper.report.study_tables import runs_and_origins
from msa_paper.cli import main
from msa_paper.report.pages import redraw
from msa_paper.core import MsaPaperError, json_text, results_folder
from msa_paper.formats.bc_lstm_csv import write_generated_mosi
from msa_paper.experiment.evaluation import evaluate, evaluation_folder, load_run, publish_evaluation
from msa_paper.experiment.run import run_seed
from msa_paper.jobs.engine import run_grid
from msa_paper.experiment.identity import read_corpus
from msa_paper.studies.comparisons import configurations
from msa_paper.studies.configurations import configuration
from msa_paper.studies.study import experiment, studied
from msa_paper.experiment.published import Results, open_results
from msa_paper.experiment.specification import EvaluationSpec, Question, RunSpec, TuneSpec
from msa_paper.experiment.manifest import MANIFEST, Damaged
from msa_paper.experiment.runs import Run
from msa_paper.experiment.store import Store
from msa_paper.experiment.decisions import best_settings
from msa_paper.experiment.trials import read_trials, search_content, tuning_file
from msa_paper.core import write_json

LISTED = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True).stdout
TRACKED = [p for p in LISTED.split("\n")[:-1] if (PROJECT / p).is_file()]
SMALL = dict(width=8, tcn_levels=1)
TINY = dict(protocol="tone", data=dict(segments=120), settings=SMALL, epochs=1, progress=False)


def weight(*beginnings):
    return sum((PROJECT / p).stat().st_size for p in TRACKED if p.startswith(beginnings)) / 1e6


def test_what_is_tracked_is_light():
    assert weight("") <= 30 and len(TRACKED) <= 1300
    assert weight("results/") <= 10 and weight("figures/", "nbs/") <= 16
    weights = [p for p in TRACKED if p.endswith((".safetensors", ".onnx", ".pt"))]
    assert sum((PROJECT / p).stat().st_size for p in weights) / 1e6 <= 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Two seeds of a tiny configuration."
    found = Store(tmp_path_factory.mktemp("store"))
    spec = RunSpec(**TINY, seeds=(1, 2), results=str(found.folder))
    for seed in spec.seeds:
        run_seed(spec, seed, read_corpus(spec), found)
    return found


@pytest.fixture
def copy(store, tmp_path):
    shutil.copytree(store.folder, tmp_path / "copy")
    found = Store(tmp_path / "copy")
    return found, RunSpec(**TINY, seeds=(1, 2), results=str(found.folder))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json_text(content))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


ATTACKS = {
    "mae=-5": lambda a, b: edit(a / "metrics.json", lambda m: m["test"].update(mae=-5)),
    "corr=7": lambda a, b: edit(a / "metrics.json", lambda m: m["test"].update(corr=7)),
    "a text for a number": lambda a, b: edit(a / "metrics.json", lambda m: m["test"].update(mae="low")),
    "another run's metrics": lambda a, b: shutil.copy(b / "metrics.json", a),
    "another run's resamples": lambda a, b: shutil.copy(b / "replicates.parquet", a),
    "a flipped bit": lambda a, b: flip(a / "replicates.parquet"),
    "a flipped bit of the weights": lambda a, b: flip(a / "checkpoint.safetensors"),
    "an edited specification": lambda a, b: edit(a / "spec.json", lambda s: s.update(learning_rate=0.1)),
    "no metrics": lambda a, b: (a / "metrics.json").unlink(),
    "no manifest": lambda a, b: (a / MANIFEST).unlink(),
    "NaN in the metrics": lambda a, b: (a / "metrics.json").write_text('{"test": {"mae": NaN}}'),
    "another run in its place": lambda a, b: (shutil.rmtree(a), shutil.copytree(b, a)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_run_that_was_touched_is_put_aside_and_done_again(copy, store, attack, capsys):
    "Attacks 1 and 6 on a store: one sentence, nothing believed; the same command completes them."
    found, spec = copy
    first, second = (found.path(spec, s) for s in spec.seeds)
    ATTACKS[attack](first, second)
    assert main(["verify", "--results", str(found.folder), "--published", str(found.folder)]) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) == 1 and "run planted-tone/full/s1-" in told[0]
    light = attack != "a flipped bit of the weights"
    assert [r.seed for r in found.runs_of(spec)] == ([2] if light else [1, 2])
    if not light:
        with pytest.raises(Damaged, match="checkpoint"):
            load_run(Run(first), read_corpus(spec))
        return
    assert "put aside" in capsys.readouterr().err and len(list((found.folder / "aside").iterdir())) == 1
    assert run_seed(spec, 1, read_corpus(spec), found).metrics == store.runs_of(spec)[0].metrics
    assert main(["verify", "--results", str(found.folder), "--published", str(found.folder)]) == 0


def test_a_misplaced_run_is_not_taken_for_another(copy, capsys):
    found, spec = copy
    wrong = spec.model_copy(update=dict(learning_rate=0.02, seeds=(1,)))
    found.path(spec, 1).rename(found.path(wrong, 1))
    assert found.runs_of(wrong) == [] and "not the one that its place says" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["score", "choice", "NaN", "removed", "swapped"])
def test_a_search_that_was_touched_is_put_aside(tmp_path, capsys, change):
    "Attack 8."
    spec = TuneSpec(model="lmf", trials=2, results=str(tmp_path))
    trials = [
        dict(
            number=n, choice={"learning_rate": 1e-3 * (n + 1)}, score=0.5 - 0.1 * n, loss=0.5, monitor="loss"
        )
        for n in range(2)
    ]
    write_json(tuning_file(spec), search_content(spec, trials))
    assert best_settings(spec) == {"learning_rate": 2e-3}
    shutil.rmtree(tmp_path / "decisions")
    text = tuning_file(spec).read_text()
    with_changes = {
        "score": text.replace("0.5,", "0.1,", 1),
        "choice": text.replace("0.002", "0.2"),
        "NaN": text.replace('"score": 0.5', '"score": NaN'),
    }
    if change == "swapped":
        other = spec.model_copy(update=dict(model="tfn"))
        write_json(tuning_file(spec), search_content(other, trials))
    elif change == "removed":
        edit(tuning_file(spec), lambda c: c["trials"].pop())
    else:
        assert with_changes[change] != text
        tuning_file(spec).write_text(with_changes[change])
    assert read_trials(spec) == [] and best_settings(spec) is None
    assert capsys.readouterr().err.count("put aside") == 1


def test_a_published_number_that_was_edited_enters_no_table(tmp_path, capsys):
    "Attacks 1 and 7 on what is published: the study is named and left out, the others are drawn."
    if not (results_folder() / "mosi").is_dir():
        pytest.skip("no published study of MOSI")
    for study in ("mosi", "iemocap"):
        shutil.copytree(results_folder() / study, tmp_path / "results" / study)
    path = tmp_path / "results" / "mosi" / "runs.parquet"
    table = pd.read_parquet(path)
    table.assign(test_mae=-5.0).to_parquet(path)
    pages = ("table4", "table5", "claims")
    failures = redraw(str(tmp_path / "results"), str(tmp_path / "figures"), pages=pages)
    assert failures == ["a study is left out: mosi/runs.parquet: it is not what was published"]
    assert (tmp_path / "figures/iemocap/table4.md").is_file() and not (tmp_path / "figures/mosi").exists()
    assert "not run" in (tmp_path / "figures/claims/claims.md").read_text()


def test_a_data_file_rewritten_between_two_runs_gives_two_runs(tmp_path, monkeypatch):
    "Attack 2, and evaluations of one run on two files side by side."
    monkeypatch.setenv("MSA_PAPER_DATA", str(write_generated_mosi(tmp_path / "data")))
    monkeypatch.setenv("MSA_PAPER_RUNS", str(tmp_path / "runs"))
    spec = RunSpec(dataset="mosi", protocol="context", model="dummy", seeds=(1,), progress=False)
    store = Store()
    first = run_seed(spec, 1, read_corpus(spec), store)
    shutil.rmtree(tmp_path / "data")
    write_generated_mosi(tmp_path / "data", seed=1)
    assert store.missing(spec) == [1]
    second = run_seed(spec, 1, read_corpus(spec), store)
    assert len(store.runs()) == 2 and first.folder != second.folder and first.metrics != second.metrics
    assert first.folder.name.rsplit("-", 1)[0] == second.folder.name.rsplit("-", 1)[0]
    asked = EvaluationSpec(run=first.id, dataset="mosi", protocol="context")
    folders = set()
    for seed in (1, 2):
        shutil.rmtree(tmp_path / "data")
        write_generated_mosi(tmp_path / "data", seed=seed)
        corpus = read_corpus(Question(dataset="mosi", protocol="context"))
        folders.add(publish_evaluation(asked, first, *evaluate(load_run(first, corpus), corpus, "test")))
    assert len(folders) == 2 and all((f / "metrics.json").is_file() for f in folders)
    assert evaluation_folder(asked, first) in folders


def test_a_wider_space_leaves_published_configurations_where_they_are():
    "A decision is not derived anew: the hash of a space has no part in it."
    from msa_paper.experiment import search_space as search

    if not (results_folder() / "mosi").is_dir():
        pytest.skip("no published study of MOSI")
    e = experiment("mosi-context-regression", "mosi")
    before = configuration(e, "tfn")
    kept = search.SPACES["tfn"]
    try:
        search.SPACES["tfn"] = kept | {"settings.widths": [8, 16, 32, 64]}
        assert configuration(e, "tfn") == before is not None
        assert len(Results().runs_of(before)) == 10
    finally:
        search.SPACES["tfn"] = kept


def mounted(folder, *options):
    "Whether this process may mount."
    return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0


def test_a_finished_store_on_a_read_only_disk_is_read_and_published(store, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mounted(disk, "-t", "tmpfs", "tmpfs"):
        pytest.skip("this process may not mount a file system")
    try:
        shutil.copytree(store.folder, disk / "runs")
        assert mounted(disk, "-o", "remount,ro")
        spec = RunSpec(**TINY, seeds=(1, 2), results=str(disk / "runs"))
        assert [r.seed for r in Store(spec.results).runs_of(spec)] == [1, 2] and run_grid([spec]) == []
        with pytest.raises(MsaPaperError, match="cannot be written to|read-only"):
            run_seed(spec.model_copy(update=dict(seeds=(3,))), 3, read_corpus(spec), Store(spec.results))
    finally:
        subprocess.run(["umount", str(disk)])


SENSELESS = [["--workers", "-3"], ["--seeds", "-1"], ["--seeds", "0"], ["--data", "mosj"]]


@pytest.mark.parametrize("arguments", SENSELESS)
def test_arguments_that_make_no_sense_end_in_one_sentence(arguments, capsys):
    "Attack 11."
    assert main(["reproduce", *arguments]) == 1
    told = capsys.readouterr().err
    assert told and "Traceback" not in told and len(told.splitlines()) <= 3


def test_every_json_of_a_store_is_strict(store):
    def refuse(constant):
        raise AssertionError(constant)

    found = list(store.folder.rglob("*.json"))
    assert len(found) > 8
    for path in found:
        json.loads(path.read_text(), parse_constant=refuse)
    published = [p for p in TRACKED if p.endswith(".json") and p.startswith(("results/", "figures/"))]
    for path in (PROJECT / p for p in published):
        json.loads(path.read_text(), parse_constant=refuse)


def test_seven_digits_give_the_standard_errors_of_the_resamples(tmp_path):
    "What is published gives every interval that the store gives."
    from msa_paper.report.tables import difference, summary

    shared = TINY | dict(data=dict(segments=200), seeds=(1, 2), results=str(tmp_path))
    spec = {m: RunSpec(**shared, model=m) for m in ("full", "no_graph")}
    runs = {m: [run_seed(s, k, read_corpus(s), Store(tmp_path)) for k in s.seeds] for m, s in spec.items()}
    from unittest import mock

    from msa_paper.report import publish as module
    from msa_paper.studies.comparisons import Configuration

    some = [Configuration("planted-mixed-regression", s) for s in spec.values()]
    with mock.patch.multiple(module, configurations=lambda *a: some, entries=lambda *a: []):
        publish("planted", str(tmp_path), str(tmp_path / "published"))
    found = Results(tmp_path / "published")
    for metric in ("mae", "corr", "acc2_has0", "f1_non0"):
        ours, theirs = summary(found.runs_of(spec["full"]), metric), summary(runs["full"], metric)
        assert np.isclose(ours["se"], theirs["se"], rtol=1e-5), metric
        ours = difference(found.runs_of(spec["no_graph"]), found.runs_of(spec["full"]), metric)
        theirs = difference(runs["no_graph"], runs["full"], metric)
        assert np.isclose(ours["se"], theirs["se"], rtol=1e-4), metric
        assert np.isclose(ours["p"], theirs["p"], rtol=1e-3), metric


def published_studies():
    "The studies that are committed, those apart that every machine makes anew."
    return [name for name in open_results().studies if not studied(name).remade]


@pytest.fixture
def away(tmp_path, monkeypatch):
    "A machine without data and without a run: an empty working store."
    for name in ("data", "runs"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MSA_PAPER_DATA", str(tmp_path / "data"))
    return str(tmp_path / "runs")


@pytest.mark.parametrize("study", published_studies())
def test_a_study_published_again_from_an_empty_store_keeps_runs_and_statistics(study, away):
    "What cannot be computed anew is recognised as being of the same runs, in whatever order they are named."
    at, old = AtHand(study, configurations(study, away), away), open_results().studies[study]
    runs, origins = runs_and_origins(at)
    pd.testing.assert_frame_equal(runs.reset_index(drop=True), old.table("runs"), check_dtype=False)
    assert origins == old.about["origins"]
    without_draws = {c.hash: {} for c in at.every}
    kept = derived_text(at, without_draws) | pooled_text(at, {}) | pooled_comparisons_text(at, {})
    assert kept == {k: v for k, v in old.derived.items() if k != "digest"}


def test_a_small_study_published_again_from_an_empty_store_is_the_same(away, tmp_path):
    told = publish("ambiguities", away, str(tmp_path / "results"), before=str(results_folder()))
    assert (told.new, told.lost, told.open) == (0, 0, [])
    old, new = (of.studies["ambiguities"] for of in (open_results(), Results(str(tmp_path / "results"))))
    for name in ("runs", "history", "covariance", "predictions", "probes", "locked"):
        pd.testing.assert_frame_equal(new.table(name), old.table(name), obj=name)
    assert new.derived == old.derived
    assert new.settings == old.settings
