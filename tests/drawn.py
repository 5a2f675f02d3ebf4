"""What a page that was drawn again may differ in: digits that mean nothing, and shades of a pixel."""

import json
import re

import numpy as np
import pandas as pd
from PIL import Image

CLOSE = dict(rtol=2e-3, atol=1e-4)  # of numbers: the fourth digit of what is printed with three
SHADE = 1.0  # mean difference of a picture's pixels, of 255
NUMBER = re.compile(r"[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?")


def numbers(text):
    "The numbers in a text, and the text without them."
    return [float(n.replace(",", "").replace("−", "-")) for n in NUMBER.findall(text)], NUMBER.sub("#", text)


def leaves(tree, at=""):
    if isinstance(tree, dict):
        return [leaf for k, v in tree.items() for leaf in leaves(v, f"{at}/{k}")]
    if isinstance(tree, list):
        return [leaf for k, v in enumerate(tree) for leaf in leaves(v, f"{at}[{k}]")]
    return [(at, tree)]


def same_table(a, b):
    if list(a.columns) != list(b.columns) or len(a) != len(b):
        return "other rows or columns"
    for c in a:
        if pd.api.types.is_numeric_dtype(a[c]) and pd.api.types.is_numeric_dtype(b[c]):
            if not np.allclose(a[c].astype(float), b[c].astype(float), equal_nan=True, **CLOSE):
                return f"column {c}"
        elif not a[c].astype(str).equals(b[c].astype(str)):
            return f"column {c}"


def same_json(a, b):
    a, b = leaves(a), leaves(b)
    if [k for k, _ in a] != [k for k, _ in b]:
        return "other entries"
    for (k, x), (_, y) in zip(a, b):
        plain = isinstance(x, (int, float)) and isinstance(y, (int, float)) and not isinstance(x, bool)
        if not (np.isclose(x, y, **CLOSE) if plain else x == y):
            return k


def same_text(a, b):
    (x, without), (y, other) = numbers(a), numbers(b)
    if without != other or len(x) != len(y):
        return "other words"
    if not np.allclose(x, y, rtol=CLOSE["rtol"], atol=0.0011):  # one unit in the last of three printed digits
        return "other numbers"


def same_picture(a, b):
    a, b = (np.asarray(Image.open(p).convert("RGB"), float) for p in (a, b))
    if a.shape != b.shape:
        return "another size"
    return "another picture" if np.abs(a - b).mean() > SHADE else None


def differences(drawn, committed):
    "How files differ from those of the same name elsewhere: {name: what}; drawings only have to be there."
    found = {}
    for path in sorted(p for p in drawn.rglob("*") if p.is_file()):
        name, other = path.relative_to(drawn), committed / path.relative_to(drawn)
        if not other.is_file():
            found[str(name)] = "not committed"
        elif path.suffix == ".csv":
            found[str(name)] = same_table(pd.read_csv(path), pd.read_csv(other))
        elif path.suffix == ".json":
            found[str(name)] = same_json(json.loads(path.read_text()), json.loads(other.read_text()))
        elif path.suffix == ".md":
            found[str(name)] = same_text(path.read_text(), other.read_text())
        elif path.suffix == ".png":
            found[str(name)] = same_picture(path, other)
    return {n: what for n, what in found.items() if what}
