"""Declarations are read without importing models, building one imports one, searches keep theirs."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from msa_paper.baselines import crossmodal, memory
from msa_paper.core import results_folder
from msa_paper.experiment.specification import short_hash
from msa_paper.experiment.search_space import grid_of, points, searched_space
from msa_paper.experiment.specification import TuneSpec
from msa_paper.experiment.trials import decides
from msa_paper.model.contract import build_model, check_model, count_parameters, drawn_batch, trained_outputs
from msa_paper.model.parameter_groups import parameter_groups
from msa_paper.registry import model as models
from msa_paper.tasks import TASKS
from msa_paper.schema import DataSpec, Modality

BUILD_EACH = """
import json, os, sys
from msa_paper.model.contract import build_model
from msa_paper.tasks import TASKS
from msa_paper.schema import DataSpec, Modality
data = DataSpec({"text": Modality(6), "face": Modality(4)}, TASKS["regression"])
before = set(sys.modules)
for name in sys.argv[1:]:
    if os.fork() == 0:  # what one of them imports is not there for the next
        build_model(name, data, {})
        print(json.dumps([name, sorted(before), sorted(set(sys.modules) - before)]), flush=True)
        os._exit(0)
    os.wait()
"""


def python(code, *given):
    "What a fresh interpreter prints."
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_building_a_model_imports_that_model_and_no_other():
    asked = [name for name in models if models.facts(name)["group"] != "ablation" or name == "no_graph"]
    lines = [json.loads(line) for line in python(BUILD_EACH, *asked).splitlines()]
    assert [name for name, _, _ in lines] == asked
    modules = {d.module for d in models.declared.values()}
    for name, before, new in lines:
        assert modules & {*before, *new} == {models.declared[name].module}, name
        roots = {m.split(".")[0] for m in (*before, *new)}
        assert not roots & {"lightning", "pytorch_lightning", "optuna"}, name
        assert ("torch_geometric" in roots) == (name == "full"), name  # where graph convolutions are computed
        assert ("sklearn" in roots) == (name in models.names(closed_form=True)), name


def test_declarations_and_spaces_are_read_without_pytorch():
    code = (
        "import sys, msa_paper.experiment.search_space as s; "
        "print(len(s.SPACES), *set(sys.modules) & {'torch', 'optuna'})"
    )
    assert python(code).split() == [str(len(models) - len(models.names(closed_form=True)))]


def published():
    "Every published search."
    for path in sorted(results_folder().glob("*/settings.json")):
        yield from json.loads(path.read_text())["searches"]


SEARCHES = [pytest.param(s, id=s["name"]) for s in published()]


@pytest.mark.skipif(not SEARCHES, reason="no published search")
@pytest.mark.parametrize("search", SEARCHES)
def test_a_published_search_has_the_space_that_is_declared(search):
    spec = TuneSpec(**search["spec"])
    declared = json.loads(json.dumps(searched_space(spec.model, spec.space)))
    assert list(search["space"].items()) == list(declared.items())  # in this order: the points depend on it
    # the data's digest apart
    assert search["name"].rpartition("-")[0] == f"{spec.model}-{short_hash(decides(spec))}"


@pytest.mark.skipif(not SEARCHES, reason="no published search")
@pytest.mark.parametrize("search", SEARCHES)
def test_a_published_search_has_the_points_that_would_be_drawn_now(search):
    spec, trials = TuneSpec(**search["spec"]), search["trials"]
    thetas = grid_of(spec.model)
    drawn = [t["choice"] for t in trials if t["stage"] == "quasi-random"]
    assert len(drawn) == spec.trials - len(thetas)
    space = searched_space(spec.model, spec.space)
    assert drawn == json.loads(json.dumps(points(space, len(drawn), spec.seed)))
    assert [t["choice"]["settings.theta"] for t in trials[len(drawn) :]] == list(thetas)


@pytest.mark.parametrize("name", models)
def test_the_optimiser_gets_every_weight_once_and_the_heads_matrices_decay(name):
    built = build_model(name, DataSpec({"text": Modality(6), "face": Modality(4)}, TASKS["seven"]), {})
    decaying, others = parameter_groups(built, 0.1)
    assert sorted(map(id, decaying["params"] + others["params"])) == sorted(map(id, built.parameters()))
    assert {id(p) for p in decaying["params"]} == {id(p) for p in built.head.parameters() if p.dim() > 1}
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0)


def answer(model, batch):
    "Output and gradients, without dropout."
    model.eval().zero_grad()
    y = model(batch)
    y.square().sum().backward()
    return y.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def plainly(patch):
    "The equations of the pages take the place of what is written for speed."
    patch.setattr(memory, "lstm_states", lambda lstm, x, cells: memory.lstm_equations(lstm, x))
    patch.setattr(
        memory.GatedMemory,
        "forward",
        lambda m, x, u: memory.memory_equations(m.retain, m.update, x, u, m.reads_memory),
    )
    patch.setattr(
        crossmodal,
        "attend",
        lambda q, k, v, bias, some, p: (torch.softmax(q @ k.mT / q.shape[-1] ** 0.5 + bias, -1) @ v) * some,
    )


@pytest.mark.parametrize("variant", ("paper", "mmsa"))
@pytest.mark.parametrize("name", ("mfn", "graph_mfn", "mult"))
def test_the_fast_form_of_a_whole_model_is_the_plain_one(name, variant, monkeypatch):
    kinds = {"text": Modality(6), "face": Modality(4, "frames", 2), "voice": Modality(3, "spectrum", 3)}
    data = DataSpec(kinds, TASKS["seven"], aligned=False)
    batch = drawn_batch(data, ((4, 8, 12), (6, 0, 17), (1, 2, 3)), torch.Generator().manual_seed(0))
    small = dict(width=8, heads=2, layers=1) if name == "mult" else dict(hidden=5, memory=6)
    if (name, variant) == ("graph_mfn", "paper"):  # that one is plain: it goes step after step
        variant = "open_loop"
    torch.manual_seed(0)
    model = build_model(
        name, data, small | dict(variant=variant) | ({} if name != "graph_mfn" else dict(train_nodes=True))
    )
    fast = answer(model, batch)
    plainly(monkeypatch)
    plain = answer(model, batch)
    assert fast[0].std() > 1e-3
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)


SMALL = {
    "tfn": dict(language_width=8, language_out=9, widths=10, post_width=16),
    "lmf": dict(language_width=12, widths=10, rank=3),
    "mfn": dict(hidden=6, memory=5),
    "raven": dict(hidden=6, cells=5),
    "mult": dict(width=8, heads=2, layers=1),
    "graph_mfn": dict(hidden=6, memory=5, node=6),
}
KINDS = {"text": Modality(6), "face": Modality(4, "frames", 2), "voice": Modality(3, "spectrum", 3)}


def in_directions(name, data, directions):
    "A small baseline, always with the same weights."
    torch.manual_seed(2)
    return build_model(name, data, SMALL[name] | dict(directions=directions))


def reached(model, batch, modality):
    "Which outputs move when step 3 of the first sequence does."
    features = {m: x.clone() for m, x in batch.features.items()}
    features[modality][0, 3] += 1
    with torch.no_grad():
        return (model(replace(batch, features=features)) != model(batch)).any(-1)


@pytest.mark.parametrize("name", SMALL)
def test_a_change_reaches_earlier_outputs_in_both_directions_and_later_ones_alone_forwards(name):
    turns = DataSpec({m: Modality(4, "vector") for m in ("text", "voice")}, TASKS["seven"], per_step=True)
    batch = drawn_batch(turns, (7, 5), torch.Generator().manual_seed(0))
    forward, both = (in_directions(name, turns, d).eval() for d in ("forward", "both"))
    assert reached(forward, batch, "text").tolist() == [[False] * 3 + [True] * 4, [False] * 7]
    assert reached(both, batch, "text").tolist() == [[True] * 7, [False] * 7]
    steps = name in ("tfn", "lmf")  # their other modalities are heard step by step, in either case
    wanted = [i == 3 for i in range(7)] if steps else [True] * 7
    assert reached(both, batch, "voice")[0].tolist() == wanted
    copies = 1 if name == "mult" else 2
    assert count_parameters(both) == copies * count_parameters(forward)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("modalities", (("text",), ("text", "face", "voice")))
def test_both_directions_keep_what_every_model_keeps(name, modalities):
    data = DataSpec({m: KINDS[m] for m in modalities}, TASKS["iemocap4"], aligned=False)
    lengths = [n[: len(modalities)] for n in ((4, 8, 12), (6, 0, 18), (3, 6, 9))]
    check_model(
        in_directions(name, data, "both"), drawn_batch(data, lengths, torch.Generator().manual_seed(0)), 4
    )


@pytest.mark.parametrize("name", ("lmf", "mult"))  # two copies; no mask
def test_both_directions_learn_what_only_the_step_behind_tells(name):
    turns = DataSpec({"text": Modality(2, "vector")}, TASKS["regression"], per_step=True)
    batch = drawn_batch(turns, (6, 6, 6, 6), torch.Generator().manual_seed(0))
    wanted = batch.features["text"][:, 1:, 0].tanh()
    left = {}
    for directions in ("forward", "both"):
        model = in_directions(name, turns, directions).eval()  # no dropout
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(40):
            loss = (model(batch)[:, :-1, 0] - wanted).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        left[directions] = loss.item()
    assert left["both"] < left["forward"] / 2, left


WITHOUT_SIZES = (*models.names(closed_form=True), *models.names(group="encoder"))


@pytest.mark.parametrize("name", [m for m in models if m not in WITHOUT_SIZES])
def test_the_wide_space_goes_to_128_and_overlays_settings_that_exist(name):
    wide = models.facts(name).get("wide", {})
    assert bool(wide) == bool(models.facts(name).get("space"))  # what is searched at all
    sizes = [n for choices in wide.values() for n in choices if n]
    assert not wide or ({128} if name == "mult" else {128, 256}) <= set(sizes)
    data = DataSpec({"text": Modality(6), "face": Modality(4)}, TASKS["seven"])
    for setting, choices in wide.items():
        build_model(name, data, {setting: choices[0]})
        build_model(name, data, {setting: choices[-1]})


def test_ensembles_have_a_loss_a_member_and_the_graph_can_be_left_out():
    turns = DataSpec({m: Modality(4, "vector") for m in ("text", "voice")}, TASKS["iemocap4"], per_step=True)
    batch = drawn_batch(turns, (5, 3, 2), torch.Generator().manual_seed(0))
    for name, settings in (("bc_lstm", dict(members=3)), ("bilstm_graph", dict(graph=False, dense=8))):
        torch.manual_seed(0)
        model = build_model(name, turns, dict(hidden=6) | settings)
        check_model(model, batch, 4)
        assert len(trained_outputs(model, batch)) == 3
        torch.testing.assert_close(
            model(batch).exp(), model.member_outputs(batch).softmax(-1).mean(0), atol=1e-6, rtol=1e-5
        )
    assert not any("neighbours" in n for n, _ in model.named_parameters())
    assert len(trained_outputs(build_model("bc_lstm", turns, {}), batch)) == 1


@pytest.mark.parametrize("name", models.names(group="proposed") + models.names(group="ablation"))
def test_with_one_label_a_step_the_causal_proposed_model_hears_no_later_step(name):
    turns = DataSpec({m: Modality(4, "vector") for m in ("text", "voice")}, TASKS["seven"], per_step=True)
    batch = drawn_batch(turns, (7, 5), torch.Generator().manual_seed(0))
    small = dict(width=8, theta=0.2, tcn_levels=2, decision_readout="step")
    torch.manual_seed(0)
    causal, written = (build_model(name, turns, small | dict(causal=c)).eval() for c in (True, False))
    if name != "concat_only":  # without dynamics a step hears itself
        assert reached(causal, batch, "text").tolist() == [[False] * 3 + [True] * 4, [False] * 7]
        assert reached(written, batch, "text")[0, :3].any() == (name != "no_graph")  # one forward LSTM
    else:
        assert reached(causal, batch, "text")[0].tolist() == [i == 3 for i in range(7)]
