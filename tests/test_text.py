"""Text features: killed in the middle they end in the same bytes, and two processes do not disturb each other."""
import os
import signal
import string
import subprocess
import sys
import time

import pytest

from conftest import PROJECT
from msa_paper.extract.text import read_text_features

CALL = """
import sys, torch
torch.set_num_threads(1)
from msa_paper.extract.text import extract_text
ids = [f"t{{i}}" for i in range(3000)]
texts = [" ".join(["good", "bad", "film"][(i * k) % 3] for k in range(i % 25)) for i in range(3000)]
print(extract_text(ids, texts, sys.argv[1], model={model!r}, budget=64), flush=True)
"""


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    "A program that extracts 3,000 generated texts with a tiny encoder."
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, "good", "bad", "film"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), pad_token_id=0, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, max_position_embeddings=40)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    return [sys.executable, "-c", CALL.format(model=str(folder))]


@pytest.fixture(scope="module")
def undisturbed(call, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([*call, folder], cwd=PROJECT, check=True, capture_output=True)
    return next(folder.glob("text-*.safetensors")).read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_killed_in_the_middle_it_ends_in_the_same_bytes(call, undisturbed, tmp_path):
    running = subprocess.Popen([*call, tmp_path], cwd=PROJECT, stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list(tmp_path.glob("*.partial/done")):
        assert time.time() < deadline and running.poll() is None, "the extraction did not begin"
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not list(tmp_path.glob("*.safetensors")), "a killed extraction must leave no result"
    done = int(next(tmp_path.glob("*.partial/done")).read_text())
    assert done > 0
    assert subprocess.run([*call, tmp_path], cwd=PROJECT, capture_output=True).returncode == 0
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]
    assert next(tmp_path.iterdir()).read_bytes() == undisturbed


def test_two_processes_end_with_one_result(call, undisturbed, tmp_path):
    both = [subprocess.Popen([*call, tmp_path], cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [p.communicate(timeout=300)[0].splitlines()[-1] for p in both]
    assert told[0] == told[1] and [p.returncode for p in both] == [0, 0]
    assert next(tmp_path.glob("*.safetensors")).read_bytes() == undisturbed
    features = read_text_features(told[0])
    assert len(features) == 3000 and features.facts["empty"] == 120 and len(features[24]) == 26
