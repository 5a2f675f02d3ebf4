"""A text encoder inside the model: what is trained, what is held, at which rate, the same after a kill."""

import copy
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from msa_paper.batch import collate
from msa_paper.core import MsaPaperError
from msa_paper.corpus import Corpus, check_corpus
from msa_paper.data.catalogue import load_corpus
from msa_paper.data.own import adopt_from, own
from msa_paper.data.text_features import transcript_corpus
from msa_paper.experiment import training
from msa_paper.experiment.checkpoints import SafetensorsIO
from msa_paper.experiment.evaluation import evaluate, predict
from msa_paper.experiment.in_memory import train
from msa_paper.experiment.portable import encoders_needed, export_run, load
from msa_paper.experiment.run import run_seed
from msa_paper.experiment.search import run_trial
from msa_paper.experiment.specification import RunSpec, TuneSpec, spec_hash
from msa_paper.experiment.store import Store
from msa_paper.experiment.training import LAST, Training, fit
from msa_paper.experiment.trials import next_choice
from msa_paper.extract.text_encoder import load_text_encoder
from msa_paper.extract.token_numbers import tokenizer_digest
from msa_paper.formats.feature_store import open_corpus, store_corpus
from msa_paper.formats.generated_transcripts import write_generated_transcripts
from msa_paper.loaders import Sequences
from msa_paper.model.contract import build_model, check_model, count_parameters, drawn_batch
from msa_paper.model.text_encoder import stack_of, text_encoders
from msa_paper.schema import DataSpec, Modality
from msa_paper.tasks import TASKS

READERS = ("full", "no_decision_attention", "no_feature_attention", "no_graph", "concat_only")
ALONE = ("text_encoder", "bc_lstm", "raven", "mult")
SMALL = {m: dict(width=8, dropout=0.0, tcn_levels=1) for m in READERS} | {
    "text_encoder": dict(dropout=0.0),
    "bc_lstm": dict(hidden=4, dropout=0.0, input_dropout=0.0),
    "raven": dict(hidden=4, cells=4, dropout=0.0),
    "mult": dict(
        width=8,
        heads=2,
        layers=1,
        attention_dropouts=0.0,
        relu_dropout=0.0,
        embed_dropout=0.0,
        residual_dropout=0.0,
        language_dropout=0.0,
        output_dropout=0.0,
    ),
}


def write_encoder(folder, letters=string.ascii_lowercase, dropout=0.0, seed=0):
    "A random BERT of two layers that knows letters, as transformers saves one."
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{c}" for c in string.ascii_lowercase),
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    rates = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=40, **sizes, **rates)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    "Names of encoders: with dropout, without, with other weights, with another vocabulary; one thread."
    place, threads = tmp_path_factory.mktemp("encoders"), torch.get_num_threads()
    torch.set_num_threads(1)
    yield dict(
        still=write_encoder(place / "still"),
        dropping=write_encoder(place / "dropping", dropout=0.2),
        other=write_encoder(place / "other", seed=1),
        foreign=write_encoder(place / "foreign", string.ascii_letters),
    )
    torch.set_num_threads(threads)


def digest_of(name):
    return tokenizer_digest(load_text_encoder(name).tokenizer)


