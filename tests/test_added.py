"""A baseline, a data set with its study, a claim, a figure: one notebook each, and nothing else is touched.

All of it happens in a copy of the project, with the commands that a user would type there.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from conftest import PROJECT

NEEDED = "nbs", "msa_paper", "settings.ini", "setup.py", "README.md"
LEFT_BEHIND = "__pycache__", ".ipynb_checkpoints", "*.egg-info", ".last_checked"
CODE = "import sys; from msa_paper.cli import main; sys.exit(main(sys.argv[1:]))"
CALL = [sys.executable, "-W", "ignore", "-c", CODE]
SCRIPTS = Path(sys.executable).parent
LISTING = r"^00_(contract|catalogue|study)\.ipynb$"  # notebooks that print every model, data set and study
KEY = "toyset-mixed-toy_joy"
HIDDEN = "#| hide\nimport nbdev\nnbdev.nbdev_export()"

# The four notebooks -----------------------------------------------------------------------------------------

BASELINE = """
#| default_exp baselines.toy
---
#| export
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from msa_paper.baselines.inputs import pooled
from msa_paper.batch import Batch
from msa_paper.registry import model
from msa_paper.schema import DataSpec
---
#| export
class ToySettings(BaseModel):
    "What the toy can be told."
    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = 8
---
#| export
@model("toy", label="Toy", group="baseline", order=99, space={"width": [4, 8]}, small=dict(width=4))
class Toy(nn.Module):
    "One hidden layer over pooled features."
    def __init__(self,
        data:DataSpec,
        settings:ToySettings=ToySettings(),
    ):
        super().__init__()
        self.data = data
        self.read = nn.Linear(sum(m.dim for m in data.modalities.values()), settings.width)
        self.head = nn.Linear(settings.width, data.task.outputs)

    def forward(self,
        batch:Batch,
    )->Tensor:  # (B, outputs), or (B, T, outputs) with one label a step
        return self.head(self.read(pooled(batch, self.data)).tanh())
"""

DATA_SET = """
#| default_exp studies.toyset
---
#| export
from collections.abc import Callable
from dataclasses import replace
from msa_paper.corpus import Corpus
from msa_paper.data.planted import planted_corpus
from msa_paper.registry import dataset, study
from msa_paper.tasks import TASKS, own_task
from msa_paper.studies.comparisons import OF_EXPERIMENTS
from msa_paper.studies.study import Asked, Experiment, Part, Study
---
#| export
own_task("toy_joy", limit=6.)

def read_toyset(
    protocol:str="mixed",
    task:str="toy_joy",
    segments:int=100,
)->Corpus:
    "The planted corpus under another name, its intensities on a scale from 0 to 6."
    made = planted_corpus(protocol, "regression", segments=segments)
    return replace(made, name="toyset", spec=replace(made.spec, task=TASKS[task]), labels=made.labels + 3)

@dataset(
    "toyset", label="Toy set", order=99, scale=(0., 6.), task="toy_joy", tasks=("toy_joy",),
    protocols={"mixed": ("made",)}, units=("segments", "segments"), terms="generated", cards=(("mixed", {}),),
)
def toyset()->dict[str, Callable]:
    "Source → reader(protocol, task, **options)."
    return {"made": read_toyset}
---
#| export
EXPERIMENTS = (
    Experiment(
        "toyset", "mixed", "toy_joy", dict(epochs=1, batch_size=16), models=("toy", "full", "dummy"),
        trials=2, seeds=2, small=True, main="mae", place="toy set",
    ),
)
TABLES = {"table5": (Part("Toy set", "toyset-mixed-toy_joy", (Asked("mae"), Asked("corr"))),)}

@study("toyset", order=99)
def toy_study()->Study:
    "Its models, its budget, its pages."
    return Study(EXPERIMENTS, comparisons=OF_EXPERIMENTS, pages=("table5", "tuning"), tables=TABLES)
