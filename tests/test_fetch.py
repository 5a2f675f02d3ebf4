"""The command `msa-paper data`: the real files through a mirror, an unreachable address, a killed fetch."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from conftest import PROJECT
from msa_paper.data.manifest import read_manifest


def command(*arguments, **environment):
    code = "import sys; from msa_paper.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_real_mosi_through_a_mirror(mosi_folder, tmp_path):
    there = dict(MSA_PAPER_DATA=str(tmp_path / "data"), MSA_PAPER_MIRROR=str(mosi_folder))
    refused = command("data", "fetch", "mosi", **there)
    assert refused.returncode == 1 and "--accept-terms" in refused.stderr and not (tmp_path / "data").exists()
    done = command("data", "fetch", "mosi", "--accept-terms", **there)
    assert done.returncode == 0 and "academic research only" in done.stdout, done.stderr
    files = len(read_manifest()["mosi"].files)
    checked = command("data", "check", "mosi", **there)
    assert checked.returncode == 0 and f"mosi: {files} ok" in checked.stdout, checked.stdout
    spoilt = tmp_path / "data" / "mosi" / "label.csv"
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"!")
    assert "corrupted: mosi/label.csv" in command("data", "check", "mosi", **there).stderr
    again = command("data", "fetch", "mosi", "--accept-terms", **there)
    assert again.returncode == 0 and f"{files - 1} were there, 1 fetched" in again.stdout
    assert command("data", "check", "mosi", **there).returncode == 0


def test_an_unreachable_address_is_one_error(tmp_path):
    done = command(
        "data",
        "fetch",
        "sims",
        "--accept-terms",
        MSA_PAPER_DATA=str(tmp_path),
        MSA_PAPER_MIRROR="http://127.0.0.1:9/",
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "unreachable" in done.stderr
        and "http://127.0.0.1:9/sims/" in done.stderr
        and "MSA_PAPER_MIRROR" in done.stderr
    )


def test_help_imports_nothing_heavy():
    code = "import sys; from msa_paper.cli import main; main(['data', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert "Usage: " in done.stdout and not {"torch", "pooch", "requests"} & set(done.stdout.split())


class Slow(http.server.BaseHTTPRequestHandler):
    content, ranges, pause = os.urandom(4_000_000), [], 0.02

    def log_message(self, *_):
        pass

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        Slow.ranges.append(start)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        for at in range(start, len(self.content), 65536):
            try:
                self.wfile.write(self.content[at : at + 65536])
            except OSError:
                return
            time.sleep(self.pause)


@pytest.mark.skipif(sys.platform == "win32", reason="locks files as POSIX does")
def test_a_killed_fetch_goes_on(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    one = dict(
        path="toy/big.bin",
        bytes=len(Slow.content),
        sha256=hashlib.sha256(Slow.content).hexdigest(),
        licence="none",
        derived="generated",
    )
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"datasets": {"toy": dict(title="t", terms="t", page="p", files=[one])}}))
    given = ["toy", str(tmp_path / "data"), True, f"http://127.0.0.1:{server.server_port}", str(manifest)]
    call = f"from msa_paper.data.fetch import fetch; fetch(*{given!r})"
    running = subprocess.Popen([sys.executable, "-c", call], cwd=PROJECT, stdout=subprocess.DEVNULL)
    part = tmp_path / "data" / "toy" / f".big.bin.{one['sha256'][:8]}.part"
    deadline = time.time() + 60
    while not (part.exists() and part.stat().st_size > 500_000):
        assert time.time() < deadline and running.poll() is None, "the fetch did not begin"
        time.sleep(0.01)
    running.kill()
    running.wait()
    have = part.stat().st_size
    assert not (tmp_path / "data" / "toy" / "big.bin").exists() and have < len(Slow.content)
    Slow.pause = 0
    assert (
        subprocess.run([sys.executable, "-c", call], cwd=PROJECT, stdout=subprocess.DEVNULL).returncode == 0
    )
    assert (
        (tmp_path / "data" / "toy" / "big.bin").read_bytes() == Slow.content
        and Slow.ranges == [0, have]
        and not part.exists()
    )
    server.shutdown()
    server.server_close()
