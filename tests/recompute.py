"""What is published, recomputed without msa_paper: tables, effects and verdicts of claims, and metrics of
published predictions, where labels of CMU-MOSI, CMU-MOSEI or IEMOCAP are. 1 where a number differs."""

import argparse, json, os, sys  # noqa: E401
from pathlib import Path
import numpy as np, pandas as pd  # noqa: E401
from scipy import optimize, stats
from sklearn.metrics import accuracy_score, f1_score

WORDS = dict(happiness="happy", sadness="sad", anger="angry", frustration="frustrated")
TABLES = dict(mosi=("label.csv", ",", 0, "{video_id}_{clip_id}"), mosei=("test.tsv", "\t", 3, "{vid}[{cid}]"))
EDGES, COVERED = dict(mae=(0, np.inf), corr=(-1, 1)), ("mosi", "mosei", "iemocap")


def judged(x, between, within, G):  # a mean, its interval over seeds and groups, and its test against 0
    S, n, g = len(x), max(len(x) - 1, 1), G - 1
    v_G, (v_S, v_E) = between * G / g, (np.var(x, ddof=1) / S, within * G / g / (S * n)) if S > 1 else (0, 0)
    v = max(v_G, v_S, v_G + v_S - v_E)
    w, se = v_S / v if v else 0, v**0.5
    df = 1 / (w**2 / n + (1 - w) ** 2 / g + 2 * w * (1 - w) * (n**-2 + g**-2))
    mean, sd, half = np.mean(x), np.std(x, ddof=1) if S > 1 else np.nan, stats.t.isf(0.025, df) * se
    p, f = 2 * stats.t.sf(abs(mean) / se, df) if se else float(mean == 0), max(df, 1)
    least = se and se * optimize.brentq(lambda d: stats.nct.sf(stats.t.isf(0.025, f), f, d) - 0.8, 0, 40)
    of_seeds = dict(sd=sd, seeds=S, in_seed_sds=mean / sd if sd > 0 else np.nan)
    return of_seeds | dict(df=df, mean=mean, low=mean - half, high=mean + half, p=p, detectable=least)


def holm(p):  # adjusted p-values
    p = pd.Series(p, dtype=float).sort_values()
    return ((len(p) - np.arange(len(p))) * p).cummax().clip(upper=1)


def verdict(rule, effects):  # each beyond the minimum that counts; or one beyond it reversed, with Holm
    e = pd.DataFrame([dict(df=1e9) | x for x in effects])
    se, x = (e.high - e.low) / 2 / stats.t.isf(0.025, e.df), e.estimate
    p = holm(np.where(x < -e.minimum, 2 * stats.t.sf(abs(x + e.minimum) / se, e.df), 1))
    no = (e.high <= 0).all() if rule == "order_holds" else ((p < 0.05) & (e.high < -e.minimum)).any()
    yes = (e.low > e.minimum).all() and ("in_order" not in rule or x.is_monotonic_increasing)
    return "contradicted" if no else "supported" if yes else "not supported"


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


