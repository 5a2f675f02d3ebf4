"""What is published is recomputed by a script that shares no line with the project; damage is found."""

import ast
import copy
import json
import shutil

import pandas as pd
import pytest
import recompute
from conftest import PROJECT
from msa_paper.core import data_folder, results_folder
from recompute_rules import by_rule, ruled_out

STANDARD = {"argparse", "functools", "json", "os", "pathlib", "re", "sys", "tomllib"}
ALONE = STANDARD | {"numpy", "pandas", "scipy", "sklearn"}
PARTS = "recompute", "recompute_claims", "recompute_measures", "recompute_rules"


def published(folder, *studies):
    "A copy of some published studies and their pages, with no claim."
    for study in studies:
        shutil.copytree(results_folder() / study, folder / "results" / study)
        shutil.copytree(PROJECT / "figures" / study, folder / "figures" / study)
    (folder / "data").mkdir()
    (folder / "data" / "rules.toml").write_text("minimum = []\nrule = []\n")
    (folder / "figures" / "claims").mkdir()
    (folder / "figures" / "claims" / "claims.json").write_text("{}")
    return folder


def found(folder, capsys, data="no data"):
    "What the script returns and prints of a folder."
    code = recompute.main("--root", str(folder), "--data", str(data))
    return code, capsys.readouterr().out


@pytest.mark.parametrize("part", PARTS)
def test_the_script_is_short_and_imports_nothing_of_the_project(part):
    text = (PROJECT / "tests" / f"{part}.py").read_text()
    assert len(text.splitlines()) < 150
    imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {getattr(n, "module", None) or alias.name for n in imports for alias in n.names}
    assert {name.split(".")[0] for name in names} <= ALONE | set(PARTS)


def test_every_published_number_is_recomputed(capsys):
    code, told = found(PROJECT, capsys, data_folder())
    assert code == 0, told
    assert int(told.split()[0]) > 11_000
    print(told)


def shifted(path, column, by):
    "Add to one number of a table."
    parquet = path.suffix == ".parquet"
    table = pd.read_parquet(path) if parquet else pd.read_csv(path)
    row = table[column].first_valid_index() if not parquet else table.index[table.model == "full"][0]
    table.loc[row, column] += by
    table.to_parquet(path) if parquet else table.to_csv(path, index=False)