"""

CLAIM = """
#| default_exp evidence.claims.toy
---
#| export
from msa_paper.evidence.run_effects import judged, lacking, turned
from msa_paper.evidence.sources import runs_of
from msa_paper.evidence.verdicts import Effect, Finding
from msa_paper.registry import claim, measure
from msa_paper.report.pages import compared
---
#| export
@measure("toy_lead", caption="full − Toy, MAE")
def toy_lead(
    difference:dict,   # full − toy
)->Effect:
    "How much the full model is ahead of the toy."
    return turned("toy_lead", "full − Toy", difference, "mae")
---
#| export
@claim("C99", order=99, says="The full model beats a toy.", source="this test", rule="all_hold",
       question="Is its MAE lower?", test="difference of two MAEs", decides=("toy_lead",))
def beats_a_toy(results:str="")->list[Finding]:
    "C99, on the toy set."
    key = "toyset-mixed-toy_joy"
    runs = runs_of(key, ("full", "toy"), results)
    difference = compared(runs["full"], runs["toy"], "mae")
    if not difference:
        return [lacking(key, runs)]
    return [judged("C99", key, [toy_lead(difference)], runs)]
"""

FIGURE = """
#| default_exp report.toy_figure
---
#| export
import matplotlib.pyplot as plt
from msa_paper.registry import page
from msa_paper.report.names import NAMES
from msa_paper.report.pages import nothing, picture, runs_of
from msa_paper.studies.study import experiments
---
#| export
@page("toy_figure", studies=("toyset",), order=99)
def toy_figure(
    data:str,         # a study
    results:str="",   # the published results
    figures:str="",   # where the figure goes
):
    "The MAE of every seed of every model."
    e, = experiments(data)
    runs = runs_of(e, e.every, results)
    if not any(runs.values()):
        return nothing(data)
    errors = {m: [r.metrics["test"]["mae"] for r in found] for m, found in runs.items()}
    fig, ax = plt.subplots()
    for m, found in errors.items():
        ax.plot(found, [NAMES[m]] * len(found), "o")
    return picture(fig, data, figures, "toy_figure", errors)
"""

ADDED = {
    "nbs/baselines/99_toy.ipynb": BASELINE,
    "nbs/studies/99_toyset.ipynb": DATA_SET,
    "nbs/evidence/claims/99_toy.ipynb": CLAIM,
    "nbs/report/99_toy_figure.ipynb": FIGURE,
}
GENERATED = {
    "msa_paper/baselines/toy.py",
    "msa_paper/studies/toyset.py",
    "msa_paper/evidence/claims/toy.py",
    "msa_paper/report/toy_figure.py",
    "msa_paper/_modidx.py",
}


def write_notebook(path, text):
    new = nbformat.v4
    cells = [new.new_markdown_cell(f"# {path.stem}\n> Added by a test")]
    cells += [new.new_code_cell(cell.strip()) for cell in (*text.split("\n---\n"), HIDDEN)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new.new_notebook(cells=cells), path)


# The copy, and what is typed there --------------------------------------------------------------------------


def digests(folder):
    "{path: digest} of all files but those that Python caches."
    files = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def changed(before, after):
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def environment(project):
    "That of a user who has set no folder."
    own = {k: v for k, v in os.environ.items() if not k.startswith("MSA_PAPER_")}
    return own | dict(PYTHONPATH=str(project), OMP_NUM_THREADS="1", MPLBACKEND="Agg")


def typed(project, *words):
    "What a command says; it has to succeed."
    done = subprocess.run(words, cwd=project, env=environment(project), capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A copy of the project with four notebooks more, exported."
    copy = tmp_path_factory.mktemp("added") / "project"
    copy.mkdir()
    for name in NEEDED:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        else:
            shutil.copy(PROJECT / name, copy / name)
    (copy / "data").mkdir()
    kinds = "*.csv", "*.json", "*.md", "*.toml", "*.bib"
    for path in (p for kind in kinds for p in (PROJECT / "data").glob(kind)):
        shutil.copy(path, copy / "data")
    before = digests(copy)
    for name, text in ADDED.items():
        assert not (copy / name).exists()
        write_notebook(copy / name, text)
    typed(copy, SCRIPTS / "nbdev_export")
    return copy, changed(before, digests(copy))


@pytest.fixture(scope="module")
def reproduced(project, tmp_path_factory):
    "The store after `msa-paper reproduce --data toyset`, and what the copy was before."
    copy, _ = project
    before, store = digests(copy), tmp_path_factory.mktemp("store") / "runs"
    words = "reproduce", "--data", "toyset", "--workers", "1", "--results", str(store)
    typed(copy, *CALL, *words)
    return store, changed(before, digests(copy))


ASKED = """
import json, sys, torch
from pathlib import Path
from msa_paper.data.catalogue import about, load_corpus
from msa_paper.evidence.claim import findings
from msa_paper.evidence.sources import SEVEN
from msa_paper.measures.ids import metrics_of
from msa_paper.model.contract import build_model, check_model, drawn_batch
from msa_paper.report.pages import redraw, shown_on
from msa_paper.tasks import TASKS
from msa_paper.schema import DataSpec, Modality
from msa_paper.studies.study import baselines
import msa_paper

