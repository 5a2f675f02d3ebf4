"""One's own clip: packaged weights, what is said of a clip and by whom, and files that are no clips."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed (make media)")

from msa_paper.cli import main
from msa_paper.core import MsaPaperError
from msa_paper.experiment import calibration
from msa_paper.experiment.calibration import FAR, LEVEL, calibrated, conformal_radius
from msa_paper.experiment.judge import judged
from msa_paper.experiment.own_clip import NO_WORDS, read_clip
from msa_paper.experiment.packaged import MOST, PACKAGED, load_folder, load_packaged
from msa_paper.experiment.packaged import packaged_bytes, packaged_folder
from msa_paper.experiment.verdict import cautions, who_judged
from msa_paper.media.made_media import MadeSound, face_photograph, plain_pictures
from msa_paper.media.made_media import with_photographs, write_clip
from msa_paper.media.timed import Timed
from msa_paper.report.model_card import CARD, model_card

SAID = "honestly I loved every minute of this wonderful movie"


def tone(seconds):
    "A tone that swells like syllables do, and is no speech."
    t = np.arange(round(seconds * 16000)) / 16000
    return MadeSound((0.2 * np.sin(2 * np.pi * 220 * t) * np.abs(np.sin(9 * t))).astype(np.float32))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    "A clip with everything, one without sound, one without pictures, and files that are no clips."
    folder = tmp_path_factory.mktemp("clips")
    photograph = face_photograph()
    pictures = plain_pictures(45, 180, 320)
    if photograph is not None:
        seen = [with_photographs([(60 + k, 0, 180)], photograph, 180, 320) for k in range(30)]
        pictures = seen + pictures[:15]
    write_clip(folder / "whole.mp4", pictures, [k / 15 for k in range(45)], tone(3))
    write_clip(folder / "mute.mp4", plain_pictures(10, 90, 160), [k / 10 for k in range(10)])
    write_clip(folder / "sound.wav", sound=MadeSound(np.zeros(16000, np.float32), codec="pcm_s16le"))
    (folder / "text.mp4").write_text("no clip at all\n")
    return folder


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_are_small_and_three_seeds_each(name):
    ready = load_packaged(name)
    assert len(ready.loaded) == 3
    assert len({one.run.rpartition("/s")[0] for one in ready.loaded}) == 1
    assert packaged_bytes() <= MOST
    assert (ready.calibration is None) == (name == "voice")


FILES = "s1/weights.safetensors", "s2/run.json", "s3/manifest.json", "manifest.json"


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_of_packaged_weights_is_refused(tmp_path, file):
    copy = shutil.copytree(packaged_folder("voice"), tmp_path / "voice")
    assert len(load_folder(copy).loaded) == 3
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(MsaPaperError):
        load_folder(copy)


def test_the_card_is_rendered_from_what_is_packaged():
    assert (packaged_folder() / CARD).read_text(encoding="utf-8") == model_card()
    for told in ("CMU-MOSEI", "CC BY-NC-SA", "must not be used for", "90% interval", "MAE"):
        assert told in model_card()


def test_a_conformal_interval_covers_what_it_promises():
    rng = np.random.default_rng(3)
    errors = rng.exponential(size=(4000, 50))
    held = [e[0] <= conformal_radius(e[1:]) for e in errors]
    assert LEVEL - 0.015 < np.mean(held) < LEVEL + 1 / 50 + 0.015


def test_a_calibration_never_asks_for_the_test_split(monkeypatch):
    from msa_paper.data.catalogue import load_corpus
    from msa_paper.experiment.specification import RunSpec
    from msa_paper.experiment.training import Training

    corpus = load_corpus("planted", "mixed", "regression", segments=80)
    asked, predict, batches = [], calibration.predict, calibration.batches
    monkeypatch.setattr(calibration, "predict", lambda m, c, s: asked.append(s) or predict(m, c, s))
    monkeypatch.setattr(calibration, "batches", lambda c, s, n: asked.append(s) or batches(c, s, n))
    module = Training(RunSpec(settings=dict(width=4, tcn_levels=1)), corpus.spec, 1)
    calibrated(["one"], [module], corpus)
    assert set(asked) == {"train", "validation"}


def tokens(values):
    times = np.arange(len(values), dtype=float)
    return dict(text=Timed(values.astype(np.float32), times, times + 1, np.ones(len(values), bool)))


def test_a_gross_outlier_is_told_to_be_unlike_the_training_data():
    ready, rng = load_packaged("words"), np.random.default_rng(0)
    far = tokens(4 * rng.normal(size=(20, 384)))  # noise of the tokens' own size lies within: a weak witness
    found = judged(list(ready.loaded), far, "noise", ready.calibration)
    assert found.nearer > FAR
    assert cautions(found, SAID.split(), [])[0].startswith("This clip is unlike the training data")
    assert who_judged(found).startswith("Words alone")


def test_the_command_judges_and_draws(clips, tmp_path, capsys):
    picture = tmp_path / "me.png"
    assert main(["clip", str(clips / "whole.mp4"), "--text", SAID, "-o", str(picture), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert picture.read_bytes()[1:4] == b"PNG"
    assert SAID.encode() in picture.read_bytes(), "the picture has no alternative text"
    found = told["judged"]
    low, high = found["interval"]
    assert -3 <= low < found["intensity"] < high <= 3
    assert found["seeds"] == 3
    assert found["sd"] > 0
    assert abs(sum(found["sign"].values()) - 1) < 1e-6
    assert found["heard"] == ["text"]
    assert "did not enter" in found["who"]
    assert found["intensity"] > 0.5, "praise was not heard as praise"
    assert found["nearer_to_training_data"] <= FAR
    streams = {b["stream"] for b in told["beside"]}
    assert streams == ({"face"} if face_photograph() is not None else set())
    np.testing.assert_allclose(np.sum(told["inside"]["alpha"], 1), 1, atol=1e-5)


def test_blame_is_heard_as_blame(clips):
    found = read_clip(clips / "mute.mp4", "it was a terrible boring movie and I hated every minute of it")
    assert found.verdict.judged.values[0] < -0.5


def test_what_a_clip_lacks_is_masked_and_told(clips):
    mute = read_clip(clips / "mute.mp4", SAID).verdict
    assert [b.stream for b in mute.beside] == []
    assert mute.judged.heard == ("text",)
    silent = read_clip(clips / "sound.wav").verdict
    assert silent.judged is None
    assert silent.instead == NO_WORDS
    assert any("nobody speaks" in told for told in silent.keep_in_mind)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["text.mp4"], "text"),
        (["nowhere.mp4"], "no such file"),
        (["whole.mp4", "-o", "me.bmp"], "unknown kind of picture"),
        (["whole.mp4", "--text", "nowhere.txt"], "no transcript can be read"),
        (["whole.mp4", "--run", "mine"], "no finished run is called 'mine'"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(clips, tmp_path, capsys, monkeypatch, arguments, why):
    monkeypatch.setenv("MSA_PAPER_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(clips)
    assert main(["clip", *arguments]) == 1
    said = capsys.readouterr().err
    assert why in said
    assert "Traceback" not in said


def test_a_run_that_says_nothing_of_clips_is_refused(clips):
    from msa_paper.experiment.calibrated_runs import Ready

    ready = Ready(load_packaged("voice").loaded, None)
    with pytest.raises(MsaPaperError, match="does not say how a clip"):
        read_clip(clips / "whole.mp4", SAID, ready)
