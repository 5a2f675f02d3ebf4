"""The command line: help that teaches, one sentence for what is wrong, answers for programs, completion."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import typer

from conftest import PROJECT
from msa_paper import __version__
from msa_paper.cli import app, main
from msa_paper.commands import names, parsing
from msa_paper.core import results_folder, strict_json
from msa_paper.report.pages import redraw

CODE = "import sys; from msa_paper.cli import main; sys.exit(main(sys.argv[1:]))"
CALL = [sys.executable, "-W", "ignore", "-c", CODE]


def every_command(command, path=()):
    "The words that call each command, and the command."
    for name, one in getattr(command, "commands", {}).items():
        yield from every_command(one, (*path, name))
    yield path, command


COMMANDS = dict(every_command(typer.main.get_command(app)))
WORDS = pytest.mark.parametrize("words", COMMANDS, ids=lambda w: " ".join(w) or "msa-paper")


# Help -------------------------------------------------------------------------------------------------------


def helped(words, capsys):
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def examples(page):
    return [line.strip() for line in page.partition("\nExample:\n")[2].splitlines() if line.strip()]


@pytest.mark.parametrize(
    "line, status", [(["--version"], 0), (["statsu"], 2), (["data", "card", "planted", "nix"], 1)]
)
def test_the_module_is_the_command(line, status):
    done = subprocess.run([sys.executable, "-m", "msa_paper.cli", *line], capture_output=True, text=True)
    same = subprocess.run([*CALL, *line], capture_output=True, text=True)
    assert done.returncode == same.returncode == status
    assert (done.stdout, done.stderr) == (same.stdout, same.stderr) and done.stdout + done.stderr


def test_there_are_commands():
    assert {("reproduce",), ("status",), ("data", "card"), ("figures",), ()} <= set(COMMANDS)


@WORDS
def test_help_has_a_purpose_and_explains_every_argument(words, capsys):
    page = helped(words, capsys)
    purpose = page.split("\n\n")[1].strip()
    assert len(purpose.split()) >= 4 and purpose.endswith((".", ")"))
    for one in COMMANDS[words].params:
        assert one.help and len(one.help.split()) >= 2, one.name


@WORDS
def test_examples_are_read_by_the_same_parser(words, capsys, monkeypatch):
    "Nothing is executed: what would be called, and with what, is noted."
    called = []
    monkeypatch.setattr(parsing.Command, "invoke", lambda self, ctx: called.append((self.name, ctx.params)))
    lines = examples(helped(words, capsys))
    assert lines, "no example"
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "msa-paper" and tuple(arguments[: len(words)]) == words
        assert main(arguments) == 0, line
    assert len(called) == len(lines)
    for _, given in called:
        own = [name for name in given.get("names") or () if name == "my-study"]
        if given.get("data") and given["data"] != "my-study":
            known_data = names.readable_data_sets()
            assert given["data"] in names.studies() or given["data"].rpartition("-")[0] in known_data
        assert set(given.get("studies") or ()) <= {*names.studies(), *names.ALSO_PUBLISHED}
        assert set(given.get("names") or ()) <= {*names.listed_data_sets(), *own}
        assert set(given.get("page") or ()) <= set(names.pages())


def test_several_words_of_an_option_are_all_read(monkeypatch):
    called = []
    monkeypatch.setattr(parsing.Command, "invoke", lambda self, ctx: called.append(ctx.params))
    main(["reproduce", "--only", "full", "lmf", "--seeds", "1"])
    main(["reproduce", "--only", "full", "--only", "lmf"])
    assert [p["only"] for p in called] == [["full", "lmf"]] * 2 and called[0]["seeds"] == 1


@WORDS
def test_help_is_plain_text(words, capsys, monkeypatch):
    "For a dumb terminal and for a pipe: no colours, no boxes, no markup; lines of at most 80 characters."
    monkeypatch.setenv("TERM", "dumb")
    page = helped(words, capsys)
    body = page.partition("\nExample:\n")[0]
    assert "\x1b" not in page and not re.search("[\u2500-\u257f]", page) and "[bold" not in page
    assert max(map(len, body.splitlines())) <= 80


# What is wrong ----------------------------------------------------------------------------------------------

UNREADABLE = {  # status 2
    "": "which command? There are reproduce, status",
    "reprodce": "did you mean 'reproduce'?",
    "data": "which command? There are list, new, fetch",
    "data crad": "did you mean 'card'?",
    "reproduce --dta mosi": "did you mean '--data'?",
    "reproduce --workers": "'--workers'",
    "reproduce --workers many": "'--workers'",
    "reproduce --seeds 1.5": "'--seeds'",
    "reproduce mosi": "mosi",
    "publish": "'STUDY...'",
    "merge": "'DIR'",
    "predict full": "'DATA'",
    "export full": "'DIR'",
    "predict full planted-mixed --split tset": "'--split'",
    "data card planted": "'PROTOCOL'",
    "data convert planted tone p.safetensors --precision float8": "float16",
    "figures --pge table1": "did you mean '--page'?",
    "--vresion": "did you mean '--version'?",
}
IMPOSSIBLE = {  # status 1
    "reproduce --data planetd": "did you mean 'planted'?",
    "reproduce --data cards": "unknown study 'cards'",
    "reproduce --workers -3": "--workers is -3",
    "reproduce --workers 0": "give a number from 1 to ",
    "reproduce --workers 99999999999": "--workers is 99999999999",
    "reproduce --seeds 0": "--seeds is 0",
    "reproduce --only ful1 --dry-run": "no configuration of 'planted' has 'ful1' in its name",
    "reproduce --dry-run --tls-ca ca.pem": "tls:// scheduler",
    "publish mossi": "did you mean 'mosi'?",
    "publish ''": "unknown study ''",
    "merge ''": "no such store",
    "predict nothing planted-mixed": "no finished run is called 'nothing'",
    "predict '' planted-mixed": "no finished run is called ''",
    "predict nothing planted-mixed --results /nowhere": "there is no such folder",
    "export nothing taken": "no finished run is called 'nothing'",
    "status --results /nowhere": "there is no such folder",
    "status --results /etc/passwd": "there is no such folder",
    "verify --results /nowhere": "there is no such folder",
    "verify --published /nowhere": "there is no such folder",
    "overhead --results /nowhere": "there is no such folder",
    "reproduce --results /proc/none": "this folder cannot be made",
    "reproduce --dry-run --scheduler foo": "'foo' is no address of a scheduler",
    "reproduce --dry-run --scheduler ''": "'' is no address of a scheduler",
    "reproduce --dry-run --scheduler tcp://host:99999999": "is no address of a scheduler",
    "reproduce --dry-run --scheduler http://127.0.0.1:8786": "is no address of a scheduler",
    "figures --page figure6 --data iemocap": "there is nothing to draw on page figure6",
    "figures --page figures1to5 --data mosi": "there is nothing to draw on page figures1to5",
    "figures --page table5 --results /nowhere": "there is no such folder",
    "merge no/such/store": "no such store",
    "figures --page tabel2": "did you mean 'table2'?",
    "figures --data mossi": "did you mean 'mosi'?",
    "data list mossi": "did you mean 'mosi'?",
    "data list mossi --json": "did you mean 'mosi'?",
    "data fetch": "which data set?",
    "data fetch mossi": "did you mean 'mosi'?",
    "data check mossi": "did you mean 'mosi'?",
    "data check mossi --json": "did you mean 'mosi'?",
    "data card mossi context": "did you mean 'mosi'?",
    "data card mosi contxt": "did you mean 'context'?",
    "data card mosi context --task regresion": "did you mean 'regression'?",
    "data card planted mixed -o segmets=3": "did you mean 'segments'?",
    "data card planted mixed -o segments=many": "segments",
    "data card planted mixed -o segments=0": "segments",
    "data card planted mixed -o segments=99999999999": "are the most",
    "data card planted mixed -o segments": "write name=value",
    "data card planted mixd": "mixd",
    "data convert planted tone p.npz": "….safetensors",
}


@pytest.mark.parametrize("line", [*UNREADABLE, *IMPOSSIBLE])
def test_whatever_is_wrong_is_one_sentence(line, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_PAPER_RUNS", str(tmp_path / "runs"))
    status = main(shlex.split(line))
    out, error = capsys.readouterr()
    assert status == (2 if line in UNREADABLE else 1) and out == ""
    assert (UNREADABLE | IMPOSSIBLE)[line] in error and "Traceback" not in error
    assert len([text for text in error.splitlines() if not text.startswith("  ")]) == 1, error


def test_a_full_disk_is_one_sentence(capsys, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    status = main(["data", "convert", "planted", "tone", "/dev/full/p.safetensors", "-o", "segments=20"])
    assert status == 1 and len(capsys.readouterr().err.splitlines()) <= 3


def test_a_closed_pipe_is_no_error():
    writer = subprocess.Popen(
        [*CALL, "data", "list"], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    writer.stdout.close()
    assert b"Traceback" not in writer.stderr.read()
    writer.stderr.close()
    writer.wait()


# For programs -----------------------------------------------------------------------------------------------


def answered(arguments, capsys):
    "Status, and what a program reads; anything else on stdout is an error here."
    status = main([*arguments, "--json"])
    return status, strict_json(capsys.readouterr().out, arguments)


def test_status_says_how_far_every_study_is(capsys, tmp_path):
    from msa_paper.registry import study as declared
    from msa_paper.studies.configurations import every_entry

    (tmp_path / "aside" / "s1-x").mkdir(parents=True)
    failed = tmp_path / "notebooks" / "mosi-context" / "full.failed.ipynb"
    failed.parent.mkdir(parents=True)
    failed.touch()
    there = ["--results", str(tmp_path)]
    assert main(["status", *there]) == 0
    told = capsys.readouterr().out
    status, found = answered(["status", *there], capsys)
    studies = {s["name"]: s for s in found["studies"]}
    begun = {name for name in declared if every_entry(name, str(tmp_path))}  # others wait for a search
    assert status == 0 and set(studies) <= set(names.studies()) and begun == set(studies)
    for name, study in studies.items():
        assert re.search(rf"^{name} .* {study['runs']} of +{study['runs_needed']} runs", told, flags=re.M)
        assert study["runs_needed"] == sum(b["runs_needed"] for b in study["experiments"]) > 0
        assert all(re.search(rf"^  {b['name']} ", told, flags=re.M) for b in study["experiments"])
    assert found["put_aside"] == ["aside/s1-x"] and found["failed"] == [
        "notebooks/mosi-context/full.failed.ipynb"
    ]
    assert "put aside: aside/s1-x\n" in told and "failed: notebooks/mosi-context/full.failed.ipynb\n" in told
    if (results_folder() / "mosi").is_dir():
        assert studies["mosi"]["published"] > 0 and "of them published" in told


def test_data_are_listed_checked_and_described(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_PAPER_DATA", str(tmp_path))
    status, found = answered(["data", "list"], capsys)
    assert status == 0 and [d["name"] for d in found["data_sets"]] == names.listed_data_sets()
    first = next(f for d in found["data_sets"] for f in d["files"])
    assert not first["here"] and first["bytes"] > 0
    (tmp_path / first["path"]).parent.mkdir(parents=True)
    (tmp_path / first["path"]).write_text("damaged")
    status, found = answered(["data", "check"], capsys)
    states = {f["path"]: f["state"] for f in found["files"]}
    assert status == 1 and states[first["path"]] == "corrupted" and "missing" in states.values()
    status, found = answered(["data", "card", "planted", "tone", "-o", "segments=60"], capsys)
    assert status == 0 and found["splits"]["train"]["sequences"] == 42


def test_verify_and_publish_answer_programs(capsys, tmp_path):
    tuned = tmp_path / "store" / "tuning" / "mosi-context-regression" / "full-00000000-00000000.json"
    tuned.parent.mkdir(parents=True)
    tuned.write_text("{}")
    there = ["--results", str(tmp_path / "store")]
    status, found = answered(["verify", *there, "--published", str(tmp_path)], capsys)
    assert (
        status == 1 and found["stored"] == 1 and len(found["wrong"]) == 1 and found["published_studies"] == 0
    )
    status, found = answered(["publish", "planted", *there, "--to", str(tmp_path / "to")], capsys)
    assert (
        status == 1 and found["published"] == [] and "no run of 'planted' is finished" in found["failed"][0]
    )


def test_what_readers_say_is_not_in_the_answer(capsys):
    "A reader that prints, printed between the braces."
    from msa_paper.commands.parsing import aside, said

    with aside(True):
        print("22856 texts")
    said({"a": float("nan")}, "", True)
    out, error = capsys.readouterr()
    assert json.loads(out) == {"a": None} and error == "22856 texts\n"


# Completion, version, speed ---------------------------------------------------------------------------------


def completed(line, shell="bash"):
    "What a shell is offered for the last word of a line."
    words = line.split(" ")
    ask = dict(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), _MSA_PAPER_COMPLETE=f"complete_{shell}")
    done = subprocess.run(CALL, cwd=PROJECT, env=os.environ | ask, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_names_complete():
    assert completed("msa-paper rep") == ["reproduce"]
    assert "--dry-run" in completed("msa-paper reproduce --d")
    assert "mosi-features" in completed("msa-paper reproduce --data mosi")
    assert "cards" in completed("msa-paper publish ca")
    assert completed("msa-paper data fetch mose") == ["mosei"]
    assert "iemocap" in completed("msa-paper data card ie")
    assert completed("msa-paper figures --page table1") == ["table1"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_produced(shell):
    ask = {"_MSA_PAPER_COMPLETE": f"source_{shell}"}
    done = subprocess.run(CALL, cwd=PROJECT, env=os.environ | ask, capture_output=True, text=True)
    assert done.returncode == 0 and "msa-paper" in done.stdout and "_MSA_PAPER_COMPLETE" in done.stdout


def test_completion_can_be_installed(tmp_path):
    ask = dict(HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    call = [*CALL, "--install-completion", "bash"]
    done = subprocess.run(call, cwd=PROJECT, env=os.environ | ask, capture_output=True, text=True)
    assert done.returncode == 0 and "bash completion installed" in done.stdout
    assert "_MSA_PAPER_COMPLETE" in next((tmp_path / ".bash_completions").iterdir()).read_text()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"msa-paper {__version__}\n"


HEAVY = (
    "torch",
    "pandas",
    "numpy",
    "scipy",
    "matplotlib",
    "nbformat",
    "IPython",
    "pooch",
    "optuna",
    "distributed",
    "rich",
)


def test_importing_the_command_is_quick_and_light():
    ask = "import sys, time; import msa_paper.cli; print(time.process_time(), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], cwd=PROJECT, capture_output=True, text=True)
    seconds, *modules = done.stdout.split()
    assert not set(HEAVY) & set(modules) and float(seconds) < 1
    assert [m for m in modules if m.startswith("msa_paper.")] != []


# Installed by pip, outside of a checkout --------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "A folder with the installed package, and an empty one to call it from."
    top = tmp_path_factory.mktemp("installed")
    (top / "source").mkdir()
    (top / "else").mkdir()
    for name in ("settings.ini", "setup.py", "LICENSE"):
        shutil.copy(PROJECT / name, top / "source")
    shutil.copytree(
        PROJECT / "msa_paper", top / "source" / "msa_paper", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", top / "lib", top / "source"], check=True, capture_output=True)
    return top


def outside(installed, line):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MSA_PAPER_")}
    environment |= dict(PYTHONPATH=str(installed / "lib"))
    return subprocess.run(
        [*CALL, *line.split()], cwd=installed / "else", env=environment, capture_output=True, text=True
    )


def test_what_is_installed_names_no_invented_address(installed):
    about = next((installed / "lib").glob("msa_paper-*.dist-info"))
    told = (about / "METADATA").read_text()
    assert (
        "://" not in told
        and "@" not in told
        and "msa_paper.cli:main" in (about / "entry_points.txt").read_text()
    )
    found = [
        p.name
        for p in (installed / "lib" / "msa_paper").rglob("*.py")
        if re.search("github.io|noreply", p.read_text())
    ]
    assert found == []
    settings = (PROJECT / "settings.ini").read_text()
    assert "://" not in settings and "@" not in settings


@pytest.mark.parametrize(
    "line",
    [
        "--version",
        "--help",
        "merge .",
        "reproduce --dry-run --only dummy",
        "status",
        "data card planted mixed -o segments=40",
    ],
)
def test_what_needs_no_checkout_works_without(line, installed):
    done = outside(installed, line)
    assert done.returncode == 0 and done.stdout and done.stderr == ""


NEEDS = {
    "data list": "data/manifest.json",
    "data check": "data/manifest.json",
    "data fetch mosi": "data/manifest.json",
    "data card mosi context": "data/manifest.json",
    "data cards": "data/manifest.json",
    "reproduce --only dummy --seeds 1 --workers 1": "nbs/runs",
    "publish planted": "results",
    "figures": "results",
    "figures --results . --page table2": "nbs/figures",
    "readme": "nbs/index.ipynb",
}


@pytest.mark.parametrize("line", NEEDS)
def test_what_needs_a_checkout_says_so(line, installed):
    done = outside(installed, line)
    assert done.returncode == 1 and done.stdout == "" and f"needs {NEEDS[line]} of the project" in done.stderr
    assert len(done.stderr.splitlines()) == 3 and not list((installed / "else").iterdir())


# Pages ------------------------------------------------------------------------------------------------------


def test_a_damaged_study_is_named_and_the_other_is_drawn(tmp_path, capsys):
    if not (results_folder() / "iemocap").is_dir():
        pytest.skip("no published results of IEMOCAP")
    for study in ("iemocap", "mosi"):
        shutil.copytree(results_folder() / study, tmp_path / "results" / study)
    damaged = tmp_path / "results" / "mosi" / "runs.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    failures = redraw(str(tmp_path / "results"), str(tmp_path / "drawn"), pages=("table4", "table5"))
    assert failures == ["a study is left out: mosi/runs.parquet: it is not what was published"]
    assert capsys.readouterr().out == "drawn: iemocap table4\n"


def test_outside_of_a_checkout_verify_says_that_there_is_nothing(installed):
    done = outside(installed, "verify --json")
    assert done.returncode == 1 and "nothing is stored or published" in done.stderr