def planted(encoder, n=160, seed=0):
    """Texts that begin with 'a b' or with 'b a', an intensity of 1 or −1: of the order of two letters
    the mean of a random encoder's states says next to nothing."""
    rng, known = np.random.default_rng(seed), load_text_encoder(encoder).tokenizer
    labels = rng.choice([1.0, -1.0], n)
    rest = [rng.choice([*"cdefgh"], rng.integers(1, 5)) for _ in range(n)]
    texts = [" ".join([*("ab" if y > 0 else "ba"), *more]) for y, more in zip(labels, rest)]
    rows = known(texts)["input_ids"]
    cuts = np.r_[0, np.cumsum([len(r) for r in rows])]
    spec = DataSpec({"text": Modality(1, "ids", tokens=tokenizer_digest(known))}, TASKS["regression"])
    ids = np.array([f"s{i}" for i in range(n)])
    splits = dict(zip(("train", "validation", "test"), np.split(np.arange(n), [n * 5 // 8, n * 7 // 8])))
    x = {"text": np.concatenate(rows).astype(np.float32)[:, None]}
    y = labels.astype(np.float32)
    return check_corpus(Corpus("letters", "made", spec, x, {"text": cuts}, y, ids, splits, ids))


def spoken(folder, encoder, n=80):
    "The same texts as data of one's own, known by their name: the options of their reader."
    corpus, known = planted(encoder, n), load_text_encoder(encoder).tokenizer
    cuts, split = corpus.offsets["text"], {k: s for s, numbers in corpus.splits.items() for k in numbers}
    said = [
        known.decode(corpus.features["text"][a + 1 : b - 1, 0].astype(int)) for a, b in zip(cuts, cuts[1:])
    ]
    rows = [f"{i},{y:g},{split[k]},{said[k]}" for k, (i, y) in enumerate(zip(corpus.ids, corpus.labels))]
    folder.mkdir()
    (folder / "samples.csv").write_text("\n".join(["id,label,split,said", *rows]))
    task = 'name = "letters"\n[task]\nkind = "intensity"\nrange = [-1, 1]\n[samples]\nsplit = "split"\n'
    (folder / "data.toml").write_text(
        f'{task}[modalities.text]\ntext = "said"\nencoder = "{encoder}"\ntokens = true\n'
    )
    adopt_from("letters", str(folder))
    return dict(folder=str(folder))


def settings_of(model, encoder, **more):
    return SMALL[model] | dict(encoder=encoder) | more


def spec_of(model, encoder, trained=True, **fields):
    settings = settings_of(model, encoder, encoder_trained=trained, **fields.pop("settings", {}))
    usual = dict(epochs=3, batch_size=20, bucket_batches=2, warm_up=0.1, optimiser="adamw")
    some = dict(task="regression", dataset="letters", protocol="made", device="cpu", progress=False)
    return RunSpec(model=model, settings=settings, **some | usual | fields)


@pytest.mark.parametrize("trained", (False, True))
@pytest.mark.parametrize("model", READERS + ALONE)
def test_a_model_with_an_encoder_keeps_its_contract(encoders, model, trained):
    kinds = {
        "text": Modality(1, "ids", tokens=digest_of(encoders["still"])),
        "face": Modality(3, "frames", 2),
    }
    data = DataSpec(kinds, TASKS["seven"], aligned=False)
    torch.manual_seed(0)
    built = build_model(model, data, settings_of(model, encoders["still"], encoder_trained=trained))
    batch = drawn_batch(data, ((5, 9), (1, 4), (0, 3), (12, 0)), torch.Generator().manual_seed(0))
    check_model(
        built, batch, 7
    )  # padding, the order of a batch, a step of training, weights written and read
    ((where, encoder),) = text_encoders(built).items()
    whole = sum(p.numel() for p in load_text_encoder(encoders["still"]).model.parameters())
    assert count_parameters(encoder) == whole * trained
    assert (f"{where}.digest" in built.state_dict()) == (not trained)


@pytest.mark.parametrize("layers", (None, 1, 2))
def test_a_gradient_reaches_what_is_trained_and_nothing_else(encoders, layers):
    corpus = planted(encoders["still"], 40)
    batch = collate([Sequences(corpus, "train")[i] for i in range(8)])
    torch.manual_seed(0)  # a head whose every unit is off lets no gradient through
    more = dict(encoder_trained=True, encoder_layers=layers)
    built = build_model("full", corpus.spec, settings_of("full", encoders["still"], **more))
    ((_, encoder),) = text_encoders(built).items()
    built.train()(batch).square().sum().backward()
    held, own = encoder.held[0], {id(p) for p in built.parameters()}
    for name, p in held.named_parameters():
        learns = layers is None or f"encoder.layer.{2 - layers}." in name or "encoder.layer.1." in name
        assert (id(p) in own) == p.requires_grad == (p.grad is not None) == learns, name
        if learns and not name.endswith("key.bias"):  # to which softmax is blind: its gradient is rounding
            assert p.grad.abs().max() > 1e-8, name
    frozen = build_model("full", corpus.spec, settings_of("full", encoders["still"]))
    frozen.train()(batch).square().sum().backward()
    assert all(p.grad is None for p in text_encoders(frozen).popitem()[1].held[0].parameters())
    assert not list(text_encoders(frozen).popitem()[1].parameters())


def test_trained_on_it_learns_what_the_frozen_one_cannot(encoders):
    corpus, scores = planted(encoders["still"], 320), {}
    for trained in (False, True):
        fields = dict(encoder_learning_rate=5e-3) if trained else {}
        settings = dict(encoder=encoders["still"], encoder_trained=trained, dropout=0.0)
        told = dict(epochs=6, batch_size=20, bucket_batches=2, learning_rate=0.02, **fields)
        more = dict(warm_up=0.1, decline="linear", optimiser="adamw", device="cpu")
        found = train("text_encoder", corpus, 1, settings, **told, **more)
        scores[trained] = evaluate(found.module, corpus, "validation").metrics["mae"]
    assert scores[False] > 0.7
    assert scores[True] < 0.3


@pytest.mark.parametrize("space", ("encoder", "frozen"))
def test_how_an_encoder_is_trained_is_searched_beside_the_models_settings(encoders, space):
    settings = dict(encoder=encoders["still"], encoder_trained=space == "encoder")
    fixed = dict(settings=settings, batch_size=10, patience=99, warm_up=0.1, decline="linear")
    which = dict(dataset="letters", protocol="made", model="text_encoder", trials=2)
    spec = TuneSpec(**which, fixed=fixed, space=space, device="cpu", progress=False)
    stage, choice = next_choice(spec, [])
    assert stage == "quasi-random"
    assert ("encoder_learning_rate" in choice) == (space == "encoder")
    found = run_trial(spec, choice | dict(epochs=2), planted(encoders["still"], 40))
    assert found["epochs"] == 2
    assert found["score"] == found["loss"] > 0
    assert choice["epochs"] in ((2, 3, 4, 6) if space == "encoder" else (10, 20, 40))


class Killed(Exception):
    "What stands for a kill."


def fitted(spec, corpus, work, kill_after=None, monkeypatch=None):
    "A training, or what a kill after some epoch leaves of it."
    module = Training(spec, corpus.spec, 1)
    if kill_after is None:
        return module, fit(module, corpus, work)
    shown = training.History.on_train_epoch_end

    def killing(self, trainer, module):
        if trainer.current_epoch > kill_after:
            raise Killed
        shown(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(training.History, "on_train_epoch_end", killing)
        with pytest.raises(Killed):
            fit(module, corpus, work)


@pytest.mark.parametrize("trained", (False, True))
def test_killed_in_the_middle_it_ends_in_the_same_bits(encoders, tmp_path, monkeypatch, trained):
    corpus, name = planted(encoders["dropping"], 100), encoders["dropping"]
    checkpointing = dict(encoder_checkpointing=True)
    spec = spec_of("full", name, trained, settings=checkpointing, precision="bf16-mixed", decline="cosine")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    module, whole = fitted(spec, corpus, tmp_path / "a")
    fitted(spec, corpus, tmp_path / "b", 0, monkeypatch)
    again, taken_up = fitted(spec, corpus, tmp_path / "b")
    assert (whole.resumed_after, taken_up.resumed_after) == (None, 0)
    assert whole.history.equals(taken_up.history)
    assert len(whole.history) == 3
    assert all(torch.equal(w, again.state_dict()[n]) for n, w in module.state_dict().items())
    states = [
        SafetensorsIO().load_checkpoint(tmp_path / k / LAST)["optimizer_states"][0]["state"] for k in "ab"
    ]
    assert len(states[0]) == len(list(module.parameters()))
    assert all(torch.equal(v, states[1][k][n]) for k, s in states[0].items() for n, v in s.items())
    encoder = text_encoders(module).popitem()[1]
    assert bool(encoder.pretrained()) == trained
    kept = SafetensorsIO().load_checkpoint(tmp_path / "a" / LAST)["state_dict"]
    assert any("word_embeddings" in n for n in kept) == trained, "a frozen encoder is in no checkpoint"


def moved(spec, corpus, work):
    "How far each part of a model goes in a training of one epoch, and its last rates."
    rates = []

    class Watched(Training):
        "Notes the rates of every step."

        def on_train_batch_end(self, *_):
            rates.append([group["lr"] for group in self.optimizers().param_groups])

    module = Watched(spec, corpus.spec, 1)
    before = copy.deepcopy(module.state_dict())
    fit(module, corpus, work)
    far = {n: float((w.float() - before[n].float()).abs().max()) for n, w in module.state_dict().items()}
    return far, torch.tensor(rates)


def test_the_encoder_moves_at_its_own_rate_and_both_warm_up(encoders, tmp_path):
    corpus = planted(encoders["still"], 160)  # 100 in training: 10 steps of 10
    fields = dict(epochs=1, batch_size=10, learning_rate=1e-2, encoder_learning_rate=1e-5)
    spec = spec_of("text_encoder", encoders["still"], **fields | dict(warm_up=0.4, decline="linear"))
    far, rates = moved(spec, corpus, tmp_path)
    wanted = torch.tensor([0, 1, 2, 3, 4, 10 / 3, 8 / 3, 2, 4 / 3, 2 / 3]) / 4
    # Lightning moves the schedule on before a step is told to have ended
    torch.testing.assert_close(rates[:, 0], torch.cat([wanted[1:], wanted[:1]]) * 1e-2)
    torch.testing.assert_close(rates[:, 2] * 1e3, rates[:, 0])
    encoder = [d for n, d in far.items() if ".trained." in n]
    assert 0 < max(encoder) <= 10 * 1e-5 * 1.5
    assert far["model.head.weight"] > 1e-3


def test_without_a_rate_of_its_own_the_encoder_has_a_tenth_and_a_frozen_one_none(encoders):
    corpus = planted(encoders["still"], 40)
    spec = spec_of("full", encoders["still"], warm_up=None)
    (optimiser,), _ = Training(spec, corpus.spec, 1).configure_optimizers()
    assert [group["lr"] for group in optimiser.param_groups] == [1e-3, 1e-3, 1e-4]
    assert [group["weight_decay"] for group in optimiser.param_groups] == [1e-3, 0, 0]
    frozen = spec_of("full", encoders["still"], False, warm_up=None)
    (optimiser,), _ = Training(frozen, corpus.spec, 1).configure_optimizers()
    assert len(optimiser.param_groups) == 2
    asked = frozen.model_copy(update=dict(encoder_learning_rate=1e-4))
    with pytest.raises(MsaPaperError, match="no text encoder is trained"):
        Training(asked, corpus.spec, 1).configure_optimizers()


def test_a_run_without_fine_tuning_is_called_what_it_was_called():
    assert spec_hash(RunSpec()) == "0bb7fc10"
    assert (
        spec_hash(RunSpec(encoder_learning_rate=None, warm_up=None, decline=None, optimiser=None))
        == "0bb7fc10"
    )
    assert len({spec_hash(RunSpec(warm_up=w)) for w in (None, 0, 0.1)}) == 3


@pytest.fixture
def features(tmp_path, monkeypatch):
    "Token numbers are kept here."
    monkeypatch.setattr("msa_paper.extract.token_numbers.project_folder", lambda: tmp_path)
    return tmp_path / "data" / "features"


def stored(place, encoder, model, trained):
    "A run of a moment on data of one's own, and these."
    data = spoken(place / "mine", encoder)
    own = dict(dataset="letters", protocol="own", task="letters", data=data, epochs=1)
    corpus = load_corpus("letters", "own", "letters", **data)
    return run_seed(spec_of(model, encoder, trained, **own), 1, corpus, Store(place / "store")), corpus


@pytest.mark.parametrize("trained", (False, True))
def test_a_run_is_stored_exported_and_predicts_elsewhere(encoders, tmp_path, features, trained):
    name = encoders["still"]
    run, corpus = stored(tmp_path, name, "no_graph", trained)
    assert len(list(features.glob("tokens-*.safetensors"))) == 1
    ((where, told),) = run.read("provenance.json")["encoders"].items()
    assert where == "encoders.encoders.text.states"
    assert told["digest"] == load_text_encoder(name).digest
    assert ("not stored" in told["weights"]) == (not trained)
    loaded = load(export_run(run, tmp_path / "taken"), "cpu")
    ours = run.predictions.query("split == 'test'").prediction.to_numpy()
    assert np.array_equal(loaded.predict(corpus, "test").prediction.to_numpy(), ours)
    (sentence,) = encoders_needed(tmp_path / "taken")
    assert f"'{name}'" in sentence
    alien = dict(corpus.spec.modalities, text=Modality(1, "ids", tokens=digest_of(encoders["foreign"])))
    with pytest.raises(MsaPaperError, match="the token numbers of 'text' are of tokenizer"):
        loaded.predict(replace(corpus, spec=replace(corpus.spec, modalities=alien)), "test")


def test_a_frozen_encoder_that_was_exchanged_is_noticed(encoders, tmp_path, features):
    place = tmp_path / "encoder"
    write_encoder(place)
    run, corpus = stored(tmp_path, str(place), "text_encoder", False)
    taken = export_run(run, tmp_path / "taken")
    before = load(taken, "cpu").predict(corpus, "test")
    for file in Path(encoders["other"]).iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    with pytest.raises(MsaPaperError, match=r"(?s)belong to an encoder of digest .*put the encoder"):
        load(taken, "cpu")
    for file in Path(encoders["still"]).iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    assert load(taken, "cpu").predict(corpus, "test").equals(before)


def test_numbers_of_another_tokenizer_are_refused(encoders):
    corpus = planted(encoders["still"], 40)
    with pytest.raises(MsaPaperError, match=r"(?s)and this encoder's is .*name the same encoder"):
        build_model("full", corpus.spec, dict(encoder=encoders["foreign"]))
    build_model(
        "full", corpus.spec, dict(encoder=encoders["other"], width=8)
    )  # other weights, the same words
    with pytest.raises(MsaPaperError, match="not numbers of word pieces"):
        build_model("lmf", corpus.spec, {})
    with pytest.raises(MsaPaperError, match="set encoder_trained as well"):
        build_model("full", corpus.spec, dict(encoder=encoders["still"], encoder_layers=1))
    with pytest.raises(MsaPaperError, match="encoder_layers=3, and it has 2"):
        build_model(
            "full",
            corpus.spec,
            settings_of("full", encoders["still"], encoder_trained=True, encoder_layers=3),
        )


def test_a_store_of_numbers_is_exact_and_refuses_half_precision(encoders, tmp_path):
    corpus = planted(encoders["still"], 40)
    corpus.features["text"][0] = 2**24 - 1
    with pytest.raises(MsaPaperError, match="float16 does not hold token numbers exactly"):
        store_corpus(corpus, tmp_path / "half.safetensors", "float16")
    assert not list(tmp_path.iterdir())
    kept = open_corpus(store_corpus(corpus, tmp_path / "whole.safetensors"))
    assert kept.spec == corpus.spec
    assert kept.spec.modalities["text"].tokens == digest_of(encoders["still"])
    assert np.array_equal(kept.features["text"][0 : len(corpus.features["text"])], corpus.features["text"])
    batch = collate([Sequences(kept, "train")[0]])
    assert (
        Training(spec_of("full", encoders["still"]), corpus.spec, 1)
        .scale.fit(kept)(batch)
        .features["text"][0, 0]
        == 2**24 - 1
    )
    with pytest.raises(MsaPaperError, match="token number 1.67772e.07, where the vocabulary has 57 pieces"):
        build_model("full", kept.spec, settings_of("full", encoders["still"]))(batch)


def test_transcripts_of_the_project_and_ones_own_become_numbers(encoders, tmp_path, features):
    (tmp_path / "data").mkdir(exist_ok=True)
    write_generated_transcripts(tmp_path / "data", "mosi", (12, 4, 4))
    text = dict(tokens=True, model=encoders["still"], max_tokens=12)
    some = dict(any_size=True, folder=tmp_path / "data")
    corpus = transcript_corpus("mosi", "official", "regression", text, **some)
    modality = corpus.spec.modalities["text"]
    assert (modality.dim, modality.kind, modality.tokens) == (1, "ids", digest_of(encoders["still"]))
    assert corpus.lengths("text").max() <= 12
    assert corpus.notes["text"]["model"] == "still"
    assert [p.name.startswith("tokens-") for p in corpus.sources] == [True]
    frozen = transcript_corpus(
        "mosi", "official", "regression", text | dict(tokens=False), features=tmp_path, **some
    )
    assert frozen.spec.modalities["text"] == Modality(16, "tokens")
    assert np.array_equal(frozen.offsets["text"], corpus.offsets["text"])

    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [f"v{i},{(-1) ** i},talk{i // 2},a b {'c' * (i % 3)}" for i in range(12)]
    (folder / "samples.csv").write_text("\n".join(["id,label,group,said", *rows]))
    declared = dict(name="mine", task=dict(kind="intensity", range=[-1, 1]), samples=dict(group="group"))
    words = dict(text="said", encoder=encoders["still"], tokens=True)
    mine = own(folder, **declared, modalities=dict(words=words))
    assert mine.spec.modalities["words"] == Modality(1, "ids", tokens=digest_of(encoders["still"]))
    known = load_text_encoder(encoders["still"]).tokenizer("a b ")["input_ids"]
    cuts = mine.offsets["words"]
    assert np.asarray(mine.features["words"][cuts[0] : cuts[1]])[:, 0].tolist() == known
    found = train(
        "text_encoder", mine, 1, dict(encoder=encoders["still"], encoder_trained=True), epochs=1, device="cpu"
    )
    assert predict(found.module, mine, "test")[0].prediction.notna().all()
    with pytest.raises(MsaPaperError, match="token numbers are many"):
        per_step = dict(declared, task=declared["task"] | dict(per_step=True), samples=dict(sequence="group"))
        own(folder, **per_step, modalities=dict(words=words))
    with pytest.raises(MsaPaperError, match="needs a column of texts"):
        own(folder, **declared, modalities=dict(words=dict(tokens=True)))


def test_half_precision_on_a_processor_is_the_encoders_alone(encoders, tmp_path):
    corpus, seen = planted(encoders["still"], 40), {}
    spec = spec_of("full", encoders["still"], epochs=1, precision="bf16-mixed")
    module = Training(spec, corpus.spec, 1)
    (encoder,) = text_encoders(module).values()
    watched = dict(inside=stack_of(encoder.held[0])[0].attention.self.query, behind=module.model.head)
    for name, part in watched.items():
        part.register_forward_hook(
            lambda _, given, out, name=name: seen.setdefault(name, set()).add(out.dtype)
        )
    fit(module, corpus, tmp_path)
    assert seen == dict(inside={torch.bfloat16}, behind={torch.float32})
    assert all(p.dtype == torch.float32 for p in module.parameters())
    seen.clear()
    evaluate(module, corpus, "validation")
    assert seen == dict(inside={torch.float32}, behind={torch.float32}), "in 32 bits when it is used"
