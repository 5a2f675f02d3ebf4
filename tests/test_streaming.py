"""A causal model hears no future, and a stream says what it says, however the clip is cut."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msa_paper.core import MsaPaperError, validated
from msa_paper.experiment.specification import RunSpec, short_hash, spec_hash
from msa_paper.model.causal_encoders import arrived
from msa_paper.model.contract import build_model, check_model, drawn_batch, picked
from msa_paper.model.proposed import VARIANTS, ProposedModel, ProposedSettings
from msa_paper.model.streaming import Stream, joined
from msa_paper.schema import DataSpec, Modality
from msa_paper.tasks import TASKS

NAMES = "text", "vision", "audio"
OUT_OF_STEP = {"text": Modality(5), "vision": Modality(4, "frames", 6), "audio": Modality(6, "spectrum", 2.5)}
quickly = settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@dataclass
class Case:
    "A causal model, a clip, and how the clip is cut."

    data: DataSpec
    variant: str
    told: dict
    lengths: tuple  # of each modality; 0 where the clip lacks it
    seed: int
    cuts: list

    def model(self):
        torch.manual_seed(self.seed)
        return ProposedModel(self.data, ProposedSettings(causal=True, **self.told), self.variant).eval()

    def batch(self):
        return drawn_batch(self.data, (self.lengths,), torch.Generator().manual_seed(self.seed))


@st.composite
def modalities(draw, aligned):
    kinds = st.sampled_from(["tokens", "frames", "spectrum", "vector"])
    rates = st.just(1.0) if aligned else st.sampled_from([0.4, 1.0, 2.0, 2.7, 6.0])
    names = NAMES[: draw(st.integers(1, 3))]
    paces = {m: draw(rates) if m != "text" else 1.0 for m in names}
    return {m: Modality(draw(st.integers(1, 5)), draw(kinds), pace) for m, pace in paces.items()}


@st.composite
def cases(draw):
    aligned = draw(st.booleans())
    found = draw(modalities(aligned))
    steps = draw(st.integers(1, 12))
    early = st.just(0) if aligned else st.integers(-4, 2)  # one ends before the first modality, or after it
    lengths = [max(int((steps + draw(early)) * k.rate), 1) for k in found.values()]
    lengths[0] = steps
    for m in range(len(lengths)):  # some modality may be missing, not the only one
        if draw(st.integers(0, 5)) == 0 and sum(map(bool, lengths)) > 1:
            lengths[m] = 0
    told = dict(
        width=draw(st.sampled_from([2, 4, 6])),
        theta=draw(st.sampled_from([0.0, 0.2, 0.5, 0.9])),
        learnable_theta=draw(st.booleans()),
        window=draw(st.integers(1, 4)),
        horizon=draw(st.none() | st.integers(1, 8)),
        tcn_levels=draw(st.integers(1, 2)),
        tcn_kernel=draw(st.integers(2, 3)),
        decision_reads=draw(st.sampled_from(["fused", "modality"])),
        vectors=draw(st.sampled_from(["as_is", "bilstm"])),
        bound=draw(st.none() | st.just(3.0)),
    )
    each = aligned and all(lengths) and draw(st.booleans())  # one label a step
    data = DataSpec(found, TASKS["regression"], each, aligned)
    variant, seed = draw(st.sampled_from(list(VARIANTS))), draw(st.integers(0, 99))
    cuts = draw(st.lists(st.tuples(*[st.integers(0, 7)] * len(found)), max_size=8))
    return Case(data, variant, told, tuple(lengths), seed, cuts)


def aligned_batch(case):
    "As a corpus gives it: aligned modalities are padded to one length."
    batch, T = case.batch(), max(case.lengths)
    if not case.data.aligned:
        return batch
    x = {m: torch.nn.functional.pad(v, (0, 0, 0, T - v.shape[1])) for m, v in batch.features.items()}
    masks = {m: torch.arange(T)[None] < n for m, n in zip(x, case.lengths)}
    return replace(batch, features=x, masks=masks)


def heard(stream, clip, cuts):
    "What is said of a clip that comes in pieces, the rest of it in one."
    found, at = [], dict.fromkeys(clip, 0)
    for cut in [*cuts, [10**6] * len(NAMES)]:
        piece = {m: v[at[m] : at[m] + n] for (m, v), n in zip(clip.items(), cut)}
        found.append(stream.push(piece))
        at = {m: at[m] + len(v) for m, v in piece.items()}
    return joined([*found, stream.finish()])


@quickly
@given(cases())
def test_however_a_clip_is_cut_its_verdicts_are_those_of_the_offline_model(case):
    model, batch = case.model(), aligned_batch(case)
    clip = {m: x[0, :n] for (m, x), n in zip(batch.features.items(), case.lengths) if n}
    found = heard(Stream(model, clip), clip, case.cuts)
    with torch.no_grad():
        said, there = model.verdicts(batch)
    assert len(found) == int(there.sum())
    torch.testing.assert_close(found.outputs, said[0, : len(found)], atol=1e-5, rtol=1e-5)


@quickly
@given(cases(), st.integers(0, 11))
def test_what_comes_after_a_step_changes_nothing_that_was_said(case, i):
    model, batch = case.model(), aligned_batch(case)
    clock = next(m for m, n in zip(case.data.modalities, case.lengths) if n)
    changed = {m: x.clone() for m, x in batch.features.items()}
    for m, x in changed.items():
        x[0, int(arrived(i, model.encoders.pace(m, clock))) :] += 2
    with torch.no_grad():
        before, there = model.verdicts(batch)
        after, _ = model.verdicts(replace(batch, features=changed))
    n = min(i + 1, int(there.sum()))
    torch.testing.assert_close(after[0, :n], before[0, :n], atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_causal_model_keeps_what_every_model_has_to_keep(variant):
    told = dict(width=8, tcn_levels=1, theta=0.2, causal=True)
    data = DataSpec(OUT_OF_STEP, TASKS["iemocap4"], aligned=False)
    batch = drawn_batch(data, ((6, 36, 15), (3, 0, 8), (0, 12, 5)), torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = build_model(variant, data, told)
    check_model(model, batch, 4)
    alone = model(picked(batch, torch.tensor([1])))
    torch.testing.assert_close(model.verdicts(batch)[0][1, 2], alone[0])


def test_two_streams_of_one_model_do_not_hear_each_other():
    data = DataSpec({"text": Modality(5), "voice": Modality(3, "frames")}, TASKS["regression"])
    torch.manual_seed(0)
    model = build_model("full", data, dict(width=4, causal=True, theta=0.1))
    clips = [{m: torch.randn(6, k.dim) for m, k in data.modalities.items()} for _ in range(2)]
    alone = [Stream(model).push(clip).outputs for clip in clips]
    streams = [Stream(model) for _ in clips]
    rows = [s.push({m: x[i : i + 1] for m, x in c.items()}) for i in range(6) for s, c in zip(streams, clips)]
    for k, whole in enumerate(alone):
        torch.testing.assert_close(joined(rows[k::2]).outputs, whole, atol=1e-5, rtol=0)


def test_nothing_of_a_long_stream_grows_with_a_horizon():
    kinds = {"text": Modality(3), "vision": Modality(2, "frames", 6)}
    data = DataSpec(kinds, TASKS["regression"], aligned=False)
    model = build_model("full", data, dict(width=4, causal=True, theta=0.0, horizon=10))
    stream = Stream(model)

    def kept():
        graph = stream.dynamics.graph
        rows = [graph.states, graph.lengths, *graph.said]
        return [*(r.rows.numel() for r in rows), *(len(m.waiting) for m in stream.incoming.values())]

    sizes = set()
    for _ in range(40):
        stream.push({"text": torch.randn(5, 3), "vision": torch.randn(30, 2)})
        sizes.add(tuple(kept()))
    assert stream.steps == 200
    assert len(sizes) == 2  # after the first chunk, of five steps, and ever after
    assert {s[0] for s in sizes} == {5 * 4, 10 * 4}


def test_what_a_causal_model_cannot_do_is_told():
    for wrong, told in (
        (dict(causal=True, steps=50), "takes steps as they come"),
        (dict(horizon=5), "a horizon needs causal=True"),
    ):
        with pytest.raises(MsaPaperError, match=told):
            validated(ProposedSettings, wrong, "model 'full'")
    data = DataSpec({"text": Modality(3)}, TASKS["regression"])
    for name in ("full", "tfn", "no_graph"):
        with pytest.raises(MsaPaperError, match="cannot follow a stream"):
            Stream(build_model(name, data, {}))


def test_the_new_settings_change_no_name_of_a_run_and_no_parameter_of_a_model():
    assert spec_hash(RunSpec()) == "0bb7fc10"
    data = DataSpec(OUT_OF_STEP, TASKS["iemocap4"], aligned=False)
    named = {n: tuple(p.shape) for n, p in build_model("full", data, dict(width=8)).named_parameters()}
    assert short_hash([*named.items()]) == "669800f9"  # as before there was a causal mode
    causal = build_model("full", data, dict(width=8, causal=True)).named_parameters()
    encoders = "encoders.encoders."
    assert {n: tuple(p.shape) for n, p in causal if not n.startswith(encoders)} == {
        n: shape for n, shape in named.items() if not n.startswith(encoders)
    }
