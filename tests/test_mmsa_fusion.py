"""TFN, LMF and MulT against MMSA 2.2.1: the same weights give the same outputs and the same gradients."""

import importlib.metadata
import importlib.util
from types import SimpleNamespace

import pytest
import torch

from msa_paper.baselines import lmf, mult, tfn
from msa_paper.benchmark.baselines import mmsa_class
from msa_paper.tasks import TASKS
from msa_paper.schema import DataSpec, Modality
from msa_paper.tasks import Task
from msa_paper.batch import Batch

VERSION = "2.2.1"
FOUND = importlib.util.find_spec("MMSA")
FOUND = FOUND if FOUND and importlib.metadata.version("MMSA") == VERSION else None
pytestmark = pytest.mark.skipif(
    FOUND is None,
    reason=f"MMSA {VERSION} is not there: `pip install --no-deps MMSA=={VERSION}` to compare with it",
)
DIMS = {"text": (768, 300, 24), "audio": (5, 74, 7), "vision": (20, 35, 11)}
CASES = [dict(zip(DIMS, dims)) for dims in zip(*DIMS.values())]
NAMES = "mosi-bert", "mosei-glove", "small"
STEPS = {"text": 50, "audio": 60, "vision": 70}


@pytest.fixture(scope="module")
def theirs():
    "MMSA's single-task models, loaded as they are."
    return {n: mmsa_class(n) for n in ("TFN", "LMF", "MULT")}


def spec(dims, classes=0):
    "The modalities in the order that gives the fused tensor its order: text, vision, audio."
    order = {m: Modality(dims[m], "tokens" if m == "text" else "frames") for m in ("text", "vision", "audio")}
    return DataSpec(
        order, Task("classes", tuple("abc"[:classes])) if classes else TASKS["regression"], aligned=False
    )


def batch(dims, B=6, seed=0):
    "Sequences of different lengths in arrays with zeros behind, which MMSA reads as data."
    g = torch.Generator().manual_seed(seed)
    masks = {m: torch.arange(STEPS[m]) < torch.randint(1, STEPS[m] + 1, (B, 1), generator=g) for m in dims}
    x = {m: torch.randn(B, STEPS[m], d, generator=g) * masks[m][..., None] for m, d in dims.items()}
    return Batch(x, masks, torch.randn(B, generator=g), [str(b) for b in range(B)])


def compare(ours, reference, pairs, x, run, tolerance=1e-5):
    "Equal weights, then equal outputs and gradients, in evaluation and (dropout is 0) in training."
    pairs = list(pairs)
    assert [p.shape for p, _ in pairs] == [q.shape for _, q in pairs]
    assert {id(p) for p, _ in pairs} == {id(p) for p in ours.parameters()}
    for p, q in pairs:
        with torch.no_grad():
            q.normal_(std=0.1)
            p.copy_(q)
    for mode in (True, False):
        ours.train(mode), reference.train(mode)
        a, b = ours(x), run(reference, x)
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
        ours.zero_grad(), reference.zero_grad()
        a.square().sum().backward(), b.square().sum().backward()
        for p, q in pairs:
            if p.requires_grad and p.grad is not None:
                torch.testing.assert_close(p.grad, q.grad, atol=10 * tolerance, rtol=100 * tolerance)
            else:
                assert not p.requires_grad or q.grad is None


def means(model, x):
    "MMSA averages audio and vision over the array before the model sees them."
    return model(
        x.features["text"],
        x.features["audio"].mean(1, keepdim=True),
        x.features["vision"].mean(1, keepdim=True),
    )["M"]


def options(dims, classes, **more):
    return SimpleNamespace(
        feature_dims=[dims[m] for m in ("text", "audio", "vision")],
        num_classes=classes,
        train_mode="classification" if classes else "regression",
        **more,
    )


@pytest.mark.parametrize("classes", (0, 3))
@pytest.mark.parametrize("dims", CASES, ids=NAMES)
def test_tfn(theirs, dims, classes):
    reference = theirs["TFN"](
        options(dims, classes, hidden_dims=[16, 6, 9], text_out=5, dropouts=[0, 0, 0, 0], post_fusion_dim=12)
    )
    s = tfn.TFNSettings(
        variant="mmsa",
        language_width=16,
        language_out=5,
        widths=dict(audio=6, vision=9),
        dropouts=0,
        post_width=12,
        post_dropout=0,
    )
    ours = tfn.TFN(spec(dims, classes), s)
    trained = [q for q in reference.parameters() if q.requires_grad]
    assert sum(q.numel() for q in reference.parameters()) == sum(q.numel() for q in trained) + 2
    compare(ours, reference, zip(ours.parameters(), trained), batch(dims), means)


@pytest.mark.parametrize("classes", (0, 3))
@pytest.mark.parametrize("dims", CASES, ids=NAMES)
def test_lmf(theirs, dims, classes):
    reference = theirs["LMF"](options(dims, classes, hidden_dims=[16, 6, 9], dropouts=[0, 0, 0, 0], rank=4))
    s = lmf.LMFSettings(variant="mmsa", language_width=16, widths=dict(audio=6, vision=9), dropouts=0, rank=4)
    ours = lmf.LMF(spec(dims, classes), s)
    fusion, rest = list(reference.parameters())[:5], list(reference.parameters())[5:]
    pairs = [
        *zip(ours.subnets.parameters(), rest),
        *zip([*ours.head.factors, ours.head.weights, ours.head.bias], fusion),
    ]
    skipped = {id(q) for q in fusion[3:]}  # MMSA's optimiser takes parameters [:3] and [5:]
    assert all(p.requires_grad != (id(q) in skipped) for p, q in pairs)
    compare(ours, reference, pairs, batch(dims), means)


@pytest.mark.parametrize("future_mask", (True, False))
@pytest.mark.parametrize("kernels", ((1, 1, 1), (5, 1, 3)))
@pytest.mark.parametrize("dims", CASES + [dict(text=9, audio=12, vision=4)], ids=(*NAMES, "one-is-d-wide"))
def test_mult(theirs, dims, kernels, future_mask):
    drops = dict(
        attn_dropout=0.0,
        attn_dropout_a=0.0,
        attn_dropout_v=0.0,
        relu_dropout=0.0,
        embed_dropout=0.0,
        res_dropout=0.0,
        output_dropout=0.0,
        text_dropout=0.0,
    )
    k = dict(zip(("conv1d_kernel_size_l", "conv1d_kernel_size_a", "conv1d_kernel_size_v"), kernels))
    reference = theirs["MULT"](
        options(
            dims,
            0,
            use_bert=False,
            dst_feature_dim_nheads=(12, 3),
            nlevels=2,
            attn_mask=future_mask,
            **drops,
            **k,
        )
    )
    s = mult.MulTSettings(
        variant="mmsa",
        width=12,
        heads=3,
        layers=2,
        kernels=dict(zip(("text", "audio", "vision"), kernels)),
        future_mask=future_mask,
        attention_dropouts=0,
        relu_dropout=0,
        embed_dropout=0,
        residual_dropout=0,
        language_dropout=0,
        output_dropout=0,
    )
    data = spec(dims)
    ours = mult.MulT(
        DataSpec({m: data.modalities[m] for m in ("text", "audio", "vision")}, data.task, aligned=False), s
    )
    compare(
        ours,
        reference,
        zip(ours.parameters(), reference.parameters()),
        batch(dims),
        lambda model, x: model(*x.features.values())["M"],
    )
