"""The audit of data: what is broken is found, what is whole is left in peace, the known files are told."""

import json
from dataclasses import replace

import numpy as np
import pytest

from conftest import PROJECT
from msa_paper.cli import main
from msa_paper.core import MsaPaperError, data_folder, read_json, strict_json
from msa_paper.data.audit import audit
from msa_paper.data.audit_trials import BROKEN, dealt_anew, in_videos
from msa_paper.data.catalogue import load_corpus, usual_task
from msa_paper.data.digest import Audited, digest
from msa_paper.data.findings import audit_check
from msa_paper.data.planted import planted_corpus
from msa_paper.experiment.specification import Question
from msa_paper.registry import dataset
from msa_paper.report.audited import audit_file
from msa_paper.studies.study import studied, study_names


def whole(protocol="mixed", task="regression", seed=0, **options):
    "A planted corpus in videos, in which nothing is wrong."
    corpus = planted_corpus(protocol, task, segments=400, seed=seed, **options)
    return in_videos(corpus, np.random.default_rng(seed))


WHOLE = whole()
STRONG = [b for b in BROKEN if "0.25" not in b.how]  # the weakest leak is found in most corpora, not in all


def states(corpus, *only):
    return {f.id: f.state for f in audit(corpus, *only)}


@pytest.mark.parametrize("check", audit_check)
def test_a_whole_corpus_passes_every_check(check):
    assert set(states(WHOLE, check).values()) <= {"told", "not asked"}


@pytest.mark.parametrize("broken", STRONG, ids=lambda b: b.how)
def test_what_is_broken_is_found(broken):
    for seed in range(3):
        found = audit(broken.make(WHOLE, np.random.default_rng(seed)), broken.check)
        assert found[0].state in broken.found, found[0].sentence
        assert found[0].remedy and any(c.isdigit() for c in found[0].sentence)


@pytest.mark.parametrize("broken", [b for b in STRONG if "label is" not in b.how], ids=lambda b: b.how)
def test_what_is_broken_is_found_among_classes(broken):
    found = audit(broken.make(whole(task="iemocap4"), np.random.default_rng(0)), broken.check)
    assert found[0].state in broken.found, found[0].sentence


def test_breaking_one_thing_alarms_no_other_check():
    "A column of zeros in the test is no leak, and a cut video no copy."
    for broken in STRONG:
        found = audit(broken.make(WHOLE, np.random.default_rng(0)))
        others = {f.check for f in found if f.state == "failed"} - {broken.check}
        allowed = {"label-as-feature": {"knows-labels"}, "same-sequence": {"repeated-text"}}
        assert others <= allowed.get(broken.check, set()), broken.how


def per_step(corpus):
    "The same with one label a step, as in a context protocol."
    steps = len(corpus.features["text"])
    labels = np.repeat(corpus.labels, corpus.lengths("text")) + np.random.default_rng(0).normal(0, 0.1, steps)
    spec = replace(corpus.spec, per_step=True)
    ids = np.array([f"step{k}" for k in range(steps)])
    return replace(corpus, spec=spec, labels=labels.clip(-3, 3).astype(np.float32), step_ids=ids)


def test_labels_of_steps_are_audited():
    corpus = per_step(WHOLE)
    assert "failed" not in states(corpus).values()
    x = corpus.features["audio"].copy()
    x[:, 4] = corpus.labels
    planted = states(replace(corpus, features=corpus.features | {"audio": x}), "label-as-feature")
    assert planted == {
        "label-as-feature audio": "failed",
        "label-as-feature text": "told",
        "label-as-feature vision": "told",
    }


def test_several_labels_are_audited_column_by_column():
    labels = np.c_[WHOLE.labels, np.where(np.arange(400) % 3, np.nan, -WHOLE.labels), WHOLE.labels**2 / 3]
    corpus = replace(WHOLE, labels=labels.astype(np.float32))
    assert "failed" not in states(corpus).values()
    x = corpus.features["audio"].copy()
    x[:, 4] = np.repeat(labels[:, 2], corpus.lengths("audio"))
    found = audit(replace(corpus, features=corpus.features | {"audio": x}), "label-as-feature")
    assert found[0].id == "label-as-feature audio" and "label 3" in found[0].sentence
    labels[7, 1] = 12
    assert states(replace(corpus, labels=labels), "impossible-labels") == {"impossible-labels": "failed"}


