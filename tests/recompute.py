"""What is published, recomputed from results/ without msa_paper: tables, effects and verdicts of claims, and
metrics of predictions, where labels of MOSI, MOSEI or IEMOCAP are; returns 1 where a number differs.
Taken as published: over folds standard errors, and r and F1 but for .01; C7 and intervals of C4; what is
said of graphs, reach and leaks; the paper's own sizes; which effects decide; what a probe saw in one run."""

import argparse, json, os, sys  # noqa: E401
from pathlib import Path
import numpy as np, pandas as pd  # noqa: E401
from recompute_claims import claims
from recompute_measures import of_curve, of_probe
from recompute_rules import holm, interval, judged
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

WORDS = dict(happiness="happy", sadness="sad", anger="angry", frustration="frustrated")
TABLES = dict(mosi=("label.csv", ",", 0, "{video_id}_{clip_id}"), mosei=("test.tsv", "\t", 3, "{vid}[{cid}]"))
EDGES, COVERED = dict(mae=(0, np.inf), corr=(-1, 1)), ("mosi", "mosei", "iemocap")


def metrics(p, y, classes):  # of predictions (n, outputs)
    f1, guess, p = dict(average="weighted", zero_division=0), p.argmax(1), p[:, 0]
    if classes:
        each = f1_score(y, guess, labels=range(len(classes)), average=None, zero_division=0)
        m = dict(n=len(y), acc=accuracy_score(y, guess), f1_weighted=f1_score(y, guess, **f1))
        return m | {f"f1_{c}": x for c, x in zip(classes, each)}
    m = dict(n=len(y), n_non0=np.sum(y != 0), mae=np.abs(p - y).mean(), corr=stats.pearsonr(p, y)[0])
    for name, i, a, b in (("has0", y == y, y >= 0, p >= 0), ("non0", y != 0, y > 0, p > 0)):
        m |= {f"acc2_{name}": accuracy_score(a[i], b[i]), f"f1_{name}": f1_score(a[i], b[i], **f1)}
    return m | {f"acc{2 * k + 1}": np.mean(np.rint(p.clip(-k, k)) == np.rint(y.clip(-k, k))) for k in (2, 3)}


def labels_of(data, dataset, protocol, classes):  # {id: label}, read from a data set's own files
    if dataset == "iemocap":
        words = WORDS | ({} if "excited" in classes or protocol == "C" else dict(excited="happy"))
        z, number = np.load(data / "iemocap/iemocap_conversations.npz"), {c: k for k, c in enumerate(classes)}
        return pd.Series([number.get(words.get(w, w), np.nan) for w in z["emotion"]], z["utterance_id"])
    file, separator, quoting, name = TABLES[dataset]
    t = pd.read_csv(data / dataset / file, sep=separator, quoting=quoting, dtype=str)
    y = pd.Series(t.label.to_numpy(float), [name.format(**row) for row in t.to_dict("records")])
    if protocol == "videos":
        z = np.load(data / "mosei/video_level/video_level_922.npz")
        y = pd.Series(z["mean_sentiment"].astype(float), z["video_id"])
    return {0: y, 2: 1.0 * (y >= 0), 7: y.clip(-3, 3).round() + 3}[len(classes)]


def terms_in(comparison, folds={}):  # '+1*0cd5c1de.mae -1*…': {({configuration, …}, metric, weight), …}
    terms = (t.partition("*")[::2] for t in comparison.split(" "))
    split = ((*name.split(".", 1), float(w)) for w, name in terms)
    return frozenset((folds.get(c, frozenset({c})), metric, w) for c, metric, w in split)


