"""kill -9 at random moments: of a command on this machine; with a Dask scheduler, of all parts."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from distributed.protocol import to_serialize

from conftest import PROJECT
from msa_paper.core import MsaPaperError, die_with_parent
from msa_paper.data.catalogue import load_corpus
from msa_paper.formats.bc_lstm_csv import write_generated_mosi
from msa_paper.jobs.cluster import Cluster, reserve, run_on_cluster
from msa_paper.jobs.engine import Handed
from msa_paper.jobs.notebook import Answer
from msa_paper.jobs.trust import listens_wide, tls_security
from msa_paper.experiment.run import run_seed
from msa_paper.experiment.specification import RunSpec
from msa_paper.experiment.store import Store
from test_dead_ends import kernels, litter
from test_runs import alive, children, contents

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="kills process trees through /proc: Linux only"
)
SLOW = bool(
    os.environ.get("MSA_PAPER_SLOW")
)  # 40 runs and three kills; without it, 8 runs, one kill here and two with a scheduler
ROWS, SEEDS, PATIENCE = (4, 10, 3600) if SLOW else (2, 4, 600)
TINY = dict(
    protocol="tone", data=dict(segments=200), settings=dict(width=8, tcn_levels=1), epochs=3, progress=False
)
COMMAND = """
import sys
from msa_paper.jobs.cluster import run_on_cluster
from msa_paper.jobs.engine import run_grid
from msa_paper.experiment.specification import RunSpec
if __name__ == "__main__":
    rows = [RunSpec(**r) for r in {rows!r}]
    failures = run_on_cluster(rows, {address!r}) if {address!r} else run_grid(rows, 2)
    print(*failures, file=sys.stderr); raise SystemExit(bool(failures))
