"""Every file of the real data is read by some reader.

A feature file runs through training like any data set.
"""

import numpy as np
import pytest

from msa_paper.core import MsaPaperError, data_folder
from msa_paper.data.catalogue import convert, load_corpus
from msa_paper.formats.generated import generated_mmsa, write_pickle
from msa_paper.formats.bc_lstm_csv import read_numbers
from msa_paper.formats.npz import read_npz
from msa_paper.formats.pickles import read_pickle
from msa_paper.formats.transcripts import transcript_table as READ
from msa_paper.data.mosei import mosei_videos
from msa_paper.jobs.notebook import run_row
from msa_paper.experiment.specification import RunSpec
from msa_paper.experiment.store import Store

REAL = [
    ("mosi", "context", {}),
    ("mosi", "official", dict(source="words")),
    ("mosei", "videos", {}),
    ("iemocap", "context", {}),
    ("iemocap", "B", dict(fold=9)),
    ("iemocap", "C", {}),
]
SHAPES = (7, 6), (9, 4), (11, 3)


def here(path):
    if not (data_folder() / path).exists():
        pytest.skip(f"no real data: {path} is not below MSA_PAPER_DATA")
    return data_folder() / path


@pytest.mark.parametrize("dataset, protocol, options", REAL, ids=lambda x: str(x))
def test_real_corpora(dataset, protocol, options):
    here(dataset)
    task = "iemocap4" if dataset == "iemocap" else "binary"
    corpus = load_corpus(dataset, protocol, task, **options)
    assert set(corpus.splits) == {"train", "validation", "test"}
    assert all(len(i) for i in corpus.splits.values())
    groups = {s: set(corpus.groups[i].tolist()) for s, i in corpus.splits.items()}
    if protocol != "B":  # there the speakers of a session share its dialogues
        seen = groups["train"] | groups["validation"]
        assert not groups["test"] & seen, "a video or dialogue is in train and test"


@pytest.mark.parametrize("name", READ)
def test_real_transcripts(name):
    here("sims" if name.startswith("sims") else name)
    table = READ[name](data_folder())
    assert table.id.is_unique
    assert table.text.str.strip().ne("").all()
    assert table.label.notna().all()


def test_real_files_that_no_corpus_is_made_of():
    "The text features with labels, and the pickles that the whole videos were derived from."
    labels = []
    for part, n in (("train", 1447), ("test", 752)):
        table = read_numbers(here(f"mosi/bclstm/text_{part}0.csv"), 101)
        other = read_numbers(here(f"mosi/bclstm/audio_{part}0.csv"), 74)
        assert len(table) == n
        assert np.array_equal(table[:, -1], other[:, -1])
        labels.append(table)
    found = [read_pickle(here(f"mosei/video_level/JG_{part}_data.pkl")) for part in ("val", "test")]
    videos = read_npz(here("mosei/video_level/video_level_922.npz"))["video_id"]
    assert sum(len(x["labels"]) for x in found) == len(videos) == 922
    assert mosei_videos().notes == {"in_no_split": 21}


def test_a_feature_file_and_its_store_train_alike(tmp_path):
    "The same runs from an MMSA pickle and from what it was converted to."
    write_pickle(generated_mmsa("mosei", "unaligned_50", (40, 12, 12), SHAPES), tmp_path / "u.pkl")
    convert("mosei", "official", tmp_path / "u.safetensors", file=str(tmp_path / "u.pkl"), any_size=True)
    settings = dict(width=8, tcn_levels=1)
    small = dict(dataset="mosei", protocol="official", settings=settings, epochs=2, progress=False)
    metrics = []
    for name, options in (("u.pkl", dict(any_size=True)), ("u.safetensors", {})):
        results = tmp_path / name.replace(".", "_")
        run_row(RunSpec(**small, data=dict(file=str(tmp_path / name), **options), results=str(results)))
        metrics.append(Store(results).runs()[0].metrics)
    assert metrics[0] == metrics[1]
    assert metrics[0]["test"]["n"] == 12


def test_word_piece_numbers_are_refused_by_the_model(tmp_path):
    aligned = ((7, 6), (7, 4), (7, 3))
    write_pickle(generated_mmsa("mosei", "aligned_50", (9, 3, 4), aligned), tmp_path / "a.pkl")
    data = dict(file=str(tmp_path / "a.pkl"), any_size=True, text="text_bert")
    small = dict(dataset="mosei", protocol="official", epochs=1, progress=False)
    with pytest.raises(MsaPaperError, match="numbers of word pieces"):
        run_row(RunSpec(**small, data=data, results=str(tmp_path)))
