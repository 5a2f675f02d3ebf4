"""What tests/recompute.py judges with, without msa_paper: intervals and their tests, and the states of
effects and verdicts of claims that follow from them by the rules in data/rules.toml."""

from functools import cache

import numpy as np
import pandas as pd
from scipy import optimize, stats

ONLY = dict(size_in_sight="not supported", every_baseline="supported")  # conditions that rule out one verdict


@cache
def detectable(df):
    "How many standard errors are seen in four of five tests."
    return optimize.brentq(lambda d: stats.nct.sf(stats.t.isf(0.025, df), df, d) - 0.8, 0, 40)


def interval(mean, se, df):
    "95 %, the test against 0, and the minimum detectable effect."
    half, least = stats.t.isf(0.025, df) * se, se and se * detectable(max(df, 1))
    p = 2 * stats.t.sf(abs(mean) / se, df) if se else float(mean == 0)
    return dict(df=df, mean=mean, low=mean - half, high=mean + half, p=p, detectable=least)


def judged(x, between=0, within=0, G=1e9):
    "A mean over seeds and groups; without variances of groups, over seeds alone."
    S, n, g = len(x), max(len(x) - 1, 1), G - 1
    v_G, (v_S, v_E) = between * G / g, (np.var(x, ddof=1) / S, within * G / g / (S * n)) if S > 1 else (0, 0)
    v = max(v_G, v_S, v_G + v_S - v_E)
    w = v_S / v if v else 0
    df = 1 / (w**2 / n + (1 - w) ** 2 / g + 2 * w * (1 - w) * (n**-2 + g**-2))
    sd = np.std(x, ddof=1) if S > 1 else np.nan
    of_seeds = dict(sd=sd, seeds=S, in_seed_sds=np.mean(x) / sd if sd > 0 else np.nan)
    return interval(np.mean(x), v**0.5, df) | of_seeds


def holm(p):
    "Adjusted p-values."
    p = pd.Series(p, dtype=float).sort_values()
    return ((len(p) - np.arange(len(p))) * p).cummax().clip(upper=1)


def state(x):
    "Where an interval lies, with respect to the minimum that counts on either side."
    if x["low"] > x["minimum"] or x["high"] < -x["minimum"]:
        return "as claimed" if x["low"] > x["minimum"] else "reversed"
    return "below what counts" if x["high"] < x["minimum"] else "open"


def in_sight(effects, asked):
    "Whether each effect that stays open could have been seen, were it as large as the paper or a rule says."
    if any(state(x) not in ("as claimed", "open") for x in effects):
        return True
    for x in effects:
        size = asked.get(f"{x['measure']} {x['metric']}", asked.get(x["measure"], np.nan))
        size = np.maximum(size if x["claimed"] is None else x["claimed"], x["minimum"])
        if state(x) == "open" and x["detectable"] > size - x["minimum"]:
            return False
    return True


def by_rule(rule, effects):
    "Supported, contradicted or neither, wherever it can be tested."
    e = pd.DataFrame([dict(df=1e9) | x for x in effects])
    se, x, above = (e.high - e.low) / 2 / stats.t.isf(0.025, e.df), e.estimate, e.low > e.minimum
    p = pd.Series(np.where(x < -e.minimum, 2 * stats.t.sf(abs(x + e.minimum) / se, e.df), 1))
    turned = (p < 0.05) & (e.high < -e.minimum)
    part = e.measure.isin(["error_without_edges", "parameters_saved"])
    if rule == "order_holds":
        no, yes = (e.high <= 0).all(), above.all()
    elif rule == "learnt_and_of_use":
        no, yes = turned[part].any() or turned[~part].all(), above[part].all() and above[~part].any()
    elif rule == "not_worse_with_fewer":
        no, yes = (x[part] < 0).any() or turned[~part].any(), (x[part] > 0).all()
        yes = yes and (e.low > -e.minimum)[~part].all()
    else:
        no = (turned & (holm(p) < 0.05)).any()
        yes = above.all() and ("in_order" not in rule or (x.diff()[1:] > 0).all())
    return "contradicted" if no else "supported" if yes else "not supported"


def ruled_out(verdict, unmet):
    "Whether conditions that aren't met forbid this verdict."
    return any(ONLY.get(condition, verdict) == verdict for condition in unmet)


def together(verdicts):
    "Of the data sets on which a claim could be tested."
    tested = set(verdicts) - {"not testable here"}
    if len(tested) < 2:
        return tested.pop() if tested else "not testable here"
    return "contradicted" if tested == {"contradicted", "not supported"} else "not supported"
