"""Claims declare themselves; verdicts hang on ids and numbers, never on what a caption says."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from scipy.stats import t as student

from conftest import PROJECT
from msa_paper.core import MsaPaperError
from msa_paper.evidence.claim import checked, claims_declared, declared, findings, verdict_of
from msa_paper.registry import claim
from msa_paper.registry import measure
from msa_paper.evidence.made_up import write_made_probes
from msa_paper.evidence.probe_measures import (
    as_effect,
    decided,
    measured,
    measurements,
    probe_summary,
    probed,
)
from msa_paper.evidence.rules import condition, digest_of, faults, rules
from msa_paper.evidence.verdicts import CONTRADICTED, SUPPORTED, UNSUPPORTED, UNTESTABLE
from msa_paper.evidence.verdicts import Effect, State, p_against, state_of, together
from msa_paper.registry import rule

IDS = [c.id for c in claims_declared()]
PROBED = list(measurements)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    "Published probes whose truth is known."
    folder = tmp_path_factory.mktemp("probes")
    write_made_probes(str(folder), cost=True)
    return str(folder)


def altered(caption):
    "The same caption as nobody wrote it."
    return "THE " + caption[:1].upper() + caption[1:] + " (again)"


def with_other_captions():
    "Every caption of a measure altered."
    declarations = {
        name: replace(d, facts=d.facts | dict(caption=altered(d.facts["caption"])))
        for name, d in measure.declared.items()
    }
    return patch.dict(measure.__dict__, declared=declarations)


def test_the_fifteen_claims_of_the_paper_are_declared_in_its_order():
    assert IDS == [f"C{i}" for i in range(1, 16)]


@pytest.mark.parametrize("id", IDS)
def test_every_claim_says_where_it_comes_from_what_is_asked_and_how_it_is_decided(id):
    one = declared(id)
    assert one.source.startswith(("Table", "Figure", "§")) and one.question.endswith("?")
    assert one.rule in rule and rule.facts(one.rule)["text"] == one.supported_if
    assert one.decides and set(one.decides) <= set(measure)
    assert all(measure.facts(m)["caption"] for m in one.decides)


@pytest.mark.parametrize("id", PROBED)
def test_captions_may_change_verdicts_stay(made_up, id):
    "A capital letter once turned a claim into 'the probes were not run'."
    before = findings(id, made_up)
    with with_other_captions():
        after = findings(id, made_up)
        captions = [m.what for m in measurements[id](made_up)]
    assert all(text.startswith("THE ") for text in captions) and captions
    assert before[0].verdict != UNTESTABLE
    assert [(f.place, f.verdict, f.counts) for f in after] == [(f.place, f.verdict, f.counts) for f in before]
    numbers = [[(e.mean, e.low, e.high, e.measure) for e in f.effects] for f in before]
    assert [[(e.mean, e.low, e.high, e.measure) for e in f.effects] for f in after] == numbers


def test_published_verdicts_hang_on_no_caption():
    "The same on what is published."
    before = {id: [(f.place, f.verdict) for f in findings(id)] for id in PROBED}
    with with_other_captions():
        assert {id: [(f.place, f.verdict) for f in findings(id)] for id in PROBED} == before


def test_a_measure_that_nothing_declares_is_an_error_with_the_nearest(made_up):
    one = probed("probes-ten", "quality", made_up)[0]
    message = "unknown measure 'alpha_quality_corelation'\n.*did you mean 'alpha_quality_correlation'"
    with pytest.raises(MsaPaperError, match=message):
        measured("alpha_quality_corelation", "planted", [0.5], one)
    known = measured("alpha_quality_correlation", "planted", [0.5, 0.6], one)
    with pytest.raises(MsaPaperError, match="unknown measure 'alpha'"):
        decided("C10", [replace(known, measure="alpha")])
    facts = dict(claim.facts("C10")) | dict(decides=("alpha_quality_correlations",))
    with pytest.raises(MsaPaperError, match="did you mean 'alpha_quality_correlation'"):
        checked("C10", facts, "a notebook")


def test_an_effect_of_a_measure_that_the_claim_does_not_declare_is_an_error():
    effect = Effect("x", 0.1, 0.05, 0.15, 0.001, measure="alpha_quality_auc")
    with pytest.raises(MsaPaperError, match="unknown measure that decides C10"):
        verdict_of("C10", [effect])


@pytest.mark.parametrize("lack", ["says", "source", "question", "test", "rule", "decides"])
def test_a_claim_that_leaves_something_out_is_refused(lack):
    facts = {k: v for k, v in claim.facts("C3").items() if k != lack}
    with pytest.raises(MsaPaperError, match=f"claim C3 does not declare its {lack}"):
        checked("C3", facts, "a notebook")


def effects(*sizes, p=0.001, measure="lead_over_baselines", minimum=0.02):
    return [Effect("x", x, x - 0.01, x + 0.01, p, measure=measure, minimum=minimum) for x in sizes]


@pytest.mark.parametrize(
    "name, given, verdict",
    [
        ("all_hold", effects(0.1, 0.2), SUPPORTED),
        ("all_hold", effects(0.1, -0.2), CONTRADICTED),
        ("all_hold", effects(0.1, -0.2, p=0.04), UNSUPPORTED),
        ("all_hold_in_order", effects(0.1, 0.2), SUPPORTED),
        ("all_hold_in_order", effects(0.2, 0.1), UNSUPPORTED),
        ("all_hold_in_order", effects(0.2, -0.1), CONTRADICTED),
        ("order_holds", effects(0.6), SUPPORTED),
        ("order_holds", effects(0.505), UNSUPPORTED),
        ("order_holds", effects(-0.02), CONTRADICTED),
        ("each_beyond_minimum", effects(0.1, 0.2), SUPPORTED),
        ("each_beyond_minimum", effects(0.1, -0.2), CONTRADICTED),
        ("each_beyond_minimum", effects(0.1, 0.03), UNSUPPORTED),
        ("each_beyond_minimum", effects(0.1, -0.03), UNSUPPORTED),
        ("each_beyond_minimum_in_order", effects(0.1, 0.2), SUPPORTED),
        ("each_beyond_minimum_in_order", effects(0.2, 0.1), UNSUPPORTED),
        ("each_beyond_minimum_in_order", effects(0.2, -0.1), CONTRADICTED),
        ("slope_is_negative", effects(0.1), SUPPORTED),
        ("slope_is_negative", effects(-0.1), CONTRADICTED),
        ("slope_is_negative", effects(0.1, p=0.2), UNSUPPORTED),
    ],
)
def test_rules_on_effects_made_by_hand(name, given, verdict):
    assert rule[name](given) == verdict


MINIMUM, SE, DF = 0.01, 0.005, 9
HALF = student.ppf(0.975, DF) * SE


def drawn(true, times, seed):
    "Effects as an experiment would measure them, again and again: (times, effects)."
    dice = np.random.default_rng(seed)
    t = dice.normal(size=(times, len(true))) * (DF / dice.chisquare(DF, size=(times, len(true)))) ** 0.5
    return [[measured_as(m + SE * x) for m, x in zip(true, row)] for row in t]


def measured_as(mean):
    p = 2 * student.sf(abs(mean) / SE, DF)
    return Effect("x", mean, mean - HALF, mean + HALF, p, minimum=MINIMUM, df=DF)


def how_often(verdict, true, times=600, seed=0):
    "How often the rule says so, where the true effects are these."
    return np.mean([rule["each_beyond_minimum"](e) == verdict for e in drawn(true, times, seed)])


def test_best_of_all_holds_its_level_without_holm():
    "At its edge: one of twelve baselines is behind by just what counts, the others are far behind."
    assert how_often(SUPPORTED, [MINIMUM] + [0.2] * 11) <= 0.05
    assert how_often(SUPPORTED, [MINIMUM] * 12) == 0
    assert how_often(SUPPORTED, [0.05] * 12) > 0.95, "what is there is found"
    assert how_often(SUPPORTED, [0.0] * 12) == 0


def test_contradicted_holds_its_level_over_many_tests():
    "At its edge: all twelve are ahead by just what counts; a single test would cry out one time in four."
    edge = [-MINIMUM] * 12
    assert how_often(CONTRADICTED, edge) <= 0.05
    assert how_often(CONTRADICTED, [0.0] * 12) <= 0.05
    alone = np.mean([any(state_of(e) == State.REVERSED for e in some) for some in drawn(edge, 600, 0)])
    assert alone > 0.15
    assert how_often(CONTRADICTED, [0.05] * 11 + [-0.06]) > 0.9, "one that is surely better is heard"


def test_p_and_interval_are_one_construction():
    for mean in (-0.015, -0.0213, -0.022, -0.05, 0.01):
        assert (p_against(measured_as(mean)) < 0.05) == (state_of(measured_as(mean)) == State.REVERSED)


def test_every_claim_has_its_rule_in_the_file_and_nothing_changed_in_silence():
    "A rule cannot change without its digest, nor its digest without an entry in the log."
    file = rules()
    known = {k.id for k in file.known}
    assert [one.claim for one in file.rule] == IDS
    assert [fault for one in file.rule for fault in faults(one, file.changes)] == []
    for one in file.rule:
        assert declared(one.claim).rule == one.rule and one.former in rule
        assert set(one.testable) <= set(condition) and set(one.known) <= known and one.known
        assert one.why and one.fixed_on.year == 2026
    assert all(set(aim.known) <= known for aim in file.aims) and len(file.aims) >= 12
    assert [c.on for c in file.changes] == sorted(c.on for c in file.changes)


def test_a_softer_rule_is_found_out():
    "Another minimum, another condition, another rule: the digest is another one."
    one = next(r for r in rules().rule if r.claim == "C2")
    for change in (dict(minimum=()), dict(testable=()), dict(rule="all_hold"), dict(visible=dict(x=1.0))):
        softer = one.model_copy(update=change)
        assert digest_of(softer) != one.digest
        assert faults(softer, rules().changes)


def at_commit(commit, path):
    "A file as it was; skips where the history is not here."
    asked = ["git", "show", f"{commit}:{path}"]
    found = subprocess.run(asked, cwd=PROJECT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"the history of this checkout does not reach back to {commit}")
    return found.stdout


def test_rules_stand_in_the_commit_that_is_said_to_have_fixed_them():
    for one in (r for r in rules().rule if r.fixed_in):
        then = tomllib.loads(at_commit(one.fixed_in, "data/rules.toml"))["rule"]
        assert {r["claim"]: r["digest"] for r in then}[one.claim] == one.first_digest


def test_the_verdicts_before_are_those_of_that_commit():
    kept = json.loads((PROJECT / "data" / "verdicts_before.json").read_text())
    then = json.loads(at_commit(kept["commit"], "figures/claims/claims.json"))
    for id, one in kept["claims"].items():
        assert one["verdict"] == then[id]["verdict"]
        assert {p: x["verdict"] for p, x in one["places"].items()} == {
            p: x["verdict"] for p, x in then[id]["places"].items()
        }


def test_growth_is_judged_by_its_kind(made_up):
    found = {(m.model, m.measure): m for m in measurements["C14"](made_up)}
    tensor, low_rank = found["tfn", "parameters_growth"], found["lmf", "parameters_growth"]
    assert rule["growth_is_as_claimed"]([tensor, low_rank]) == SUPPORTED
    assert rule["growth_is_as_claimed"]([replace(tensor, kind="power"), low_rank]) == CONTRADICTED
    assert rule["growth_is_as_claimed"]([tensor, replace(low_rank, kind="exponential")]) == CONTRADICTED


def test_what_several_data_sets_say_together():
    assert together([SUPPORTED, UNTESTABLE, SUPPORTED]) == SUPPORTED
    assert together([SUPPORTED, CONTRADICTED]) == UNSUPPORTED
    assert together([CONTRADICTED, UNSUPPORTED]) == CONTRADICTED
    assert together([UNTESTABLE]) == UNTESTABLE


def test_every_measurement_has_a_declared_id_and_a_claim_decides_by_some(made_up):
    for id, found in probe_summary(made_up).items():
        assert found and {m.measure for m in found} <= set(measure)
        assert {m.measure for m in found} & set(declared(id).decides)
        assert all(as_effect(m).measure == m.measure for m in found)


TOY = """
from .. import verdicts
from ..claim import claim, measure, verdict_of