DAMAGED = {
    "a metric of one run": ("results/iemocap/runs.parquet", "test_acc", 2e-5),
    "a mean on a page": ("figures/iemocap/table4.csv", "mean", 3e-6),
    "an end of an interval": ("figures/iemocap/table4.csv", "low", 3e-6),
    "a p-value": ("figures/iemocap/table4.csv", "d_p", -3e-6),
    "an adjusted p-value": ("figures/iemocap/table6.csv", "d_holm", 2e-5),
    "a minimum detectable effect": ("figures/iemocap/table6.csv", "d_detectable", 3e-6),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_number_is_found(what, tmp_path, capsys):
    file, column, by = DAMAGED[what]
    folder = published(tmp_path, "iemocap")
    shifted(folder / file, column, by)
    assert found(folder, capsys)[0] == 1


def test_what_is_not_damaged_is_not_found(tmp_path, capsys):
    code, told = found(published(tmp_path, "iemocap"), capsys)
    assert code == 0 and "0 larger than allowed" in told


def test_a_damaged_variance_is_found(tmp_path, capsys):
    path = published(tmp_path, "iemocap") / "results" / "iemocap" / "covariance.parquet"
    table = pd.read_parquet(path)
    table.assign(between=table.between * 1.001).to_parquet(path)
    assert found(tmp_path, capsys)[0] == 1


@pytest.mark.parametrize("study, column", [("iemocap", "test_f1_angry"), ("mosi", "test_mae")])
def test_a_metric_that_the_predictions_do_not_give_is_found(study, column, tmp_path, capsys):
    if not (data_folder() / study).is_dir():
        pytest.skip(f"the labels of {study} are not in the data folder (MSA_PAPER_DATA)")
    folder = published(tmp_path, study)
    path = folder / "results" / study / "predictions.parquet"
    table = pd.read_parquet(path)
    table.assign(s1=table.s1.iloc[::-1].to_numpy()).to_parquet(path)
    code, told = found(folder, capsys, data_folder())
    assert code == 1 and f"{study}:" in told


@pytest.fixture(scope="module")
def results():
    "Everything that is published, read once."
    return recompute.Recomputed(PROJECT, data_folder())


def wrong_of(results, folder, change, where="results", ids=()):
    "What the script finds wrong of some claims after a change: of `results` themselves, or of their page."
    told = json.loads((PROJECT / "figures" / "claims" / "claims.json").read_text())
    changed = copy.copy(results)
    changed.root, changed.found = folder, []
    change(told if where == "page" else changed)
    (folder / "figures" / "claims").mkdir(parents=True)
    (folder / "figures" / "claims" / "claims.json").write_text(json.dumps(told))
    for file in ("data/rules.toml", "results/probes/derived.json"):
        (folder / file).parent.mkdir(parents=True)
        shutil.copy(PROJECT / file, folder / file)
    recompute.claims(changed, ids)
    return [what for off, allowed, what in changed.found if off > allowed]


def test_the_page_of_claims_follows_from_results(results, tmp_path):
    assert wrong_of(results, tmp_path, lambda changed: None) == []


FOLDS = "C3", "MOSI, intensity, every video once"


def effects_of(told, id, place):
    "The effects of one row of the page."
    return told[id]["places"][place]["effects"]


@pytest.mark.parametrize(
    "id, place, effect",
    [
        ("C2", "IEMOCAP, 4 classes: session 5 alone", "full − LMF, accuracy"),
        ("C5", "MOSI, intensity", "full − concatenation only, MAE"),
        (*FOLDS, "full − MulT, MAE"),
        (*FOLDS, "full − MulT, Pearson r"),
        ("C9", "IEMOCAP, 4 classes: session 5 alone", "TFN: happy − angry"),
        ("C8", "IEMOCAP, 4 classes", "mean after that, %, full − without graph"),
        ("C15", "mosi-clean: mosi-context-regression", "better when corrupted than TFN"),
    ],
)
def test_a_reversed_direction_is_found(id, place, effect, results, tmp_path):
    def reverse(told):
        x = next(x for x in effects_of(told, id, place) if x["effect"] == effect)
        x |= dict(estimate=-x["estimate"], low=-x["high"], high=-x["low"])

    wrong = wrong_of(results, tmp_path, reverse, "page", [id])
    assert f"{id} {place} {effect} mean" in wrong


def test_an_effect_that_is_named_the_other_way_is_found(results, tmp_path):
    def rename(told):
        x = effects_of(told, *FOLDS)[4]
        x |= dict(effect="MulT − full, MAE", estimate=-x["estimate"], low=-x["high"], high=-x["low"])

    assert any(
        "MulT − full, MAE direction" in what for what in wrong_of(results, tmp_path, rename, "page", ["C3"])
    )


def test_a_wrong_mean_of_a_fold_is_found(results, tmp_path):
    def shift(changed):
        full = next(c for c, runs in changed.of.items() if {"mosi-folds-regression"} == set(runs.key))
        runs = changed.of[full]
        changed.of = changed.of | {full: runs.assign(test_mae=runs.test_mae + 2e-5)}

    wrong = wrong_of(results, tmp_path, shift, ids=["C3"])
    assert wrong and all("C3" in what or "folds" in what for what in wrong)


@pytest.mark.parametrize(
    "measure, id",
    [
        ("alpha_quality_rank", "C10"),
        ("beta_falls_with_noise_renamed", "C11"),
        ("error_without_edges", "C12"),
        ("far_error_saved", "C13"),
        ("corrupted_above_baseline", "C15"),
        ("curve_level", "C8"),
    ],
)
def test_a_wrong_effect_of_a_probe_or_curve_is_found(measure, id, results, tmp_path):
    def shift(changed):
        first = changed.seen.index.get_level_values(1) == 1
        values = changed.seen[measure] + 0.01 * changed.seen.index.codes[0]  # by another size for each model
        changed.seen = changed.seen.assign(**{measure: changed.seen[measure].where(~first, values)})

    wrong = wrong_of(results, tmp_path, shift, ids=[id, "C4"])
    assert wrong and all(what.startswith(id) for what in wrong)


def test_a_wrong_count_is_found(results, tmp_path):
    def shift(told):
        effects_of(told, "C14", "M = 2 … 6")[0]["estimate"] += 0.01

    assert any(what.startswith("C14") for what in wrong_of(results, tmp_path, shift, "page", ["C14"]))


@pytest.mark.parametrize(
    "id, place, verdict",
    [
        (*FOLDS, "supported"),
        (*FOLDS, "not testable here"),
        ("C1", "MOSEI whole videos", "not supported"),
        ("C6", "MOSI, intensity", "not testable here"),
        ("C12", "planted-long_range, 6,000 segments", "supported"),
        ("C13", "planted-lag, 15 steps: beside an LSTM", "supported"),
        ("C14", "M = 2 … 6", "contradicted"),
        ("C1", "MOSEI single segments, text encoder trained on", "not supported"),
    ],
)
def test_a_verdict_that_does_not_follow_is_found(id, place, verdict, results, tmp_path):
    def judge(told):
        told[id]["places"][place]["verdict"] = verdict

    assert any(
        what.startswith(f"{id} {place} verdict") for what in wrong_of(results, tmp_path, judge, "page")
    )


def test_a_claim_that_does_not_follow_from_its_rows_is_found(results, tmp_path):
    def judge(told):
        told["C3"]["verdict"] = "supported"

    assert wrong_of(results, tmp_path, judge, "page", ["C3"]) == ["C3 verdict: not supported, not supported"]


def test_a_row_that_hides_behind_a_condition_is_found(results, tmp_path):
    def hide(told):
        row = told["C6"]["places"]["MOSI, intensity"]
        row["verdict"] = "not testable here"
        for check in row["checks"]:
            check["met"] = False

    wrong = wrong_of(results, tmp_path, hide, "page", ["C6"])
    assert any("several_modalities" in what for what in wrong) and any(
        "size_in_sight" in what for what in wrong
    )


@pytest.mark.parametrize("name", ["state", "minimum"])
def test_a_wrong_state_or_minimum_is_found(name, results, tmp_path):
    def change(told):
        effects_of(told, *FOLDS)[1][name] = dict(state="open", minimum=0.06)[name]

    assert any(
        f"full − LMF, MAE {name}" in what for what in wrong_of(results, tmp_path, change, "page", ["C3"])
    )


@pytest.mark.parametrize(
    "low, high, says",
    [(0.02, 0.06, "supported"), (-0.06, -0.02, "contradicted"), (0.005, 0.05, "not supported")],
)
def test_a_verdict_follows_from_intervals_and_the_minimum_that_counts(low, high, says):
    effect = dict(effect="x", measure="", estimate=(low + high) / 2, low=low, high=high, minimum=0.01)
    assert by_rule("each_beyond_minimum", [effect]) == says
    assert ruled_out(says, ["ten_seeds"])
    assert ruled_out(says, ["size_in_sight"]) == (says == "not supported")
