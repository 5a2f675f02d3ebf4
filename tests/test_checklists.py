"""Checklists: every question is answered, every answer has its evidence, and a missing one is found."""

import re
import shutil

import pytest

from conftest import PROJECT
from msa_paper.core import MsaPaperError
from msa_paper.report.checklists import STORE, answer_told, checklists, checklists_text, facts
from msa_paper.report.checklists import missing_evidence
from msa_paper.report.compute import compute_of, total_compute
from msa_paper.experiment.published import open_results

LISTS, ITEMS = checklists()
TOLD = facts()


@pytest.mark.parametrize("item", ITEMS, ids=lambda i: f"{i.list}-{i.id}")
def test_every_answer_has_its_evidence(item):
    assert missing_evidence(item, TOLD, PROJECT) == ""
    said = answer_told(item, TOLD)
    assert said and not re.search(r"[{}]|\bnan\b|\bNone\b", said)


def test_the_lists_are_whole():
    ids = {c.id: [i.id for i in ITEMS if i.list == c.id] for c in LISTS}
    parts = dict(zip("12345678", (3, 5, 7, 3, 6, 3, 3, 2)))
    assert ids["reforms"] == [f"{m}{'abcdefg'[k]}" for m, n in parts.items() for k in range(n)]
    assert ids["neurips"] == [str(n) for n in range(1, 17)]
    assert {i[0] for i in ids["acl"]} == set("ABCDE") and len(ids["acl"]) == 18
    assert {"scope", "method", "results", "easy", "difficult", "communication", "compute"} == set(ids["mlrc"])


def test_an_answer_without_evidence_stops_the_page(tmp_path):
    for e in {e for i in ITEMS for e in i.evidence if not e.startswith(STORE)}:
        (tmp_path / e).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / e, tmp_path / e)
    whole = checklists_text(project=tmp_path)
    assert whole.count("\n## ") == len(LISTS) - 1
    for damage in (lambda p: p.write_text(""), lambda p: p.unlink()):
        damage(tmp_path / ITEMS[5].evidence[0])
        with pytest.raises(MsaPaperError, match="an answer lacks its evidence"):
            checklists_text(project=tmp_path)


def test_without_results_the_page_is_not_drawn():
    with pytest.raises(MsaPaperError, match="an answer lacks its evidence|no fact"):
        checklists_text("/no/results")


def test_what_everything_cost_is_the_sum_of_what_is_published():
    studies = open_results().studies.values()
    rows = {(r["configuration"], r["seed"], r["data"]): r["seconds"] or 0 for s in studies for r in s.rows}
    total = total_compute()
    assert total.runs == len(rows) and total.run_seconds == pytest.approx(sum(rows.values()))
    assert total.seconds <= sum(compute_of([s]).seconds for s in studies) + 1e-6
    assert total.trials == sum(len(x["trials"]) for x in open_results().searches().values())
