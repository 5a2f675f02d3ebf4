"""RAVDESS: names of clips, folds that share no actor, one fold of made-up clips trained from sound."""

import json
import os
import re
from unittest.mock import patch

import numpy as np
import pytest

from msa_paper.core import MsaPaperError, data_folder
from msa_paper.data.audit import audit
from msa_paper.data.catalogue import load_corpus
from msa_paper.data.ravdess import FIELDS, actor_splits, clips_in, spoken, write_generated_clips
from msa_paper.experiment.published import open_results
from msa_paper.experiment.run import run_seed
from msa_paper.experiment.specification import RunSpec
from msa_paper.experiment.store import Store
from msa_paper.experiment.study_tables import TABLES
from msa_paper.report.pooled import REFERENCE

pytest.importorskip("av", reason="no clip is read without PyAV: pip install .[media]")
pytest.importorskip("soundfile", reason="no clip is made up without soundfile: pip install .[media]")
TASK = "ravdess_emotions"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    "A data folder with made-up clips of six actors."
    folder = tmp_path_factory.mktemp("data")
    write_generated_clips(folder, takes=2)
    return folder


def options(folder, **more):
    return dict(any_size=True, folder=str(folder), features=str(folder / "features")) | more


@pytest.mark.parametrize("actors", [6, 7, 9, 14, 24])
def test_no_actor_is_on_two_sides(actors):
    who = np.repeat(np.arange(1, actors + 1), 4)
    tested = []
    for fold in range(actors // 2):
        splits = actor_splits(who, fold)
        sides = [set(who[i].tolist()) for i in splits.values()]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides)) == actors
        assert sorted(np.concatenate([*splits.values()]).tolist()) == [*range(4 * actors)]
        tested += set(who[splits["test"]].tolist())
    assert sorted(tested) == [*range(1, actors + 1)], "every actor is tested once"


@pytest.mark.parametrize("name", ["03-01-01-01-01-01.flac", "03-01-01-01-01-01-1.wav", "a-b-c-d-e-f-g.flac"])
def test_names_that_ravdess_does_not_have(name, tmp_path):
    with pytest.raises(MsaPaperError, match="is no name of a RAVDESS clip of speech"):
        spoken(tmp_path / name)


@pytest.mark.parametrize("field", FIELDS)
def test_numbers_that_a_field_does_not_have(field, tmp_path):
    fields = dict(zip(FIELDS, ("03", "01", "05", "02", "01", "01", "12"))) | {field: "99"}
    with pytest.raises(MsaPaperError, match=f"its {field} is none of"):
        spoken(tmp_path / f"{'-'.join(fields.values())}.flac")


def test_a_clip_that_is_there_twice(made_up, tmp_path):
    for name in ("03-01-01-01-01-01-01.flac", "03-01-01-01-01-01-01.wav"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MsaPaperError, match="1 clips are there twice"):
        clips_in(tmp_path, any_size=True)


@pytest.mark.parametrize("source, dim", [("log_mel", 40), ("functionals", 47)])
def test_folds_of_made_up_clips(made_up, source, dim):
    pytest.importorskip("opensmile", reason="no functionals without openSMILE: pip install .[media]")
    corpus = load_corpus("ravdess", "folds", TASK, source=source, **options(made_up, fold=2))
    assert corpus.spec.modalities["audio"].dim == dim
    found = {f.id: f.state for f in audit(corpus, "cut-group", "shared-speaker")}
    assert found == {"cut-group": "told", "shared-speaker": "told"}


def test_a_clip_that_cannot_be_read_is_one_sentence(tmp_path):
    place = write_generated_clips(tmp_path, emotions=1)
    (place / "03-01-02-01-01-01-01.flac").write_bytes(b"no sound at all")
    with pytest.raises(MsaPaperError, match="a text, not a clip") as caught:
        load_corpus("ravdess", "folds", TASK, **options(tmp_path))
    assert "03-01-02-01-01-01-01.flac" in str(caught.value)
    assert not [*(tmp_path / "features").glob("sound-*.safetensors")]


def test_one_fold_is_trained_from_sound(made_up, tmp_path):
    data = options(made_up, fold=0)
    spec = RunSpec(
        dataset="ravdess", protocol="folds", task=TASK, data=data, model="concat_only", epochs=2,
        settings=dict(width=8, dropout=0.0), batch_size=16, monitor="accuracy", progress=False,
        results=str(tmp_path),
    )
    with patch.dict(os.environ, MSA_PAPER_DATA=str(made_up), MSA_PAPER_RUNS=str(tmp_path)):
        run = run_seed(spec, 1, load_corpus("ravdess", "folds", TASK, **data), Store(tmp_path))
    test = run.predictions[run.predictions.split == "test"]
    assert set(test.group) == {"actor 01", "actor 02"}
    assert run.metrics["test"]["n"] == 32
    assert 0 <= run.metrics["test"]["recall_mean"] <= 1
    assert (run.folder / "checkpoint.safetensors").is_file()


def test_the_real_clips():
    if not (data_folder() / "ravdess").is_dir():
        pytest.skip("no real data: ravdess is not below MSA_PAPER_DATA")
    real = [spoken(path) for path in clips_in(data_folder() / "ravdess")]
    assert len(real) == 824
    assert len({one.actor for one in real}) == 14


@pytest.mark.parametrize("study", ["ravdess", "packaged"])
def test_no_name_of_a_clip_is_published(study):
    "A name tells the label."
    found = open_results().studies[study]
    text = "".join(found.table(name).to_csv() for name in TABLES) + json.dumps(found.derived)
    assert "actor" not in text
    assert not re.search(r"03-01-0\d-0\d-", text)


def test_folds_are_published_as_one_test():
    derived = open_results().studies["ravdess"].derived
    names = [name for name in derived if name.startswith("pooled ")]
    assert f"pooled ravdess-folds-{TASK} {REFERENCE}" in names
    for told in (derived[name] for name in names):
        assert (told["folds"], told["groups"], told["n"]) == (7, 14, 824)
        assert told["chance"] < told["uar"]["low"] < told["uar"]["mean"] < told["uar"]["high"] < 1