results, figures = sys.argv[1:]
modalities = {"text": Modality(6), "voice": Modality(3, "frames", 2)}
for per_step in (False, True):
    kinds = {m: Modality(k.dim, "vector") for m, k in modalities.items()} if per_step else modalities
    data = DataSpec(kinds, TASKS["seven"], per_step, aligned=per_step)
    lengths = (4, 6, 1) if per_step else ((4, 8), (6, 0), (1, 2))
    torch.manual_seed(0)
    toy = build_model("toy", data, dict(width=4))
    check_model(toy, drawn_batch(data, lengths, torch.Generator().manual_seed(0)), data.task.outputs)
failures = redraw(results, figures, pages=("claims",))
corpus = load_corpus("toyset", "mixed", "toy_joy", segments=40)
found, = findings("C99", results)
print(json.dumps(dict(
    code=str(Path(msa_paper.__file__).parent), failures=failures, label=about("toyset").label,
    corpus=[corpus.name, len(corpus)], task=metrics_of(corpus.spec.task),
    baselines=baselines(), shown_on=shown_on("toy_figure"),
    verdict=found.verdict, runs=len(found.runs), asked_by_the_paper=SEVEN,
)))
"""


@pytest.fixture(scope="module")
def told(project, reproduced, tmp_path_factory):
    "What Python says in the copy, and the folder of the claims page that it drew."
    figures = tmp_path_factory.mktemp("drawn")
    out = typed(project[0], sys.executable, "-W", "ignore", "-c", ASKED, reproduced[0] / "results", figures)
    return json.loads(out.splitlines()[-1]), figures / "claims"


# What came of it --------------------------------------------------------------------------------------------


def test_nothing_is_touched_but_four_notebooks_and_what_is_generated(project):
    assert project[1] == set(ADDED) | GENERATED


def test_reproducing_touches_no_file_of_the_project(reproduced):
    assert reproduced[1] == set()


def test_the_copy_speaks_for_itself(project, told):
    assert told[0]["code"] == str(project[0] / "msa_paper")
    assert "toy" in told[0]["baselines"]


def test_claims_of_the_paper_do_not_wait_for_it(told):
    "What the paper says of its own rows can be decided without the runs of another."
    assert told[0]["asked_by_the_paper"] == ["tfn", "lmf", "mfn", "raven", "mult", "graph_mfn", "full"]


def test_notebooks_that_list_everything_still_pass(project):
    words = "--path", "nbs", "--file_re", LISTING, "--n_workers", "2", "--do_print"
    said = typed(project[0], SCRIPTS / "nbdev_test", *words)
    assert said.count("Completed") == 3
    assert "Success" in said


def test_the_data_set_is_read_by_name(told):
    assert told[0]["label"] == "Toy set"
    assert told[0]["corpus"] == ["toyset", 40]
    assert told[0]["task"] == ["n", "mae", "corr"]


def test_its_own_task_is_scored_as_it_says_and_as_no_other(reproduced):
    "An intensity from 0 to 6 has no sign and none of the bins of the field's scale."
    folder = reproduced[0] / "results" / "toyset"
    columns = pd.read_parquet(folder / "runs.parquet").columns
    scored = {c.removeprefix("test_") for c in columns if c.startswith("test_")}
    assert scored == {"n", "mae", "corr"}
    drawn = pd.read_csv(reproduced[0] / "figures" / "toyset" / "table5.csv")
    assert set(drawn.metric) == {"mae", "corr"}
    assert drawn[drawn.metric == "mae"]["mean"].dropna().between(0, 6).all()


def test_the_baseline_was_searched_and_the_search_decided(reproduced):
    settings = json.loads((reproduced[0] / "results" / "toyset" / "settings.json").read_text())
    (search,) = [s for s in settings["searches"] if s["spec"]["model"] == "toy"]
    assert len(search["trials"]) == 2
    assert all(t["score"] > 0 and t["choice"]["settings.width"] in (4, 8) for t in search["trials"])
    (decision,) = [d for d in settings["decisions"] if d["search"] == search["name"]]
    assert decision["trial"] == min(search["trials"], key=lambda t: t["score"])["number"]


def test_the_page_of_searches_shows_it(reproduced):
    drawn = json.loads((reproduced[0] / "figures" / "toyset" / "tuning.json").read_text())[KEY]
    assert set(drawn) == {"toy", "full"}
    assert drawn["toy"]["trials"] == 2 and drawn["toy"]["failed"] == 0 and drawn["toy"]["chosen"] in (0, 1)


def test_the_table_has_its_row_with_a_number(reproduced):
    folder = reproduced[0] / "figures" / "toyset"
    rows = csv.DictReader((folder / "table5.csv").read_text().splitlines())
    (toy,) = [r for r in rows if r["model"] == "toy" and r["metric"] == "mae"]
    assert float(toy["mean"]) > 0 and float(toy["seeds"]) == 2
    row = next(line for line in (folder / "table5.md").read_text().splitlines() if line.startswith("| Toy |"))
    assert f"{float(toy['mean']):.3f}" in row and "not run" not in row


def test_the_figure_is_drawn(reproduced, told):
    folder = reproduced[0] / "figures" / "toyset"
    assert told[0]["shown_on"] == ["toyset"]
    assert (folder / "toy_figure.png").stat().st_size > 1000
    behind = json.loads((folder / "toy_figure.json").read_text())
    assert [len(behind[m]) for m in ("toy", "full", "dummy")] == [2, 2, 1]


def test_status_tells_that_it_is_complete(project, reproduced):
    said = json.loads(typed(project[0], *CALL, "status", "--json", "--results", str(reproduced[0])))
    (study,) = [s for s in said["studies"] if s["name"] == "toyset"]
    assert (study["runs"], study["runs_needed"]) == (5, 5)
    assert (study["searches"], study["searches_needed"]) == (2, 2)
    assert said["failed"] == [] and said["damaged"] == []


def test_the_claim_stands_on_the_page_with_its_verdict(told):
    said, folder = told
    assert said["failures"] == []
    assert said["verdict"] in ("supported", "not supported", "contradicted")
    assert said["runs"] == 4
    text = (folder / "claims.md").read_text()
    assert f"### C99: {said['verdict']}" in text
    row = "| C99 | The full model beats a toy. | **{0}** | toy set: {0} |"
    assert row.format(said["verdict"]) in text
    assert json.loads((folder / "claims.json").read_text())["C99"]["verdict"] == said["verdict"]


def test_the_notebook_of_any_page_shows_the_figure(project, reproduced, tmp_path):
    given = dict(name="toy_figure", data="toyset", results=reproduced[0] / "results")
    given["figures"] = tmp_path / "drawn"
    words = [word for k, v in given.items() for word in ("-r", k, str(v))]
    papermill = sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3", *words
    typed(project[0], *papermill, "nbs/figures/page.ipynb", tmp_path / "page.ipynb")
    shown = nbformat.read(tmp_path / "page.ipynb", 4)
    pictures = [o for c in shown.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 1
    assert (tmp_path / "drawn" / "toyset" / "toy_figure.png").is_file()