class Recomputed:  # every published run and comparison, and how far our numbers are from what pages say
    def __init__(self, root, data):
        files = (root.glob(f"results/*/{n}.parquet") for n in ("runs", "covariance", "predictions"))
        runs, rows, self.predictions = (pd.concat(map(pd.read_parquet, paths)) for paths in files)
        self.of = {c: g.drop_duplicates("seed").set_index("seed") for c, g in runs.groupby("configuration")}
        self.root, self.data, self.by, self.found = root, data, {}, []  # `found`: how far off, allowed, what
        for row in rows.itertuples():
            terms = (t.partition("*")[::2] for t in row.comparison.split(" "))
            self.by[frozenset((*name.split(".", 1), float(w)) for w, name in terms)] = row

    def same(self, what, ours, theirs, allowed=1e-6, digits=6):  # but for rounding to so many digits
        for k, x in ours.items():
            y = float(theirs[k])
            unit = 10.0 ** (np.floor(np.log10(abs(y))) + 1 - digits) if y and np.isfinite(y) else 0.0
            off = 0.0 if x == y or np.isnan(x) and np.isnan(y) else max(abs(x - y) - unit / 2, 0)
            self.found.append((np.inf if np.isnan(off) else off, allowed, f"{what} {k}"))

    def test(self, *terms):  # a weighted sum; a model that was fitted once has its only value for all seeds
        row = next(r for s in (1, -1) if (r := self.by.get(frozenset((c, m, s * w) for c, m, w in terms))))
        seeds, x = [int(s) for s in row.seeds.split(",")], 0
        for c, m, w in terms:
            one = self.of[c][f"test_{m}"]
            x = x + w * np.resize(one if len(one) == 1 else one.loc[seeds], len(seeds))
        return judged(x, row.between, row.within, self.of[terms[0][0]].groups.iloc[0])

    def tables(self):
        for path in self.root.glob("figures/*/table[3-6].csv"):
            behind, name = json.loads(path.with_suffix(".json").read_text()), path.parent.name + path.stem
            for part, table in pd.read_csv(path).groupby("part"):
                tag, p = {r.split("/")[1]: r.split("/")[2].split("-")[0] for r in behind[part]["runs"]}, {}
                for k, r in table[table["mean"].notna()].iterrows():
                    m = self.test((tag[r.model], r.metric, 1.0))
                    m |= {end: np.clip(m[end], *EDGES.get(r.metric, (0, 1))) for end in ("low", "high")}
                    if not np.isnan(r.d_mean):
                        d = self.test((tag[r.model], r.metric, 1.0), (tag["full"], r.metric, -1.0))
                        p[k], m = d["p"], m | {f"d_{c}": v for c, v in d.items()}
                    self.same(f"{name} {r.model} {r.metric}", {c: v for c, v in m.items() if c in r}, r)
                self.same(f"{name} Holm's p", holm(p), table.d_holm)

    def claims(self):
        told = json.loads((self.root / "figures/claims/claims.json").read_text())
        every = ((id, c["rule"]["id"], c["places"]) for id, c in told.items() if "rule" in c)
        for id, rule, place, f in ((*c, *f) for *c, places in every for f in places.items()):
            tags = {r.split("/")[-1].split("-")[0] for r in f["runs"]} & self.of.keys()
            whole = all('"fold"' not in self.of[c].spec.iloc[0] for c in tags)  # else folds are one test
            tests = [self.test(*terms) for terms in self.by if whole and {c for c, _, _ in terms} <= tags]
            for x in (x for x in f["effects"] if tests and int(id[1:]) < 10 and x["metric"]):  # not of probes
                t = min(tests, key=lambda t: abs(abs(t["mean"]) - abs(x["estimate"])) + abs(t["p"] - x["p"]))
                mine, x["df"] = dict(estimate=np.copysign(t["mean"], x["estimate"]), p=t["p"]), t["df"]
                self.same(f"{id} {place} {x['effect']}", mine, x, digits=5)
            e, unmet = [x for x in f["effects"] if x["decides"]], any(not c["met"] for c in f["checks"])
            if e and rule.startswith(("each_beyond_minimum", "order_holds")):
                ok = unmet if "not testable" in f["verdict"] else verdict(rule, e) == f["verdict"]
                self.found.append((0.0 if ok else np.inf, 0, f"{id} {place} verdict"))

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
    of.tables(), of.claims(), of.metrics()
    wrong, data = sorted(f for f in of.found if f[0] > f[1]), {f[2].split(":")[0] for f in of.found}
    print(len(of.found), "numbers, predictions of", *sorted(data & set(COVERED)), *wrong[-9:])
    print(f"largest difference {max(of.found)[0]:.1e}, {len(wrong)} larger than allowed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