@measure("number_of_figures", caption="figures of the paper, less five")
def number_of_figures():
    return verdicts.Effect("figures − 5", 4., 3.9, 4.1, .001, measure="number_of_figures")

@claim("C16", order=16, says="The paper has many figures.", source="§1", rule="all_hold",
       question="Are there more than five?", test="the number of figures", decides=("number_of_figures",))
def many_figures(results=""):
    found = [number_of_figures()]
    return [verdicts.Finding("the paper", verdict_of("C16", found), "", tuple(found), 9, 1)]
"""
DRAW = (
    "from msa_paper.evidence.claims_page import claims_page\n"
    "import msa_paper, sys\n"
    "print(msa_paper.__file__)\n"
    "claims_page(sys.argv[1] + '/no-results', sys.argv[1])\n"
)


def test_a_claim_is_added_by_one_module(tmp_path):
    "A copy of the package with one more module: the page shows its claim, and no other file knows of it."
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "msa_paper", tmp_path / "msa_paper", ignore=ignored)
    shutil.copy(PROJECT / "settings.ini", tmp_path)
    (tmp_path / "msa_paper" / "evidence" / "claims" / "toy.py").write_text(TOY)
    environment = os.environ | dict(PYTHONPATH=str(tmp_path))
    command = [sys.executable, "-c", DRAW, str(tmp_path)]
    drawn = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stderr[-2000:]
    assert drawn.stdout.startswith(str(tmp_path))
    page = (tmp_path / "claims" / "claims.md").read_text()
    assert "| C16 | The paper has many figures. | **supported** | the paper: supported |" in page
    assert "### C16: supported" in page and "### C15: not testable here" in page
    assert "C16,the paper,supported,9,1,figures − 5,4," in (tmp_path / "claims" / "claims.csv").read_text()
