"""No dead ends: a killed kernel, damaged checkpoints, a full disk, Ctrl-C, and what a kill leaves behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from safetensors import SafetensorError

from conftest import PROJECT
from msa_paper.core import FULL, MsaPaperError
from msa_paper.data.catalogue import load_corpus
from msa_paper.experiment.locks import holder
from msa_paper.experiment.run import run_seed
from msa_paper.jobs.engine import run_grid
from msa_paper.jobs.leftovers import sweep_entry
from msa_paper.jobs.notebook import notebooks_of, run_row
from msa_paper.experiment.specification import RunSpec
from msa_paper.experiment.store import Store
from msa_paper.experiment import checkpoints
from msa_paper.experiment.training import Training
from msa_paper.processes import INTERRUPTED, common_folder, sweep
from test_runs import alive, contents

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="process trees, /dev/full and tmpfs: Linux only"
)
TINY = dict(
    protocol="tone", data=dict(segments=200), settings=dict(width=8, tcn_levels=1), epochs=4, progress=False
)
COMMAND = """
import sys
from msa_paper.jobs.engine import run_grid
from msa_paper.experiment.specification import RunSpec
from msa_paper.processes import interruptible
if __name__ == "__main__":
    with interruptible():
        print(*run_grid([RunSpec(**{spec!r})], {workers}), file=sys.stderr)