def test_sets_of_classes_are_audited():
    rng = np.random.default_rng(0)
    corpus = replace(whole(task="binary"), labels=rng.integers(0, 2, (400, 3)).astype(np.float32))
    assert "failed" not in states(corpus).values()
    x = corpus.features["vision"].copy()
    x[:, 0] = np.repeat(corpus.labels[:, 1], corpus.lengths("vision"))
    found = audit(replace(corpus, features=corpus.features | {"vision": x}), "label-as-feature")
    assert found[0].state == "failed" and "label 2" in found[0].sentence


def test_features_on_disk_are_read_in_pieces():
    class Pieces:
        "Answers slices of rows, and nothing else."

        def __init__(self, x):
            self.x, self.shape, self.largest = x, x.shape, 0

        def __len__(self):
            return len(self.x)

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            self.largest = max(self.largest, len(self.x[rows]))
            return self.x[rows]

    text = Pieces(WHOLE.features["text"])
    found = digest(replace(WHOLE, features=WHOLE.features | dict(text=text)), "text", size=500)
    assert text.largest <= 520 and (found.key == Audited(WHOLE).digests["text"].key).all()


def test_repetition_that_is_usual_is_no_copy():
    "Formulae that everybody says, in training as often as in the test."
    rng = np.random.default_rng(0)
    texts = np.array([f"this is sentence number {k} of the talk" for k in range(400)])
    texts[rng.random(400) < 0.2] = "please like and subscribe to my channel"
    corpus = replace(WHOLE, truth=WHOLE.truth | dict(text=texts))
    (found,) = audit(corpus, "repeated-text")
    assert found.state == "suspicious" and "would be usual" in found.sentence
    texts[WHOLE.splits["test"]] = texts[WHOLE.splits["train"]][: len(WHOLE.splits["test"])]
    assert states(replace(corpus, truth=dict(text=texts)), "repeated-text") == {"repeated-text": "failed"}


def test_groups_dealt_anew_are_never_cut():
    for seed in range(5):
        corpus = dealt_anew(WHOLE, np.random.default_rng(seed))
        assert states(corpus, "cut-group") == {"cut-group": "told"}
        assert sum(map(len, corpus.splits.values())) == 400


# Real data --------------------------------------------------------------------------------------------------


def test_the_known_files_of_mosi_are_flagged(mosi_folder):
    found = {f.modality: f for f in audit(load_corpus("mosi", "context", "regression"), "knows-labels")}
    assert {m: f.state for m, f in found.items()} == dict(text="failed", vision="failed", audio="told")
    for m, held_out, test in (("vision", 0.685, 0.077), ("text", 0.866, 0.606)):
        assert abs(found[m].numbers["held_out"] - held_out) < 0.02
        assert abs(found[m].numbers["test"] - test) < 0.02


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_every_fault_of_mosi_is_declared_by_its_study(mosi_folder, task):
    found = audit(load_corpus("mosi", "context", task))
    failed = {f"mosi-context {f.id}" for f in found if f.state == "failed"}
    assert failed == set(studied("mosi").known_faults)


def test_a_leak_on_both_sides_is_not_seen(mosi_folder):
    "What an audit cannot tell: in the official split some test segments were seen by the extractor as well."
    corpus = load_corpus("mosi", "official-leaking", "regression", allow_leak=True)
    assert "failed" not in states(corpus, "knows-labels").values()


def test_speakers_of_iemocap_are_known():
    if not (data_folder() / "iemocap" / "iemocap_conversations.npz").is_file():
        pytest.skip("no IEMOCAP file in the data folder (MSA_PAPER_DATA)")
    corpus = load_corpus("iemocap", "context", usual_task("iemocap"))
    (found,) = audit(corpus, "shared-speaker")
    assert found.state == "suspicious" and "8 / 8 / 2" in found.sentence
    assert found.numbers == dict(test_train=0, validation_train=8, test_validation=0)


# Published --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    if not audit_file().is_file():
        pytest.skip("no audit is published")
    return read_json(audit_file())


def test_false_alarms_are_rare_and_what_is_broken_is_found(published):
    for made in (True, False):
        for check in audit_check:
            of = [
                a
                for a in published["alarms"]
                if a["check"] == check and a["where"].startswith("planted") == made
            ]
            trials, failed = (sum(a[k] for a in of) for k in ("trials", "failed"))
            assert trials >= 100 or (check, made) == ("shared-speaker", False)  # dealing puts them everywhere
            assert failed <= 0.02 * trials, (check, made)
    broken = {d["where"]: d for d in published["detections"]}
    assert set(broken) == {b.how for b in BROKEN}
    for b in STRONG:
        found = sum(broken[b.how][s] for s in b.found)
        assert broken[b.how]["trials"] >= 100 and found >= 0.98 * broken[b.how]["trials"], b.how