"""


def rows(folder):
    return [
        RunSpec(**TINY, learning_rate=1e-3 * k, seeds=range(1, SEEDS + 1), results=str(folder))
        for k in range(1, ROWS + 1)
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "The same runs in this process: no papermill, no kill."
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    corpus = load_corpus("planted", "tone", "regression", **TINY["data"])
    for row in rows(store.folder):
        for seed in row.seeds:
            run_seed(row, seed, corpus, store)
    return contents(store)


class Command:
    "A command of its own, and what has become of its store."

    def __init__(self, folder, some, address=""):
        folder.mkdir(exist_ok=True)
        self.store, self.script, self.seen, self.running = (
            Store(some[0].results),
            folder / "command.py",
            {},
            None,
        )
        self.script.write_text(
            COMMAND.format(rows=[r.model_dump(mode="json") for r in some], address=address)
        )

    def start(self):
        if self.running is None:
            self.running = subprocess.Popen([sys.executable, self.script], cwd=PROJECT)

    def until(self, n):
        "Wait until n runs are there."
        deadline = time.time() + PATIENCE
        while len(self.store.runs()) < n:
            assert self.running.poll() is None and time.time() < deadline, (
                f"{len(self.store.runs())} of {n} runs"
            )
            time.sleep(0.05)

    def look(self):
        "Finished runs stay what they are: folder and file are the same, and so is when they were written."
        there = {
            r.id: (r.folder.stat().st_ino, (s := (r.folder / "metrics.json").stat()).st_ino, s.st_mtime_ns)
            for r in self.store.runs()
        }
        assert self.seen.items() <= there.items(), "a finished run was written again"
        self.seen = there

    def kill(self):
        assert self.running.poll() is None, "the command had ended before it could be killed"
        family = children(self.running.pid)
        os.kill(self.running.pid, signal.SIGKILL)
        self.running.wait()
        self.running = None
        gone(family)
        self.look()

    def finish(self):
        self.start()
        code = self.running.wait(PATIENCE)
        self.running = None
        self.look()
        return code


def gone(family):
    deadline = time.time() + 60
    while any(map(alive, family)):
        assert time.time() < deadline, "processes are left running"
        time.sleep(0.05)


def moments(seed, kills):
    "Numbers of finished runs, and the seconds to wait after each."
    dice = random.Random(seed)
    return [(n, dice.uniform(0, 2)) for n in sorted(dice.sample(range(ROWS * SEEDS - 4), kills))]


def once_each(command, undisturbed):
    "All are there, each came to its end once, with the numbers of the undisturbed."
    assert contents(command.store) == undisturbed and len(undisturbed) == ROWS * SEEDS
    journal = Counter(
        (line["run"], line["what"])
        for line in map(json.loads, open(command.store.folder / "notebooks" / "journal.jsonl"))
    )
    assert set(journal) <= {(run, "published") for run in undisturbed} and set(journal.values()) == {1}
    assert not list(command.store.folder.rglob("*.partial")) and not list(
        command.store.folder.rglob("*.lock")
    )


def test_kills_with_local_processes(undisturbed, tmp_path):
    command = Command(tmp_path / "c", rows(tmp_path / "store"))
    for n, pause in moments(1, 3 if SLOW else 1):
        command.start()
        command.until(n)
        time.sleep(pause)
        command.kill()
    assert command.finish() == 0
    once_each(command, undisturbed)


class Dask:
    "A scheduler, and workers as they are added."

    worker_options = "--host", "127.0.0.1"

    def __init__(self, folder, *options):
        self.folder, self.processes = folder, []
        self.file = folder / "scheduler.json"
        self.begin(
            "scheduler",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            self.file,
            *(options or ("--host", "127.0.0.1")),
        )
        deadline = time.time() + 120
        while not self.file.is_file():
            assert time.time() < deadline, "no scheduler"
            time.sleep(0.1)
        time.sleep(0.2)
        self.address = json.loads(self.file.read_text())["address"]

    def begin(self, what, *arguments, **environment):
        log = open(self.folder / f"{what}-{len(self.processes)}.log", "w")
        given = (
            os.environ
            | dict(MSA_PAPER_DATA=str(self.folder / "nothing"), MSA_PAPER_CACHE=str(self.folder / "cache"))
            | environment
        )
        place = str(environment.get("PYTHONPATH", PROJECT)).split(os.pathsep)[0]
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "dask", what, *map(str, arguments)],
                cwd=place,
                env=given,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        )
        return self.processes[-1]

    def worker(self, **environment):
        return self.begin(
            "worker",
            self.address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            self.folder / "work",
            *self.worker_options,
            **environment,
        )

    def close(self):
        for p in reversed(self.processes):
            family = children(p.pid) if p.poll() is None else []
            p.kill()
            p.wait()
            gone(family)


@pytest.fixture
def dask(tmp_path):
    (tmp_path / "dask").mkdir()
    found = Dask(tmp_path / "dask")
    yield found
    found.close()


def test_kills_with_a_scheduler_and_two_workers(undisturbed, tmp_path, dask):
    workers = [dask.worker(), dask.worker()]
    command = Command(tmp_path / "c", rows(tmp_path / "store"), dask.address)
    dice = random.Random(2)
    victims = ["command", "command", "worker"] if SLOW else ["command", "worker"]
    dice.shuffle(victims)
    for (n, pause), victim in zip(moments(2, len(victims)), victims):
        command.start()
        command.until(n)
        time.sleep(pause)
        if victim == "command":
            command.kill()
        else:
            worker = dice.choice(workers)
            family = children(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
            gone(family)
            command.look()
    assert command.finish() == 0
    once_each(command, undisturbed)


def test_a_kernel_of_a_worker_and_the_scheduler_are_killed(tmp_path, dask, capfd):
    "The first is tried again, without a notebook; the other ends the command with one sentence, and no lock."
    worker, row = (
        dask.worker(),
        RunSpec(**TINY | dict(epochs=20), seeds=(1, 2, 3), results=str(tmp_path / "store")),
    )
    command, deadline = Command(tmp_path / "c", [row], dask.address), time.time() + PATIENCE
    command.start()
    while not list((dask.folder / "work").rglob("last.safetensors")):
        assert command.running.poll() is None and time.time() < deadline, "training did not begin"
        time.sleep(0.05)
    os.kill(kernels(worker.pid)[0], signal.SIGKILL)
    command.until(1)
    dask.processes[0].kill()
    assert command.running.wait(60) == 1
    command.look()
    told = capfd.readouterr().err
    assert told.count("MsaPaperError: the scheduler is gone") == 1 and "it goes on" in told
    assert not litter(tmp_path / "store") and not list((tmp_path / "store").rglob("*.partial"))
    assert len(list((tmp_path / "store").rglob("*.ipynb"))) <= 1


def test_data_travel_and_a_worker_with_other_code_gets_nothing(tmp_path, dask, monkeypatch, capfd):
    other = tmp_path / "other"
    for part in ("msa_paper", "nbs/runs"):
        shutil.copytree(PROJECT / part, other / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "settings.ini", other)
    (other / "msa_paper/measures/metrics.py").open("a").write("\n# changed\n")
    dask.worker(PYTHONPATH=str(other))
    monkeypatch.setenv("MSA_PAPER_DATA", str(write_generated_mosi(tmp_path / "data")))
    row = RunSpec(
        dataset="mosi",
        protocol="context",
        settings=dict(width=8),
        batch_size=8,
        epochs=1,
        seeds=(1, 2),
        progress=False,
        results=str(tmp_path / "store"),
    )
    wrong = row.model_copy(update=dict(seeds=(1,), settings=dict(widht=8)))
    command = Command(tmp_path / "c", [row, wrong], dask.address)
    command.start()
    assert command.finish() == 1 and not command.store.runs()
    told = capfd.readouterr().err
    assert (
        "every worker is refused" in told
        and "code " in told
        and "packages" not in told.split("every worker")[1]
    )
    dask.worker()
    assert command.finish() == 1
    told = capfd.readouterr().err
    assert "is refused: code" in told and "did you mean 'width'" in told and "/nothing" not in told
    assert [r.seed for r in command.store.runs()] == [1, 2] and all(
        len(r.read("provenance.json")["data"]["files"]) == 8 for r in command.store.runs()
    )
    assert (
        len(list(dask.folder.joinpath("cache").iterdir())) == 8
        and (command.store.runs()[0].folder / "checkpoint.safetensors").is_file()
    )
    assert len(list(command.store.folder.rglob("*.failed.ipynb"))) == 1
    assert all(
        (command.store.folder / r.read("provenance.json")["notebook"]).stat().st_size
        for r in command.store.runs()
    )


def certificates(folder):
    "A certificate authority, and a certificate that it signed: ca.pem, me.pem, me-key.pem."
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def signed(subject, key, issuer, issuer_key, authority):
        now = datetime.now(timezone.utc)

        def name(text):
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        build = x509.CertificateBuilder(
            name(issuer), name(subject), key.public_key(), x509.random_serial_number()
        )
        build = build.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=12))
        build = build.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        return build.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    folder.mkdir(parents=True)
    ca, me = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "ca.pem").write_bytes(signed("ca", ca, "ca", ca, True))
    (folder / "me.pem").write_bytes(signed("me", me, "ca", ca, False))
    (folder / "me-key.pem").write_bytes(me.private_bytes(*plain))
    return folder / "ca.pem", folder / "me.pem", folder / "me-key.pem"


def attacks(key, places, elsewhere):
    "Messages of a rogue or confused worker: they name paths, bring other runs, belong to no job."
    notebook = json.dumps(dict(cells=[])).encode()
    run, *_, copy, failed = places
    for path in (f"{elsewhere}/x.ipynb", "../../x.ipynb"):
        yield dict(job=key, place=path, files={Path(path).name: notebook})
        yield dict(job=path, place=copy, files={Path(copy).name: notebook})
        yield dict(job=key, place=copy, files={path: notebook})
        yield dict(job=key, place=copy, files={Path(copy).name: notebook}, path=path)
        yield dict(job=key, place=failed, files={Path(copy).name: notebook})
        yield dict(job=key, place=run, files={path: b"x"})
        yield dict(job=key, place=path, files={"metrics.json": b"{}"})
        yield dict(job=key, place=run, files={"metrics.json": b"{}", path: b"x"})
        yield dict(job=key, place=[path], files={})
        yield dict(kind="notebook", path=path, content=notebook, job=key)
    yield "text"


class Exploding:
    "What writes a file where it is unpickled."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def exploding_result(path):
    return dict(end="done", told=Exploding(path))


def exploding_error(path):
    error = ValueError("x")
    error.__class__ = type("Odd", (ValueError,), {"__reduce__": lambda self: (os.mkdir, (str(path),))})
    raise error


def exploding_warning(path):
    from distributed import get_worker

    get_worker().log_event("warn", dict(message=pickle.dumps(Exploding(path))))
    return dict(end="done")


def exploding_message(path, channel):
    from distributed import Queue

    Queue(channel).put(dict(job="k", place="x", files=to_serialize(Exploding(path))))
    return dict(end="done")


def test_tls_and_a_rogue_worker(tmp_path, monkeypatch, capfd):
    files = certificates(tmp_path / "tls")
    options = [str(x) for pair in zip(("--tls-ca-file", "--tls-cert", "--tls-key"), files) for x in pair]
    (tmp_path / "dask").mkdir()
    dask = Dask(tmp_path / "dask", "--host", "127.0.0.1", "--protocol", "tls", *options)
    try:
        assert dask.address.startswith("tls://127.0.0.1:")
        dask.worker_options = options
        dask.worker(PYTHONPATH=f"{PROJECT}:{PROJECT}/tests")
        row = RunSpec(**TINY | dict(epochs=1), results=str(tmp_path / "a" / "b" / "store"))
        with pytest.raises(MsaPaperError, match="tls:// needs certificates"):
            run_on_cluster([row], dask.address)
        with Cluster(dask.address, security=tls_security(*map(str, files))).open() as cluster:
            deadline = time.time() + 120
            while not cluster.threads:
                assert time.time() < deadline, "the worker does not come"
                cluster.seen = time.time()
                cluster.look()
                time.sleep(0.1)
            places, held = reserve(row)
            nowhere = cluster.client.submit(abs, 1, workers=["tls://127.0.0.1:1"])
            cluster.running["k"] = Handed(0, row, nowhere, "tls://127.0.0.1:1", places, held)
            before = {p for p in tmp_path.rglob("*") if dask.folder not in p.parents}
            sent = list(attacks("k", places, tmp_path / "elsewhere"))
            for message in sent:
                cluster.queue.put(message)
            assert cluster.ended() == {"k": Answer("died")}
            assert {p for p in tmp_path.rglob("*") if dask.folder not in p.parents} == before
            assert capfd.readouterr().err.count("a message of a worker is refused") == len(sent)
            cluster.release(cluster.running.pop("k"))
            trap = tmp_path / "trap"
            for attack, more in (
                (exploding_result, ()),
                (exploding_error, ()),
                (exploding_warning, ()),
                (exploding_message, (cluster.queue.name,)),
            ):
                task = cluster.client.submit(attack, str(trap), *more, pure=False)
                cluster.running[task.key] = Handed(0, row, task, next(iter(cluster.threads)), *reserve(row))
                deadline = time.time() + 60
                while not cluster.ended():
                    assert time.time() < deadline
                assert not trap.exists(), attack
                cluster.release(cluster.running.pop(task.key))
        assert run_on_cluster([row], dask.address, security=tls_security(*map(str, files))) == []
        run = Store(row.results).runs()[0]
        assert (Store(row.results).folder / run.read("provenance.json")["notebook"]).stat().st_size
        assert not list(Store(row.results).folder.rglob("*.lock")) and not list(
            Store(row.results).folder.rglob(".*.mark")
        )
    finally:
        dask.close()


def test_open_addresses_are_refused(tmp_path, dask):
    row = RunSpec(**TINY, results=str(tmp_path / "store"))
    for address in ("tcp://10.0.0.7:8786", "head:8786"):
        with pytest.raises(MsaPaperError, match="open to everybody"):
            run_on_cluster([row], address)
    dask.worker_options = ()  # a worker listens on all addresses unless it is told otherwise
    dask.worker()
    with pytest.raises(
        MsaPaperError, match="every worker is refused.*listens beyond its machine without TLS"
    ):
        run_on_cluster([row], dask.address)
    (tmp_path / "open").mkdir()
    scheduler = Dask(tmp_path / "open", "--host", "0.0.0.0")
    try:
        address = f"tcp://127.0.0.1:{scheduler.address.rsplit(':', 1)[1]}"
        with pytest.raises(MsaPaperError, match="the scheduler listens beyond its machine without TLS"):
            run_on_cluster([row], address)
        with Cluster(address, insecure=True).open() as cluster:
            assert not cluster.client.run_on_scheduler(listens_wide)[0].startswith("tls")
    finally:
        scheduler.close()
    assert not list((tmp_path / "store").rglob("*.lock")) and not list((tmp_path / "store").rglob("*.ipynb"))