"""


def tiny(folder, **changes):
    return RunSpec(**TINY | changes, results=str(folder))


def corpus_of(spec):
    return load_corpus(spec.dataset, spec.protocol, spec.task, **spec.data)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "One seed in this process, undisturbed."
    spec = tiny(tmp_path_factory.mktemp("undisturbed"))
    run_seed(spec, 1, corpus_of(spec), Store(spec.results))
    return contents(Store(spec.results))


def litter(folder):
    "What no command should leave: locks, half-written and empty files, marks."
    files = [p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".cluster-key"]
    return [
        p
        for p in files
        if p.suffix in (".lock", ".part", ".mark") or p.name.startswith(".") or not p.stat().st_size
    ]


def temporary():
    return {p.name for p in common_folder().iterdir() if p.is_dir()}


def is_fork(process):
    "Whether a process has a fork server's command line: a server itself, or a kernel that it has forked."
    return process is not None and "multiprocessing.forkserver" in " ".join(process.cmdline())


def kernels(pid):
    "The processes that a fork server below a process has forked; not what these have started themselves."
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if is_fork(process.parent()) and not is_fork(process.parent().parent()):
                    found.append(process.pid)
    return found


def heard():
    "A suite that runs in the background has Ctrl-C ignored: what it starts here hears it, as in a terminal."
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Command:
    "run_grid as a command in a session of its own, as a terminal starts it."

    def __init__(self, folder, spec, workers=2):
        self.script, self.store = folder / "command.py", Path(spec.results)
        self.script.write_text(COMMAND.format(spec=spec.model_dump(mode="json"), workers=workers))
        self.process = subprocess.Popen(
            [sys.executable, self.script],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heard,
        )

    def until(self, condition):
        deadline = time.time() + 300
        while not condition():
            assert time.time() < deadline and self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def until_training(self):
        self.until(lambda: list(self.store.rglob("last.safetensors")))

    def family(self):
        return [p.pid for p in psutil.Process(self.process.pid).children(recursive=True)]


def gone(family, seconds=10):
    deadline = time.time() + seconds
    while any(map(alive, family)):
        assert time.time() < deadline, "processes are left running"
        time.sleep(0.02)


def test_a_killed_kernel_counts_as_a_killed_worker(undisturbed, tmp_path):
    command = Command(tmp_path, tiny(tmp_path / "store"))
    command.until_training()
    os.kill(kernels(command.process.pid)[0], signal.SIGKILL)
    told, error = command.process.communicate(timeout=300)
    assert command.process.returncode == 0 and not error.strip() and "failed" not in told
    assert contents(Store(tmp_path / "store")) == undisturbed
    assert (
        not litter(tmp_path / "store")
        and not list(tmp_path.rglob("*.failed.ipynb"))
        and len(list(tmp_path.rglob("*.ipynb"))) == 1
    )


def test_a_kernel_that_is_always_killed_is_a_clear_failure(tmp_path):
    command, killed = Command(tmp_path, tiny(tmp_path / "store")), set()
    while command.process.poll() is None:
        for pid in kernels(command.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.05)
    _, error = command.process.communicate()
    assert (
        len(killed) == 3
        and error.count("killed three times") == 1
        and "what to do" in error
        and "Traceback" not in error
    )
    assert not list(tmp_path.rglob("*.ipynb")) and not litter(tmp_path)


def servers(pid):
    "The fork servers below a process."
    found = psutil.Process(pid).children()
    return [p.pid for p in found if "multiprocessing.forkserver" in " ".join(p.cmdline())]


def in_training(command):
    "Kernels of a command that are in the middle of a training: they hold a run, and its checkpoint is there."
    begun = [
        lock
        for lock in command.store.rglob("*.lock")
        if (lock.with_suffix(".partial") / "last.safetensors").is_file()
    ]
    at_work = {(holder(lock) or {}).get("pid") for lock in begun}
    return [pid for pid in kernels(command.process.pid) if pid in at_work]


def frozen(commands):
    "Have every command stand still in the middle of a training, so that none has ended before it is hit."
    still, deadline = {}, time.time() + 300
    while len(still) < len(commands):
        for n, command in enumerate(commands):
            assert time.time() < deadline and command.process.poll() is None, command.process.communicate()
            if n not in still and (found := in_training(command)):
                os.kill(found[0], signal.SIGSTOP)
                still[n] = found[0]
        time.sleep(0.02)
    return still


def fire(commands):
    "A kernel is killed, a server, a command; another command is interrupted. Gives back those that live."
    still = frozen(commands)
    blows = [
        lambda command: os.kill(still[0], signal.SIGKILL),
        lambda command: os.kill(servers(command.process.pid)[0], signal.SIGKILL),
        lambda command: command.process.kill(),
        lambda command: command.process.send_signal(signal.SIGINT),
    ]
    for n, (command, blow) in enumerate(zip(commands, blows, strict=True)):
        family = command.family()
        blow(command)
        with contextlib.suppress(ProcessLookupError):
            os.kill(still[n], signal.SIGCONT)
        if blow in blows[2:]:
            command.process.wait(20)
            gone(family, 60)
    gone(still.values(), 60)
    return commands[:2]


def test_four_commands_at_one_store_under_fire(tmp_path):
    "What the others leave, two commands finish: every run is there, once, as if nothing had happened."
    spec, quiet = (tiny(tmp_path / name, seeds=(1, 2, 3, 4, 5), epochs=20) for name in ("store", "quiet"))
    folders = [tmp_path / str(k) for k in range(4)]
    for folder in folders:
        folder.mkdir()
    left = fire([Command(folder, spec, workers=1) for folder in folders])
    for seed in quiet.seeds:
        run_seed(quiet, seed, corpus_of(quiet), Store(quiet.results))
    for command in left:
        told, error = command.process.communicate(timeout=300)
        assert command.process.returncode == 0 and not error.strip() and "failed" not in told
    assert contents(Store(spec.results)) == contents(Store(quiet.results))
    assert any(r.read("provenance.json")["resumed_after"] is not None for r in Store(spec.results).runs())
    journal = [
        json.loads(line)["run"] for line in (tmp_path / "store" / "notebooks" / "journal.jsonl").open()
    ]
    assert sorted(journal) == sorted(set(journal)) and len(journal) == len(spec.seeds)
    time.sleep(0.2)
    assert run_grid([spec], 1) == []
    assert not litter(tmp_path / "store") and not list(tmp_path.rglob("*.partial"))


class Interrupt(BaseException):
    "Breaks a training off."


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    "What a run leaves that is broken off in its third epoch."
    spec = tiny(tmp_path_factory.mktemp("interrupted"))
    begin = Training.on_train_batch_start

    def interrupt(self, *arguments):
        if self.current_epoch == 2:
            raise Interrupt
        begin(self, *arguments)

    Training.on_train_batch_start = interrupt
    with pytest.raises(Interrupt):
        run_seed(spec, 1, corpus_of(spec), Store(spec.results))
    Training.on_train_batch_start = begin
    return Path(spec.results)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 16
    return bytes(content)


DAMAGE = {
    "whole": lambda last, best: None,
    "truncated": lambda last, best: last.write_bytes(last.read_bytes()[:-100]),
    "flipped": lambda last, best: last.write_bytes(flipped(last)),
    "best flipped": lambda last, best: best.write_bytes(flipped(best)),
    "empty": lambda last, best: last.write_bytes(b""),
    "text": lambda last, best: last.write_text("something else"),
    "no best": lambda last, best: best.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_discarded(kind, interrupted, undisturbed, tmp_path, capfd):
    shutil.copytree(interrupted, tmp_path / "store")
    work = next((tmp_path / "store").rglob("*.partial"))
    DAMAGE[kind](work / "last.safetensors", work / "best.safetensors")
    spec = tiny(tmp_path / "store")
    run = run_seed(spec, 1, corpus_of(spec), Store(spec.results))
    assert contents(Store(spec.results)) == undisturbed
    told = capfd.readouterr().out
    assert told.count("training starts anew") == (kind != "whole") and str(tmp_path) not in told
    assert (run.read("provenance.json")["resumed_after"] is None) == (kind != "whole")


@pytest.mark.parametrize("kind", ["group", "one", "term"])
def test_ctrl_c_ends_with_one_line_and_no_litter(kind, undisturbed, tmp_path):
    before, spec = temporary(), tiny(tmp_path / "store", epochs=4 if kind == "one" else 200)
    command = Command(tmp_path, spec)
    if kind == "term":
        command.until(lambda: len(command.family()) > 1)  # a worker is starting
    else:
        command.until_training()
    if kind == "group":  # what it has is not swept while it lives
        there = {p for p in tmp_path.rglob("*") if p.suffix in (".lock", ".ipynb", ".mark")}
        assert len(there) == 3 and temporary() - before
        sweep_entry(spec, 0)
        sweep()
        assert all(p.exists() for p in there) and temporary() - before
    family = command.family()
    start = time.time()
    {
        "group": lambda: os.killpg(command.process.pid, signal.SIGINT),
        "one": lambda: command.process.send_signal(signal.SIGINT),
        "term": lambda: command.process.terminate(),
    }[kind]()
    told, error = command.process.communicate(timeout=20)
    assert time.time() - start < 5 and command.process.returncode == 130
    assert error == INTERRUPTED + "\n" and len(told.splitlines()) <= 2 and "Traceback" not in told
    gone(family, 1)
    assert temporary() <= before and not litter(tmp_path) and not list(tmp_path.rglob("*.ipynb"))
    if kind == "one":
        assert list((tmp_path / "store").rglob("last.safetensors"))
        assert run_grid([tiny(tmp_path / "store")], 1) == []
        assert contents(Store(tmp_path / "store")) == undisturbed


def test_ctrl_c_while_the_readme_is_rendered():
    "Its kernel belongs to the command itself, and nbclient would like to have the signal."
    before, readme = temporary(), (PROJECT / "README.md").stat().st_mtime_ns
    code = "import sys; from msa_paper.cli import main; sys.argv = ['msa-paper', 'readme']; sys.exit(main())"
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heard,
    )
    while not (family := psutil.Process(command.pid).children(recursive=True)):
        assert command.poll() is None
        time.sleep(0.02)
    time.sleep(1)  # in the middle of a cell, or of starting the kernel
    os.killpg(command.pid, signal.SIGINT)
    assert command.communicate(timeout=5)[1] == INTERRUPTED + "\n" and command.returncode == 130
    gone([p.pid for p in family], 1)
    assert temporary() <= before and (PROJECT / "README.md").stat().st_mtime_ns == readme


def test_what_a_kill_leaves_is_swept_at_the_next_start(tmp_path):
    command = Command(tmp_path, tiny(tmp_path / "store"))
    command.until_training()
    family, before = command.family(), temporary()
    command.process.kill()
    command.process.communicate()
    gone(family)
    assert litter(tmp_path / "store") and list(tmp_path.rglob("*.ipynb"))
    time.sleep(0.2)
    assert run_grid([tiny(tmp_path / "store")], 1) == []
    assert not litter(tmp_path / "store") and not list(tmp_path.rglob("*.partial"))
    assert len(list(tmp_path.rglob("*.ipynb"))) == 1 and not (temporary() & before) - temporary_of_others()


def temporary_of_others():
    "Temporary folders of commands that live: of this one too."
    sweep()
    return temporary()


def privileged(*arguments):
    "Mount or unmount, where that is allowed."
    for prefix in ([], ["sudo", "-n"]):
        if (
            shutil.which((prefix or list(arguments))[0])
            and not subprocess.run([*prefix, *arguments], capture_output=True).returncode
        ):
            return True
    return False


@pytest.fixture
def disk(tmp_path):
    "A disk of its own, whose size can be changed."
    folder = tmp_path / "disk"
    folder.mkdir()

    def size(kib):
        assert privileged("mount", "-o", f"remount,size={kib}k", str(folder))

    if not privileged("mount", "-t", "tmpfs", "-o", f"size=4k,uid={os.getuid()}", "tmpfs", str(folder)):
        pytest.skip("mounting is not allowed here")
    yield folder, size
    privileged("umount", str(folder))


@pytest.mark.parametrize("kib", [8, 64, 180, 280])
def test_a_full_disk_is_one_sentence_and_goes_on_later(kib, disk, undisturbed):
    "Too little for the notebook; for the first checkpoint; for the second; for what is published."
    folder, size = disk
    size(kib)
    with pytest.raises(MsaPaperError, match=FULL) as error:
        run_row(tiny(folder / "store"))
    assert (
        str(error.value).count(FULL) == 1
        and "goes on" in error.value.remedy
        and "Traceback" not in str(error.value)
    )
    assert (
        not Store(folder / "store").runs()
        and not [p for p in litter(folder) if p.suffix != ".lock"]
        and not list(folder.rglob("*.ipynb"))
    )
    size(50_000)
    run_row(tiny(folder / "store"))
    assert contents(Store(folder / "store")) == undisturbed and len(list(folder.rglob("*.ipynb"))) == 1


def test_a_full_disk_ends_the_command(disk, undisturbed):
    folder, size = disk
    size(64)
    with pytest.raises(MsaPaperError, match=FULL) as error:
        run_grid([tiny(folder / "store", seeds=(1, 2))], 1)
    assert str(error.value).count(FULL) == 1 and not litter(folder)
    size(50_000)
    assert run_grid([tiny(folder / "store")], 1) == [] and contents(Store(folder / "store")) == undisturbed


def test_a_disk_that_is_full_for_a_checkpoint(tmp_path, undisturbed, monkeypatch):
    "Needs no right to mount: safetensors says what it says on a full disk, with half a file written."
    spec, save = tiny(tmp_path / "store"), checkpoints.save_file

    def full(tensors, path, metadata):
        if "last" in str(path):
            Path(path).write_text("half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save(tensors, path, metadata)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(MsaPaperError, match=FULL):
        run_seed(spec, 1, corpus_of(spec), Store(spec.results))
    assert not list(tmp_path.rglob("*.part")) and list(tmp_path.rglob("best.safetensors"))
    monkeypatch.undo()
    run_seed(spec, 1, corpus_of(spec), Store(spec.results))
    assert contents(Store(spec.results)) == undisturbed


def test_names_of_sockets_stay_short():
    long = Path(tempfile.gettempdir()) / ("x" * 90)
    asked = "from msa_paper.processes import temporary_folder; print(len(str(temporary_folder())))"
    try:
        long.mkdir(exist_ok=True)
        told = subprocess.run(
            [sys.executable, "-c", asked],
            env=os.environ | dict(TMPDIR=str(long)),
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(told.stdout) <= 70
    finally:
        shutil.rmtree(long)


def test_a_notebook_is_only_kept_when_a_run_came_of_it(tmp_path):
    spec = tiny(tmp_path / "store", epochs=1)
    run_row(spec)
    copies = list(notebooks_of(spec)[0].iterdir())
    assert len(copies) == 1 and Store(spec.results).runs()[0].read("provenance.json")["notebook"] == str(
        copies[0].relative_to(spec.results)
    )
