"""A feature file of MOSEI's size, generated: memory of its conversion, time to open it, memory of an epoch.

python tests/scale.py FOLDER      needs 8.5 GB of disk; prints what it measures
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from msa_paper.formats.generated import write_pickle

MEASURE = """
import re, time
began = time.perf_counter()
{body}
# of this process alone: getrusage begins with its parent's
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print("{name}: %.1f s, peak %.2f GiB resident" % (time.perf_counter() - began, peak / 2**20))
"""

CONVERT = """
from msa_paper.data.catalogue import convert
convert("mosei", "official", {store!r}, file={file!r}, precision={precision!r})
"""

OPEN = """
from msa_paper.data.catalogue import load_corpus
from msa_paper.loaders import batches
start = time.perf_counter()
corpus = load_corpus("mosei", "official", "regression", file={store!r})
print("opened in %.2f s, imports apart" % (time.perf_counter() - start))
n = sum(len(b) for b in batches(corpus, "train", 32, seed=1))
assert n == 16326
"""


def tree():
    "What an aligned MMSA file of MOSEI holds; splits repeat some random numbers: quick to write."
    rng, out = np.random.default_rng(0), {}
    for part, n in (("train", 16326), ("valid", 1871), ("test", 4659)):
        words = rng.integers(5, 51, n)
        padded = (np.arange(50) < words[:, None])[..., None]

        def make(d):
            return np.resize(rng.standard_normal((512, 50, d), dtype=np.float32), (n, 50, d)) * padded

        bert = np.stack([padded[..., 0] * 1000.0, padded[..., 0], np.zeros((n, 50))], 1).astype(np.float32)
        out[part] = dict(
            text=make(768),
            audio=make(74),
            vision=make(35),
            text_bert=bert,
            id=[f"{part}{i // 7}$_${i % 7}" for i in range(n)],
            regression_labels=rng.uniform(-3, 3, n).astype(np.float32),
        )
    return out


def measured(name, body):
    print(
        subprocess.run(
            [sys.executable, "-c", MEASURE.format(name=name, body=body)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip(),
        flush=True,
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    file = folder / "aligned_50.pkl"
    if not file.exists():
        write_pickle(tree(), file, 5)
    print(f"the file: {file.stat().st_size / 2**30:.2f} GiB", flush=True)
    for precision in ("float32", "float16"):
        store = folder / f"{precision}.safetensors"
        measured(
            f"converted to {precision}", CONVERT.format(store=str(store), file=str(file), precision=precision)
        )
        measured(f"opened and one shuffled epoch of {precision}", OPEN.format(store=str(store)))
        store.unlink()
