"""MFN and Graph-MFN against MMSA 2.2.1: same weights, same outputs and gradients, and its known defects."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from msa_paper.baselines import graph_mfn, mfn
from msa_paper.baselines.graph_mfn import GraphMFN, GraphMFNSettings
from msa_paper.baselines.mfn import MFN, MFNSettings
from msa_paper.tasks import TASKS
from msa_paper.schema import DataSpec, Modality
from msa_paper.batch import Batch

VERSION = "2.2.1"
FOUND = importlib.util.find_spec("MMSA")
FOUND = FOUND if FOUND and importlib.metadata.version("MMSA") == VERSION else None
needs_mmsa = pytest.mark.skipif(
    FOUND is None,
    reason=f"MMSA {VERSION} is not there: `pip install --no-deps MMSA=={VERSION}` to compare with it",
)
ORDER = "text", "audio", "vision"
# preset → sizes of text, audio, vision
CASES = {"mosi": (768, 5, 20), "mosei": (300, 74, 35), "sims": (768, 33, 709)}


def theirs(module, name):
    "A class of MMSA from its own file, loaded as it is, without the rest of the package."
    path = Path(FOUND.submodule_search_locations[0], "models", module).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"mmsa_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def data_of(case, aligned=True):
    return DataSpec(
        {m: Modality(d, "tokens" if m == "text" else "frames") for m, d in zip(ORDER, CASES[case])},
        TASKS["regression"],
        aligned=aligned,
    )


def batch_of(data, steps, ragged, B=5):
    "Arrays with zeros behind the sequences, which MMSA reads as data."
    g = torch.Generator().manual_seed(0)
    lengths = {
        m: torch.randint(1, n + 1, (B, 1), generator=g) if ragged else torch.full((B, 1), n)
        for m, n in zip(ORDER, steps)
    }
    if data.aligned:
        lengths = dict.fromkeys(ORDER, lengths["text"])
    masks = {m: torch.arange(n) < lengths[m] for m, n in zip(ORDER, steps)}
    x = {
        m: torch.randn(B, n, data.modalities[m].dim, generator=g) * masks[m][..., None]
        for m, n in zip(ORDER, steps)
    }
    return Batch(x, masks, torch.randn(B, generator=g), [str(b) for b in range(B)])


def aligned_by_mmsa(data, arrays):
    "What MMSA's model-side alignment makes of its arrays."
    args = SimpleNamespace(
        feature_dims=[data.modalities[m].dim for m in ORDER], seq_lens=[a.shape[1] for a in arrays]
    )
    return theirs("subNets/AlignNets", "AlignSubNet")(args, "avg_pool")(*arrays)


def options(data, settings, **more):
    def net(layer):
        return {"shapes": layer["width"], "drop": layer.get("dropout", 0)}

    return SimpleNamespace(
        feature_dims=[data.modalities[m].dim for m in ORDER],
        hidden_dims=[settings["hidden"][m] for m in ORDER],
        memsize=settings["memory"],
        windowsize=2,
        train_mode="regression",
        gamma1Config=net(settings["retain"]),
        gamma2Config=net(settings["update"]),
        outConfig=net(settings["out"]),
        device="cpu",
        **more,
    )


def shared_pairs(ours, ref, proposal):
    "Weights of the LSTMs, the memory and the head: ours, theirs."
    for m, letter in zip(ORDER, "lav"):
        for name, p in getattr(ref, f"lstm_{letter}").named_parameters():
            yield getattr(ours.lstms.lstms[m], f"{name}_l0"), p
    nets = (
        (ours.proposal, proposal),
        (ours.memory.retain, "gamma1"),
        (ours.memory.update, "gamma2"),
        (ours.head, "out"),
    )
    for net, name in nets:
        for i, layer in ((0, "fc1"), (3, "fc2")):
            yield from zip(net[i].parameters(), getattr(ref, f"{name}_{layer}").parameters())


def mfn_pairs(ours, ref):
    yield from shared_pairs(ours, ref, "att2")
    for i, layer in ((0, "fc1"), (3, "fc2")):
        yield from zip(ours.attention[i].parameters(), getattr(ref, f"att1_{layer}").parameters())


def graph_pairs(ours, ref):
    yield from shared_pairs(ours, ref, "att2")
    for m, letter in zip(ORDER, "lav"):
        yield from zip(ours.vertices[m].parameters(), getattr(ref, f"{letter}_transform").parameters())
    their = ref.graph_mfn
    for key, net in their.networks.items():
        yield from zip(ours.graph.nodes["+".join(ORDER[i] for i in key)].parameters(), net.parameters())
    yield from zip(ours.graph.output.parameters(), their.t_network.parameters())
    yield from zip(ours.graph.efficacy.parameters(), their.efficacy_model.parameters())


def compare(ours, ref, pairs, batch, arrays):
    "Equal weights in evaluation: equal outputs, equal gradients, every weight of ours among the pairs."
    pairs = list(pairs)
    assert {id(p) for p, _ in pairs} == {id(p) for p in ours.parameters()}
    for p, q in pairs:
        assert p.shape == q.shape
        with torch.no_grad():
            p.copy_(q)
    ours.eval(), ref.eval()
    a, b = ours(batch), ref(*arrays)["M"]
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert b.std() > 1e-4
    a.square().sum().backward(), b.square().sum().backward()
    for p, q in pairs:
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-3)


def build_mfn(case, variant, **more):
    torch.manual_seed(0)
    settings = mfn.PRESETS["mmsa"][case]["settings"] | dict(variant=variant, padded=None)
    data = data_of(case)
    args = options(
        data,
        settings,
        NN1Config={"shapes": settings["attention"]["width"], "drop": 0},
        NN2Config={"shapes": settings["proposal"]["width"], "drop": 0},
    )
    return data, MFN(data, MFNSettings(**settings | more)), theirs("singleTask/MFN", "MFN")(args)


@needs_mmsa
@pytest.mark.parametrize("case", CASES)
def test_mfn_official_equals_the_module_on_sequences(case):
    data, ours, ref = build_mfn(case, "official")
    batch = batch_of(data, (9, 9, 9), ragged=False)
    compare(ours, ref, mfn_pairs(ours, ref), batch, [batch.features[m] for m in ORDER])


@needs_mmsa
@pytest.mark.parametrize("case", CASES)
def test_mfn_mmsa_equals_the_module_behind_its_loader(case):
    data, ours, ref = build_mfn(case, "mmsa", padded=20)
    batch = batch_of(data, (20, 20, 20), ragged=True)
    t, a, v = (batch.features[m] for m in ORDER)
    arrays = aligned_by_mmsa(data, (t, a.mean(1, keepdim=True), v.mean(1, keepdim=True)))
    assert torch.equal(arrays[1][:, 0], arrays[1][:, 19]) and arrays[1].shape[1] == 20  # one step, repeated
    compare(ours, ref, mfn_pairs(ours, ref), batch, arrays)


def build_graph(case, aligned=True, **more):
    torch.manual_seed(0)
    settings = graph_mfn.PRESETS["mmsa"][case]["settings"] | dict(padded=None)
    data = data_of(case, aligned)
    args = options(
        data,
        settings,
        inner_node_dim=settings["node"],
        NNConfig={"shapes": settings["proposal"]["width"], "drop": 0},
    )
    return (
        data,
        GraphMFN(data, GraphMFNSettings(**settings | more)),
        theirs("singleTask/Graph_MFN", "Graph_MFN")(args),
    )


@needs_mmsa
@pytest.mark.parametrize("trained", (True, False))
@pytest.mark.parametrize("case", CASES)
def test_graph_mfn_equals_the_module_behind_its_alignment(case, trained):
    steps = (7, 40, 17) if case == "sims" else (9, 9, 9)  # CH-SIMS is out of step
    data, ours, ref = build_graph(case, case != "sims", train_nodes=trained)
    batch = batch_of(data, steps, ragged=True)
    compare(
        ours, ref, graph_pairs(ours, ref), batch, aligned_by_mmsa(data, [batch.features[m] for m in ORDER])
    )
    registered, ours_trained = (
        sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ref, ours)
    )
    assert (ours_trained == registered) == (not trained)


@needs_mmsa
def test_a_checkpoint_of_mmsa_does_not_bring_its_graph_back():
    data, _, ref = build_graph("mosei")
    torch.manual_seed(1)
    with torch.no_grad():  # larger than at first, as after some training
        for p in (
            *ref.parameters(),
            *(p for net in ref.graph_mfn.networks.values() for p in net.parameters()),
        ):
            p.mul_(3)
    other = type(ref)(
        options(
            data,
            graph_mfn.PRESETS["mmsa"]["mosei"]["settings"],
            inner_node_dim=128,
            NNConfig={"shapes": 32, "drop": 0},
        )
    )
    other.load_state_dict(ref.state_dict())
    batch = batch_of(data, (6, 6, 6), ragged=False)
    arrays = [batch.features[m] for m in ORDER]
    same, again = ref.eval()(*arrays)["M"], other.eval()(*arrays)["M"]
    assert (same - again).abs().max() > 1e-4
    other.graph_mfn.networks = ref.graph_mfn.networks
    assert torch.equal(other(*arrays)["M"], same)  # it is these that were lost, nothing else


FRESH = """
import sys, torch
from safetensors.torch import load_file
from msa_paper.baselines.graph_mfn import GraphMFN, GraphMFNSettings
from msa_paper.tasks import TASKS
from msa_paper.schema import DataSpec, Modality
from msa_paper.batch import Batch
torch.set_num_threads(1)
data = DataSpec({m: Modality(3) for m in ("text", "audio", "vision")}, TASKS["regression"])
model = GraphMFN(data, GraphMFNSettings(variant=sys.argv[2], hidden=6, node=7))
model.load_state_dict(load_file(sys.argv[1]))
x = torch.linspace(-1, 1, 2 * 5 * 3).view(2, 5, 3)
masks = dict.fromkeys(data.modalities, torch.ones(2, 5, dtype=torch.bool))
batch = Batch(dict.fromkeys(data.modalities, x), masks, torch.zeros(2), ["a", "b"])
print([v.hex() for v in model.eval()(batch).flatten().tolist()])
"""


@pytest.mark.parametrize("variant", ("paper", "mmsa"))
def test_a_checkpoint_of_ours_brings_the_graph_back_in_a_fresh_process(variant, tmp_path):
    data = DataSpec({m: Modality(3) for m in ORDER}, TASKS["regression"])
    torch.manual_seed(5)
    model = GraphMFN(data, GraphMFNSettings(variant=variant, hidden=6, node=7)).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    x = torch.linspace(-1, 1, 2 * 5 * 3).view(2, 5, 3)
    batch = Batch(
        dict.fromkeys(ORDER, x),
        dict.fromkeys(ORDER, torch.ones(2, 5, dtype=torch.bool)),
        torch.zeros(2),
        ["a", "b"],
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = str([v.hex() for v in model(batch).flatten().tolist()])
    torch.set_num_threads(threads)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, tmp_path / "weights.safetensors", variant],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