def test_published_faults_are_declared_by_every_study_on_these_data(published):
    failed = {
        f"{r['dataset']}-{r['protocol']} {f['check']} {f['modality']}".strip()
        for r in published["real"]
        for f in r["findings"]
        if f["state"] == "failed"
    }
    assert "mosi-context knows-labels vision" in failed
    for name in (n for n in study_names() if studied(n).experiments and not studied(n).needs):
        usual = [e for e in studied(name).experiments if not {"file", "source"} & set(e.data)]
        data = {f"{e.dataset}-{e.protocol}" for e in usual}
        assert {f for f in failed if f.split(" ")[0] in data} <= set(studied(name).known_faults), name


def test_published_audits_tell_nothing_of_a_sample(published):
    "Numbers of whole splits: no list, no id."
    for record in published["real"] + published["planted"]:
        for f in record["findings"]:
            assert all(isinstance(v, (int, float, str)) for v in f["numbers"].values())
            assert len(f["sentence"]) < 300
    assert len(json.dumps(published)) < 300_000


def test_cards_carry_their_audit():
    cards = [read_json(p) for p in (PROJECT / "results" / "cards").glob("*.json")]
    assert cards and all("audit" in c for c in cards)
    mosi = next(c for c in cards if (c["dataset"], c["protocol"]) == ("mosi", "context"))
    assert {f["modality"] for f in mosi["audit"] if f["state"] == "failed"} == {"text", "vision"}


# Publishing and the command ---------------------------------------------------------------------------------


def test_known_faults_name_checks_and_data_that_there_are():
    for name in study_names():
        for fault in studied(name).known_faults:
            where, check, *modality = fault.split(" ")
            data, protocol = where.split("-", 1)
            assert check in audit_check and len(modality) <= 1
            assert protocol in dataset.facts(data)["protocols"]


def test_an_undeclared_fault_stops_publishing(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from msa_paper.data.findings import finding
    from msa_paper.report import audits

    asked = Question(dataset="mosi", protocol="context")
    every = [SimpleNamespace(spec=asked)]
    at = SimpleNamespace(study="mosei", every=every, earlier=None, remade=False, results=str(tmp_path))
    bad = [finding("knows-labels", "vision", "failed", "r = 0.691 and 0.069")]
    monkeypatch.setattr("msa_paper.experiment.audits.audited", lambda *_: bad)
    with pytest.raises(MsaPaperError, match="failed the check knows-labels vision: r = 0.691") as told:
        audits.refuse_undeclared(at, audits.audits_of(at))
    assert "features whose extractor saw none" in told.value.remedy and "known_faults=" in told.value.remedy
    at.study = "mosi"
    audits.refuse_undeclared(at, audits.audits_of(at))
    said = audits.published_audits(at, audits.audits_of(at))["mosi-context-regression"]
    assert "bc-LSTM" in said["known"]["knows-labels vision"]


def test_data_that_are_not_here_stop_nothing(tmp_path, monkeypatch):
    from msa_paper.experiment.audits import audited

    monkeypatch.setenv("MSA_PAPER_DATA", str(tmp_path))
    monkeypatch.setenv("MSA_PAPER_RUNS", str(tmp_path / "runs"))
    assert audited(Question(dataset="mosi", protocol="context")) is None


def test_the_command_tells_findings_first_and_fails_where_they_do(capsys, monkeypatch):
    assert main(["data", "audit", "planted", "mixed", "-o", "segments=200"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("planted-mixed-regression: 0 failed") and "passed  cut-group" in page
    assert main(["data", "audit", "planted", "mixed", "-o", "segments=200", "--json"]) == 0
    found = strict_json(capsys.readouterr().out, "data audit")
    assert {f["check"] for f in found["findings"]} == set(audit_check)
    broken = BROKEN[0].make(WHOLE, np.random.default_rng(0))
    monkeypatch.setattr("msa_paper.data.catalogue.load_corpus", lambda *_, **__: broken)
    assert main(["data", "audit", "planted", "mixed"]) == 1
    out, error = capsys.readouterr()
    assert "FAILED  label-as-feature" in out.splitlines()[2] and "do: remove the column" in out
    assert "planted-mixed: failed label-as-feature" in error