class Recomputed:  # every published run and comparison, and how far our numbers are from what pages say
    def __init__(self, root, data):
        kinds = "runs", "covariance", "predictions", "probes", "history"
        files = (sorted(root.glob(f"results/*/{kind}.parquet")) for kind in kinds)
        tables = (pd.concat(map(pd.read_parquet, paths)) for paths in files)
        runs, rows, self.predictions, probes, history = tables
        self.of = {c: g.drop_duplicates("seed").set_index("seed") for c, g in runs.groupby("configuration")}
        self.root, self.data, self.found, seen = root, data, [], {}  # `found`: how far off, allowed, what
        self.by = {terms_in(row.comparison): row for row in rows.itertuples()}
        derived = [json.loads(path.read_text()).items() for path in root.glob("results/*/derived.json")]
        every = [(k, d) for of in derived for k, d in of if isinstance(d, dict) and "of" in d]
        self.derived = [(k, {run[:8] for run in d["of"]}, d) for k, d in every]
        for _, some, d in (x for x in self.derived if x[0].startswith("folds comparisons")):
            by_model = runs[runs.configuration.isin(some)].groupby("model").configuration
            folds = {model: frozenset(c) for model, c in by_model}
            self.by |= {terms_in(name, folds): row for name, row in d.items() if name != "of"}
        for key, g in history.dropna(subset="validation_accuracy").groupby(["configuration", "seed"]):
            seen[key] = of_curve(g.validation_accuracy.to_numpy())
        for p in probes.itertuples():  # of two studies with the same run, the later counts
            of = of_probe(p.probe, json.loads(p.content)["values"])
            seen[p.configuration, p.seed] = seen.get((p.configuration, p.seed), {}) | of
        self.seen = pd.DataFrame.from_dict(seen, orient="index", dtype=float)

    def same(self, what, ours, theirs, allowed=1e-6, digits=6):  # but for rounding to so many digits
        for k, x in ours.items():
            y = float(theirs[k])
            unit = 10.0 ** (np.floor(np.log10(abs(y))) + 1 - digits) if y and np.isfinite(y) else 0.0
            off = 0.0 if x == y or np.isnan(x) and np.isnan(y) else max(abs(x - y) - unit / 2, 0)
            self.found.append((np.inf if np.isnan(off) else off, allowed, f"{what} {k}"))

    def agree(self, what, ours, theirs):
        self.found.append((0.0 if ours == theirs else np.inf, 0, f"{what}: {ours}, not {theirs}"))

    def statistic(self, name, configurations):  # that was published of them; the name's own words come first
        return next(d for k, of, d in self.derived if name in k.split()[:2] and of >= set(configurations))

    def values(self, configurations, metric):  # of each seed; folds weigh as much as was tested
        runs, n = [self.of[c] for c in configurations], "test_n_non0" if "non0" in metric else "test_n"
        return sum(r[f"test_{metric}"] * r[n] for r in runs) / sum(r[n] for r in runs)

    def test(self, *terms):  # a weighted sum; a model that was fitted once has its only value for all seeds
        found = {s: self.by.get(frozenset((frozenset(c), m, s * w) for c, m, w in terms)) for s in (1, -1)}
        sign, row = next((s, row) for s, row in found.items() if row)
        each = [w * self.values(c, m) for c, m, w in terms]
        if not isinstance(row, dict):
            seeds = [int(s) for s in row.seeds.split(",")]
            x = sum(np.resize(v if len(v) == 1 else v.loc[seeds], len(seeds)) for v in each)
            return judged(x, row.between, row.within, self.of[terms[0][0][0]].groups.iloc[0])
        mean, sums = sum(v.mean() for v in each), not any(m == "corr" or "f1" in m for _, m, _ in terms)
        self.found.append((abs(mean - sign * row["mean"]), 1e-6 if sums else 0.01, f"over folds {terms}"))
        return interval(mean if sums else sign * row["mean"], row["se"], row["df"])

    def tables(self):
        for path in self.root.glob("figures/*/table[3-6].csv"):
            behind, name = json.loads(path.with_suffix(".json").read_text()), path.parent.name + path.stem
            for part, table in pd.read_csv(path).groupby("part"):
                tag, p = {r.split("/")[1]: r.split("/")[2].split("-")[0] for r in behind[part]["runs"]}, {}
                for k, r in table[table["mean"].notna()].iterrows():
                    m = self.test(((tag[r.model],), r.metric, 1.0))
                    m |= {end: np.clip(m[end], *EDGES.get(r.metric, (0, 1))) for end in ("low", "high")}
                    if not np.isnan(r.d_mean):
                        d = self.test(((tag[r.model],), r.metric, 1.0), ((tag["full"],), r.metric, -1.0))
                        p[k], m = d["p"], m | {f"d_{c}": v for c, v in d.items()}
                    self.same(f"{name} {r.model} {r.metric}", {c: v for c, v in m.items() if c in r}, r)
                self.same(f"{name} Holm's p", holm(p), table.d_holm)

    def metrics(self):
        for c, g in self.predictions.groupby("configuration"):
            dataset, protocol, task = (self.of[c][k].iloc[0] for k in ("dataset", "protocol", "task"))
            if dataset in COVERED and (self.data / dataset).is_dir() and "emotions" not in task:
                classes = [o[2:] for o in g.output.unique() if o != "prediction"]
                y = labels_of(self.data, dataset, protocol, classes)
                for s in g.filter(regex=r"^s\d+$").dropna(axis=1, how="all"):
                    p = g[g.id.map(y) == g.id.map(y)].pivot(index="id", columns="output", values=s)
                    row = self.of[c].loc[int(s[1:])].rename(lambda k: k.removeprefix("test_"))
                    m = metrics(p[g.output.unique()].to_numpy(float), y[p.index].to_numpy(), classes)
                    self.same(f"{dataset}: {protocol} {task} {s}", m, row, 1e-5, 7)


def main(*arguments):  # 1 where a number differs by more than is allowed
    ask, here = argparse.ArgumentParser(description=__doc__), Path(__file__).resolve().parents[1]
    ask.add_argument("--root", type=Path, default=here, help="holds results/ and figures/")
    ask.add_argument("--data", type=Path, default=Path(os.environ.get("MSA_PAPER_DATA", here / "data")))
    of = Recomputed(**vars(ask.parse_args(arguments)))
    of.tables(), claims(of), of.metrics()
    wrong, data = sorted(f for f in of.found if f[0] > f[1]), {f[2].split(":")[0] for f in of.found}
    print(len(of.found), "numbers, predictions of", *sorted(data & set(COVERED)), *wrong[-9:])
    print(f"largest difference {max(of.found)[0]:.1e}, {len(wrong)} larger than allowed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
