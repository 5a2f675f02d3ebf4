"""What is published is recomputed by a script that shares no line with the project; damage is found."""

import ast
import json
import shutil

import pandas as pd
import pytest
import recompute
from conftest import PROJECT
from msa_paper.core import data_folder, results_folder

ALONE = {"argparse", "json", "os", "pathlib", "sys", "numpy", "pandas", "scipy", "sklearn"}


def published(folder, *studies):
    "A copy of some published studies, their pages and the claims."
    for study in studies:
        shutil.copytree(results_folder() / study, folder / "results" / study)
        shutil.copytree(PROJECT / "figures" / study, folder / "figures" / study)
    (folder / "figures" / "claims").mkdir()
    shutil.copy(PROJECT / "figures" / "claims" / "claims.json", folder / "figures" / "claims")
    return folder


def found(folder, capsys, data="no data"):
    "What the script returns and prints of a folder."
    code = recompute.main("--root", str(folder), "--data", str(data))
    return code, capsys.readouterr().out


def test_the_script_is_short_and_imports_nothing_of_the_project():
    text = (PROJECT / "tests" / "recompute.py").read_text()
    assert len(text.splitlines()) < 150
    imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {getattr(n, "module", None) or alias.name for n in imports for alias in n.names}
    assert {name.split(".")[0] for name in names} == ALONE


def test_every_published_number_is_recomputed(capsys):
    code, told = found(PROJECT, capsys, data_folder())
    assert code == 0, told
    assert int(told.split()[0]) > 7000
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


@pytest.mark.parametrize(
    "low, high, says",
    [(0.02, 0.06, "supported"), (-0.06, -0.02, "contradicted"), (0.005, 0.05, "not supported")],
)
def test_a_verdict_follows_from_intervals_and_the_minimum_that_counts(low, high, says, tmp_path):
    folder = published(tmp_path, "iemocap")
    effect = dict(effect="x", metric="", estimate=(low + high) / 2, low=low, high=high, p=0.0, minimum=0.01)
    for verdict, code in ((says, 0), ("not testable here", 1)):
        place = dict(verdict=verdict, runs=[], effects=[effect | dict(decides=True)], checks=[])
        claims = json.dumps({"C2": dict(rule=dict(id="each_beyond_minimum"), places={"IEMOCAP": place})})
        (folder / "figures" / "claims" / "claims.json").write_text(claims)
        of = recompute.Recomputed(folder, folder)
        of.claims()
        assert [off > allowed for off, allowed, _ in of.found] == [bool(code)]
