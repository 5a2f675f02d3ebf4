"Clips as they come become features: what is masked, what is reported, what is refused."

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from msa_paper.cli import main
from msa_paper.commands import extract as command
from msa_paper.core import read_json
from msa_paper.data.own import forget_own, own
from msa_paper.data.planted import planted_corpus
from msa_paper.experiment.run import run_seed
from msa_paper.experiment.specification import RunSpec
from msa_paper.experiment.store import Store
from msa_paper.experiment.training import Training
from msa_paper.extract import clip as clips
from msa_paper.extract.clock import on_one_clock, to_words
from msa_paper.extract.extraction import Extraction
from msa_paper.formats.feature_store import open_corpus
from msa_paper.jobs.clips import ClipEngine
from msa_paper.loaders import batches
from msa_paper.media.made_media import MadeSound, plain_pictures, write_clip
from msa_paper.media.timed import Timed, Word, nothing
from msa_paper.registry import model as models
from msa_paper.schema import Modality

pytest.importorskip("av", reason="PyAV is not installed: no clip can be made or read")

AUDIO = ["--set", 'streams=["audio"]']


def tone(pitch: float = 0.1, seconds: float = 0.5, start: float = 0.0) -> MadeSound:
    "A made sound."
    samples = np.sin(np.arange(round(16000 * seconds)) * pitch).astype(np.float32) / 4
    return MadeSound(samples, start=start, codec="pcm_s16le")


def stream(rng: np.random.Generator, words: list, width: int, seen: list) -> Timed:
    "Made-up features at the times of words."
    at, there = np.array([w.start for w in words]), np.array(seen, bool)
    values = rng.normal(size=(len(words), width)).astype(np.float32) * there[:, None]
    return Timed(values, at, np.array([w.end for w in words]), there)


@pytest.fixture
def made_up(monkeypatch):
    "Words and streams that depend on the name of a clip; every other clip has no face in the middle."

    def number(clip):
        return int(clip.path.stem[1:])

    def words_of(clip):
        return [Word(f"w{k}", k / 10, (k + 1) / 10) for k in range(3 + number(clip) % 3)]

    def text(clip, words):
        return stream(np.random.default_rng(number(clip)), words, 6, [True] * len(words))

    def vision(clip, words):
        seen = [k != 1 or number(clip) % 2 == 0 for k in range(len(words))]
        return stream(np.random.default_rng(100 + number(clip)), words, 4, seen)

    def audio(clip, words):
        return stream(np.random.default_rng(200 + number(clip)), words, 5, [True] * len(words))

    monkeypatch.setattr(clips, "words_of", words_of)
    monkeypatch.setattr(clips, "STREAMS", dict(text=text, vision=vision, audio=audio))
    monkeypatch.setattr(command, "engine_of", lambda where: ClipEngine(1, inside=True))
    yield
    forget_own()


def write_folder(folder: Path, n: int, labels: list | None = None) -> Path:
    "A folder of made clips and their table."
    folder.mkdir(parents=True)
    for k in range(n):
        write_clip(folder / f"c{k}.wav", sound=tone(0.05 + k / 50))
    y = labels or [f"{-1 + k / 8:g}" for k in range(n)]
    rows = [f"c{k},c{k}.wav,{y[k]},g{k // 2}" for k in range(n)]
    (folder / "samples.csv").write_text("id,file,label,group\n" + "\n".join(rows) + "\n")
    return folder


def asked(folder: Path, *more: str) -> list:
    "The command; the networks are stood for by an empty folder."
    nets = folder.parent / "nets"
    nets.mkdir(exist_ok=True)
    chosen = [f"{part}={nets}" for part in ("text", "speech", "expression")]
    return ["extract", str(folder), "--table", "samples.csv", "--set", *chosen, *more]


def test_sound_that_begins_late_is_masked_until_it_begins(tmp_path):
    path = write_clip(tmp_path / "late.mov", plain_pictures(50), sound=tone(seconds=1.4, start=0.6))
    for align, per_second in ((20, 10), ("unaligned", 100)):
        read = clips.extract_clip(path, settings=Extraction(streams=("audio",), align=align))
        there = read.steps["audio"].there
        assert abs(int(there.argmax()) - 0.6 * per_second) <= 1
        assert there[int(there.argmax()):].all()
        assert not read.steps["audio"].values[~there].any()
    assert any("0.600 s after" in r.told for r in read.remarks)


