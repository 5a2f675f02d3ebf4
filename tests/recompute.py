"""What is published, recomputed without msa_paper from results/: tables; effects of claims, their states, conditions
and verdicts; and metrics, where labels of MOSI, MOSEI or IEMOCAP are. Returns 1 where anything differs.
Taken as published: standard errors over folds, and r and F1 there but for .005; C7; intervals of C4; what is said of
graphs, reach and leaks before a verdict; the paper's own sizes; which rows and effects decide; probes of one run."""

import argparse, json, os, sys, tomllib  # noqa: E401
from pathlib import Path
import numpy as np, pandas as pd  # noqa: E401
from scipy import optimize, stats
from sklearn.metrics import accuracy_score, f1_score

# is sight asked only where all is claimed or open; is it less the minimum; is n the sum over folds
ONLY_OPEN, LESS_MINIMUM, SUM_OF_FOLDS, SMALL = False, False, False, ("too small to matter", "below what counts")
WORDS = dict(happiness="happy", sadness="sad", anger="angry", frustration="frustrated")
TABLES = dict(mosi=("label.csv", ",", 0, "{video_id}_{clip_id}"), mosei=("test.tsv", "\t", 3, "{vid}[{cid}]"))
EDGES, COVERED = dict(mae=(0, np.inf), corr=(-1, 1)), ("mosi", "mosei", "iemocap")
PAPER = ["tfn", "lmf", "mfn", "raven", "mult", "graph_mfn", "full"]  # Tables 3 to 5, from worst to best
SHARES = "error_without_edges", "far_error_saved", "parameters_saved"  # of what the other model has


def interval(mean, se, df):  # 95 %, the test against 0, and the minimum detectable effect
    half, f = stats.t.isf(0.025, df) * se, max(df, 1)
    p = 2 * stats.t.sf(abs(mean) / se, df) if se else float(mean == 0)
    least = se and se * optimize.brentq(lambda d: stats.nct.sf(stats.t.isf(0.025, f), f, d) - 0.8, 0, 40)
    return dict(df=df, mean=mean, low=mean - half, high=mean + half, p=p, detectable=least)


def judged(x, between=0, within=0, G=1e9):  # a mean over seeds and groups
    S, n, g, sd = len(x), max(len(x) - 1, 1), G - 1, np.std(x, ddof=1) if len(x) > 1 else np.nan
    v_G, (v_S, v_E) = between * G / g, (sd**2 / S, within * G / g / (S * n)) if S > 1 else (0, 0)
    v = max(v_G, v_S, v_G + v_S - v_E)
    w = v_S / v if v else 0
    df = 1 / (w**2 / n + (1 - w) ** 2 / g + 2 * w * (1 - w) * (n**-2 + g**-2))
    in_sds = np.mean(x) / sd if sd > 0 else np.nan
    return interval(np.mean(x), v**0.5, df) | dict(sd=sd, seeds=S, in_seed_sds=in_sds)


def holm(p):  # adjusted p-values
    p = pd.Series(p, dtype=float).sort_values()
    return ((len(p) - np.arange(len(p))) * p).cummax().clip(upper=1)


def state(x):
    if x["low"] > x["minimum"] or x["high"] < -x["minimum"]:
        return "as claimed" if x["low"] > x["minimum"] else "reversed"
    return "below what counts" if x["high"] < x["minimum"] else "open"


def in_sight(effects, asked):  # whether what stays open could have been seen
    open_ = [x for x in effects if state(x) == "open"]
    if ONLY_OPEN and any(state(x) not in ("as claimed", "open") for x in effects):
        return True
    for x in open_:
        size = asked.get(f"{x['measure']} {x['metric']}", asked.get(x["measure"], np.nan))
        size = np.maximum(size if x["claimed"] is None else x["claimed"], x["minimum"])
        if x["detectable"] > size - LESS_MINIMUM * x["minimum"]:
            return False
    return True


def verdict(rule, effects):
    e = pd.DataFrame([dict(df=1e9) | x for x in effects])
    se, x, above = (e.high - e.low) / 2 / stats.t.isf(0.025, e.df), e.estimate, e.low > e.minimum
    p = pd.Series(np.where(x < -e.minimum, 2 * stats.t.sf(abs(x + e.minimum) / se, e.df), 1))
    turned, part = (p < 0.05) & (e.high < -e.minimum), e.measure.isin(["error_without_edges", "parameters_saved"])
    no, yes = (turned & (holm(p) < 0.05)).any(), above.all() and ("in_order" not in rule or (x.diff()[1:] > 0).all())
    if rule == "order_holds":
        no = (e.high <= 0).all()
    elif rule == "learnt_and_of_use":
        no, yes = turned[part].any() or turned[~part].all(), above[part].all() and above[~part].any()
    elif rule == "not_worse_with_fewer":
        no, yes = (x[part] < 0).any() or turned[~part].any(), (x[part] > 0).all() and (e.low > -e.minimum)[~part].all()
    return "contradicted" if no else "supported" if yes else "not supported"


def parts(told, name):  # 'a − b' is {a: 1, b: -1}; of 'a and b', each is half
    sides = [side.split(" and ") for side in told.split(" − ")]
    return {name(x): sign / len(side) for sign, side in zip((1.0, -1.0), sides) for x in side}


def model_of(name):
    for told, short in ((" model", ""), ("-level", ""), ("spatio-temporal ", ""), ("concatenation", "concat")):
        name = name.replace(told, short)
    return name.lower().replace("-", "_").replace(" ", "_")


def terms_of(effect, metric):  # {(model, metric): weight}, positive where the paper is right; less is better in MAE
    whose, _, of = effect.replace("lead over ", "full − ").partition(", " if metric else ": ")
    per = {metric: -1.0 if metric == "mae" else 1.0} if metric else parts(of, "f1_{}".format)
    return {(m, k): a * b for m, a in parts(whose, model_of).items() for k, b in per.items()}


def probed(probe, v):  # what a probe says for each measure; where models are compared, less is better
    if probe == "quality":
        return dict(alpha_quality_rank=v["rho"], alpha_quality_correlation=v["r"], alpha_quality_auc=v["auc"] - 0.5)
    if probe in ("poor", "strengths"):
        alpha, own = v.get("alpha", {}), v.get("beta", v)
        for which, b in dict(own=own, renamed=own.get("named", {})).items():
            alpha |= {f"beta_{k}_{which}": b.get("r" if "corr" in k else "rho") for k in BETA[probe]}
        ...
