"""Published numbers: whole, with a source that is listed, and never beside what is of something else."""

import csv
import json
import re

import pytest

from conftest import PROJECT
from msa_paper.registry import dataset, model
from msa_paper.report.elsewhere import NOT_TOLD, SECOND_HAND, Elsewhere, Setting, differences
from msa_paper.report.elsewhere import like_ours, published_numbers, references, set_apart
from msa_paper.tasks import TASKS

NUMBERS = published_numbers()
COMING = {"bc_lstm_two_level", "iemocap6"}  # a model and a task that are declared as soon as they are built
# written so that this file does not hold what it looks for
VAGUE = re.compile("|".join(("not checked" + " again", "from" + " memory", "recal" + "led")))


def test_every_field_of_every_row_is_filled():
    rows = list(csv.DictReader((PROJECT / "data" / "published.csv").open(encoding="utf-8", newline="")))
    empty = [(n, k) for n, row in enumerate(rows, 2) for k, v in row.items() if not v and k != "model"]
    assert len(rows) == len(NUMBERS) > 150 and empty == []
    assert all(len(row) == len(Elsewhere.model_fields) and None not in row for row in rows)


def test_every_row_names_what_exists():
    for r in NUMBERS:
        assert r.source in references(), r
        assert r.dataset in dataset
        assert r.task in {*TASKS, *COMING}, r
        assert r.model in {"", *model, *COMING}, r
        assert r.parts <= {"text", "audio", "vision"} and (r.parts or r.modalities == NOT_TOLD), r


def test_the_anchors_are_those_of_their_sources():
    def value(name, metric, modalities, task=""):
        some = {
            r.value
            for r in NUMBERS
            if (r.name, r.metric, r.modalities) == (name, metric, modalities) and r.task.startswith(task)
        }
        assert len(some) == 1, (name, metric, modalities, some)
        return some.pop()

    both, every = "text audio", "text audio vision"
    assert value("COGMEN", "f1_weighted", both, "iemocap4") == 81.59
    assert value("COGMEN", "f1_weighted", every, "iemocap4") == 84.5
    assert value("COGMEN", "f1_weighted", both, "iemocap6") == 65.4
    assert value("bc-LSTM, one stage", "acc2_has0", every) == 78.1
    assert value("bc-LSTM, two levels", "acc2_has0", every) == 80.3
    assert value("bc-LSTM, one stage", "acc", both) == 74.5
    assert value("bc-LSTM, two levels", "acc", both) == 75.6
    assert value("bc-LSTM, two levels", "acc", every) == 76.1
    assert 74.1 not in {r.value for r in NUMBERS if r.dataset == "iemocap"}
    assert not [r for r in NUMBERS if r.dataset == "iemocap" and r.source == "liu2018lmf"], "another split"


@pytest.mark.parametrize("place", sorted({(r.dataset, r.protocol, r.task) for r in NUMBERS}), ids="-".join)
def test_what_stands_beside_ours_is_of_the_same(place):
    dataset_, protocol, task = place
    some = [r for r in NUMBERS if (r.dataset, r.protocol, r.task) == place]
    for metric in {r.metric for r in some}:
        for parts, n in {(r.parts, r.n_test) for r in some}:
            ours = Setting(dataset_, protocol, task, parts, n if n != NOT_TOLD else 1)
            beside = "".join(like_ours(metric, ours).values())
            apart = set_apart((metric,), ours)
            assert "differs" not in beside and all(a.differs for a in apart)
            every = [r for r in NUMBERS if r.dataset == dataset_ and r.metric == metric]
            for r in (r for r in every if differences(r, ours)):
                assert f"{r.name}, {references()[r.source].short}, {r.where}" not in beside or any(
                    not differences(o, ours) and (o.name, o.where) == (r.name, r.where) for o in every
                )


def test_second_hand_is_marked_wherever_it_is_shown():
    for r in NUMBERS:
        ours = Setting(r.dataset, r.protocol, r.task, r.parts, 1)
        shown = [a.values[r.metric] for a in set_apart((r.metric,), ours) if a.name == r.name]
        assert r.shown in shown and r.shown.endswith(SECOND_HAND) == (r.checked == "second hand"), r


def test_a_number_without_n_or_modalities_is_nobody_s_like():
    vague = [r for r in NUMBERS if NOT_TOLD in (r.modalities, r.n_test)]
    assert vague
    for r in vague:
        for n in (None, 1, 686, 1241):
            assert differences(r, Setting(r.dataset, r.protocol, r.task, r.parts or None, n)), r


def sources():
    "What people have written: cells without their outputs, data, tests of nothing; {file: text}."
    for path in sorted((PROJECT / "nbs").rglob("*.ipynb")):
        if "baselines" not in path.parts and ".ipynb_checkpoints" not in path.parts:
            cells = json.loads(path.read_text())["cells"]
            yield path, "".join("".join(c["source"]) for c in cells)
    for path in (PROJECT / "data" / name for name in ("published.csv", "references.bib", "README.md")):
        yield path, path.read_text()


def test_nothing_is_quoted_that_was_not_looked_up():
    assert [path.name for path, text in sources() if VAGUE.search(text)] == []