def test_zero_length_words_and_holes():
    begins = np.arange(10) / 5
    seen = np.array([True] * 3 + [False] * 4 + [True] * 3)
    face = Timed(np.arange(10, dtype=np.float32)[:, None] * seen[:, None], begins, begins + 0.2, seen)
    times = dict(a=(0, 0.4), b=(0.5, 0.5), c=(0.6, 1.4), d=(1.0, 1.0), e=(1.3, 1.5))
    words = [Word(text, *at) for text, at in times.items()]
    said = to_words(face, words)
    assert said.there.tolist() == [True, True, False, False, True]
    assert said.values[:, 0].tolist() == [0.5, 2, 0, 0, 7]
    both = on_one_clock({"text": nothing(3), "vision": face}, [], 4, 2.0)
    assert both["vision"].there.tolist() == [True, True, True, True]
    np.testing.assert_allclose(both["vision"].values[:, 0], [0.8, 2, 7, 8.2], rtol=1e-6)
    assert not both["text"].there.any()


def test_failures_are_reported_and_the_batch_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "engine_of", lambda where: ClipEngine(1, inside=True))
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip(folder / "good.wav", sound=tone())
    (folder / "text.txt").write_text("no clip\n")
    (folder / "empty.mp4").write_bytes(b"")
    rows = "id,file\n1,good.wav\n2,text.txt\n3,empty.mp4\n4,lost.mp4\n"
    (folder / "table.csv").write_text(rows)
    output = tmp_path / "features"
    command_line = ["extract", str(folder), "-o", str(output), "--table", "table.csv", "--align", "4", *AUDIO]
    assert main(command_line) == 1
    said = capsys.readouterr()
    assert "4 clips: 1 extracted (0 with remarks), 3 failed" in said.out
    assert said.err.splitlines() == ["2: a text, not a clip", "3: a file of zero length", "4: no such file"]
    report = pd.read_csv(output / "report.csv", dtype=str)
    assert report.outcome.tolist() == ["ok", "failed", "failed", "failed"]
    assert [c["id"] for c in read_json(output / "report.json")["clips"]] == ["1", "2", "3", "4"]
    assert open_corpus(output / "features.safetensors", labelled=False).ids.tolist() == ["1"]
    assert main([*command_line[:-3], "5", *AUDIO]) == 1
    refused = capsys.readouterr().err
    assert "this folder holds features of extractor" in refused
    assert "align 4 there, 5 here" in refused


SLOW = """
import sys, time
from pathlib import Path
from unittest.mock import patch
from msa_paper.extract import clip as clips
from msa_paper.extract.clip_table import wanted_clips
from msa_paper.extract.extraction import Extraction
from msa_paper.jobs.clips import ClipEngine
from msa_paper.jobs.features import extract_all
real = clips.audio_stream
def slow(clip, words):
    if clip.path.stem == "c2":
        time.sleep(600)
    return real(clip, words)
with patch.dict(clips.STREAMS, audio=slow):
    settings = Extraction(streams=("audio",), align=4)
    some = wanted_clips(Path(sys.argv[1]), Path("samples.csv"))
    extract_all(some, Path(sys.argv[2]), settings, ClipEngine(1, inside=True))
"""


def test_a_batch_that_was_killed_goes_on(tmp_path, monkeypatch, capsys):
    folder, output = write_folder(tmp_path / "clips", 4), tmp_path / "features"
    with open(tmp_path / "told", "w") as told:
        at_work = subprocess.Popen([sys.executable, "-c", SLOW, folder, output], stdout=told, stderr=told)
    try:
        for _ in range(600):
            if len(list(output.glob("clips/*.safetensors"))) == 2 or at_work.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        at_work.send_signal(signal.SIGKILL)
        at_work.wait()
    before = {p: p.stat().st_mtime_ns for p in output.glob("clips/*.safetensors")}
    assert len(before) == 2, (tmp_path / "told").read_text()
    monkeypatch.setattr(command, "engine_of", lambda where: ClipEngine(1, inside=True))
    assert main(["extract", str(folder), "-o", str(output), "--align", "4", *AUDIO]) == 0
    assert "4 clips: 4 extracted" in capsys.readouterr().out
    assert len(list(output.glob("clips/*.safetensors"))) == 4
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert not [p for p in output.rglob("*") if p.name.startswith(".") and p.name != ".gitignore"]


