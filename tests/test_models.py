"""Declarations are read without importing models, building one imports one, searches keep theirs."""

import json
import subprocess
import sys

import pytest
import torch

from msa_paper.baselines import crossmodal, memory
from msa_paper.core import results_folder
from msa_paper.experiment.specification import short_hash
from msa_paper.experiment.search_space import SPACES, grid_of, points
from msa_paper.experiment.specification import TuneSpec
from msa_paper.experiment.trials import decides
from msa_paper.model.contract import build_model, drawn_batch
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
    declared = json.loads(json.dumps(SPACES[spec.model]))
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
    assert drawn == json.loads(json.dumps(points(SPACES[spec.model], len(drawn), spec.seed)))
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