def test_store_and_mmsa_hold_what_was_extracted(tmp_path, made_up):
    folder = write_folder(tmp_path / "clips", 12)
    output = tmp_path / "features"
    assert main(asked(folder, "-o", str(output))) == 0
    corpus = own(output)
    assert len(corpus) == 12
    assert list(corpus.spec.modalities) == ["text", "vision", "audio"]
    assert list(corpus.observed) == ["vision"]
    cuts = corpus.offsets["vision"]
    assert corpus.observed["vision"][cuts[0]:cuts[1]].all()
    assert corpus.observed["vision"][cuts[1]:cuts[2]].tolist() == [True, False, True, True]
    batch = next(b for b in batches(corpus, "train", 4))
    odd = [int(i[1:]) % 2 == 1 for i in batch.ids]
    assert (~batch.masks["vision"][:, 1]).tolist() == odd
    words = [f"{w}" for w in corpus.truth["word"][:3]]
    assert words == ["w0", "w1", "w2"]
    np.testing.assert_allclose(corpus.truth["times_audio"][1], [0.1, 0.2], rtol=1e-6)
    (output / "data.toml").write_text(
        'name = "again"\nformat = "mmsa"\nfile = "mmsa.pkl"\n[task]\nkind = "intensity"\nrange = [-3, 3]\n'
    )
    again = own(output)
    at = {i.split("$_$")[1]: n for n, i in enumerate(again.ids.tolist())}
    for m in corpus.spec.modalities:
        for n, name in enumerate(corpus.ids.tolist()):
            ours, theirs = (slice(*c.offsets[m][k:k + 2]) for c, k in ((corpus, n), (again, at[name])))
            assert np.array_equal(corpus.features[m][ours], again.features[m][theirs])
    assert np.array_equal(again.labels[[at[i] for i in corpus.ids]], corpus.labels)


def test_training_and_the_refusal_of_another_extractor(tmp_path, made_up, capsys):
    mine, other, store = (tmp_path / n for n in ("mine", "other", "store"))
    folder = write_folder(tmp_path / "clips", 12)
    assert main(asked(folder, "-o", str(mine))) == 0
    corpus = own(mine)
    small = dict(model="full", settings=dict(width=4, tcn_levels=1), epochs=1, progress=False)
    spec = RunSpec(
        dataset="mine", protocol="own", task="mine", data=dict(folder=str(mine)), results=str(store), **small
    )
    run = run_seed(spec, 1, corpus, Store(str(store)))
    assert run.read("provenance.json")["data"]["extractor"] == read_json(mine / "extractor.json")
    predict = ["predict", run.id, "--results", str(store), "-o", str(tmp_path / "p.csv")]
    assert main([*predict, str(mine)]) == 0
    assert pd.read_csv(tmp_path / "p.csv").prediction.notna().all()
    assert main([*asked(folder), "rate=8", "-o", str(other)]) == 0
    ours, theirs = (read_json(p / "extractor.json")["digest"] for p in (mine, other))
    capsys.readouterr()
    assert main([*predict, str(other)]) == 1
    refused = capsys.readouterr().err
    assert f"was trained on features of extractor {ours}, and these are of {theirs}" in refused
    assert "rate 5.0 there, 8.0 here" in refused


def holed(corpus, stands: float):
    "The same data, of which three steps in ten were not observed; `stands`: what is found there."
    rng, features, observed = np.random.default_rng(0), {}, {}
    for m in ("vision", "audio"):
        observed[m] = rng.random(len(corpus.features[m])) < 0.7
        features[m] = np.where(observed[m][:, None], corpus.features[m], np.float32(stands))
    return replace(corpus, features=corpus.features | features, observed=observed)


@pytest.mark.parametrize("rate", (1, 2))
def test_what_was_not_observed_changes_no_prediction_of_any_model(rate):
    "From the standardisation to the output, of data in step and out of step."
    kinds = dict(text=("tokens", 1), vision=("frames", rate), audio=("frames", rate))
    modalities = {m: Modality(18, kind, r) for m, (kind, r) in kinds.items()}
    corpus = planted_corpus("tone", segments=30, modalities=modalities)
    said = {}
    for name in models:
        spec = RunSpec(model=name, settings=models.facts(name).get("small", {}))
        outputs = []
        for stands in (0, 50):
            data = holed(corpus, stands)
            module = Training(spec, data.spec, 1).eval()
            module.scale.fit(data)
            if hasattr(module.model, "fit_closed_form"):
                module.model.fit_closed_form(data, module.scale)
            with torch.inference_mode():
                outputs.append(module(next(iter(batches(data, "test", 8)))))
        assert torch.equal(*outputs), name
        said[name] = outputs[0]
    assert len(said) > 10
    whole = Training(RunSpec(model="full", settings=models.facts("full")["small"]), corpus.spec, 1).eval()
    whole.scale.fit(corpus)
    assert not torch.equal(whole(next(iter(batches(corpus, "test", 8)))), said["full"])
