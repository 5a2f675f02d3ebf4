"""What tests/recompute.py computes with, and shares no line with msa_paper either: intervals, states, conditions and
verdicts by the rules of data/rules.toml, what an effect's name says, and what curves, probes and counts say."""

import numpy as np
import pandas as pd
from scipy import optimize, stats

# These follow msa_paper/evidence, and change with it:
ONLY_WHERE_OPEN = False  # whether sight is asked only where every effect is as claimed or open
LESS_THE_MINIMUM = False  # whether the minimum is taken from the size that has to be seen
SMALL = "too small to matter", "below what counts"  # both names of this state

PAPER = ["tfn", "lmf", "mfn", "raven", "mult", "graph_mfn", "full"]  # Tables 3 to 5, from worst to best
RIGHT = (  # how an effect of models is named: what the paper says is more comes first
    r"full − .*|.* − no spatio-temporal graph, .*|.*, without graph − full|.*, full − without graph|"
    r"lead over .*: angry and neutral − happy and sad|.*: (happy|sad) − (angry|neutral)"
)
SHARES = "error_without_edges", "far_error_saved", "parameters_saved"  # of what the other model has


def interval(mean, se, df):
    "95 %, the test against 0, and the minimum detectable effect."
    half, f = stats.t.isf(0.025, df) * se, max(df, 1)
    p = 2 * stats.t.sf(abs(mean) / se, df) if se else float(mean == 0)
    least = se and se * optimize.brentq(lambda d: stats.nct.sf(stats.t.isf(0.025, f), f, d) - 0.8, 0, 40)
    return dict(df=df, mean=mean, low=mean - half, high=mean + half, p=p, detectable=least)


def judged(x, between=0, within=0, G=1e9):
    "A mean over seeds and groups; without variances of groups, over seeds alone."
    S, n, g = len(x), max(len(x) - 1, 1), G - 1
    v_G, (v_S, v_E) = between * G / g, (np.var(x, ddof=1) / S, within * G / g / (S * n)) if S > 1 else (0, 0)
    v = max(v_G, v_S, v_G + v_S - v_E)
    w = v_S / v if v else 0
    df = 1 / (w**2 / n + (1 - w) ** 2 / g + 2 * w * (1 - w) * (n**-2 + g**-2))
    sd = np.std(x, ddof=1) if S > 1 else np.nan
    return interval(np.mean(x), v**0.5, df) | dict(sd=sd, seeds=S, in_seed_sds=np.mean(x) / sd if sd > 0 else np.nan)


def holm(p):
    "Adjusted p-values."
    p = pd.Series(p, dtype=float).sort_values()
    return ((len(p) - np.arange(len(p))) * p).cummax().clip(upper=1)


def state(x):
    "Where an interval lies, with respect to the minimum that counts on either side."
    if x["low"] > x["minimum"] or x["high"] < -x["minimum"]:
        return "as claimed" if x["low"] > x["minimum"] else "reversed"
    return "too small to matter" if x["high"] < x["minimum"] else "open"


def in_sight(effects, asked):
    "Whether each effect that stays open could have been seen, if it were as large as the paper, or a rule, says."
    if ONLY_WHERE_OPEN and any(state(x) not in ("as claimed", "open") for x in effects):
        return True
    for x in effects:
        size = asked.get(f"{x['measure']} {x['metric']}", asked.get(x["measure"], np.nan))
        size = np.maximum(size if x["claimed"] is None else x["claimed"], x["minimum"])
        if state(x) == "open" and x["detectable"] > size - LESS_THE_MINIMUM * x["minimum"]:
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
    elif rule == "growth_is_as_claimed":
        yes = ((e.estimate > 0) == e.effect.str.startswith("TFN")).all()
        no = not yes
    else:
        no = (turned & (holm(p) < 0.05)).any()
        yes = above.all() and ("in_order" not in rule or (x.diff()[1:] > 0).all())
    return "contradicted" if no else "supported" if yes else "not supported"


def together(verdicts):
    "Of the data sets on which a claim could be tested."
    tested = set(verdicts) - {"not testable here"}
    if len(tested) < 2:
        return tested.pop() if tested else "not testable here"
    return "contradicted" if tested == {"contradicted", "not supported"} else "not supported"


def parts(told, name):
    "'a − b' is {a: 1, b: -1}; of 'a and b', each is half."
    sides = [side.split(" and ") for side in told.split(" − ")]
    return {name(x): sign / len(side) for sign, side in zip((1.0, -1.0), sides) for x in side}


def model_of(name):
    "The id of a model."
    for told, short in ((" model", ""), ("-level", ""), ("spatio-temporal ", ""), ("concatenation", "concat")):
        name = name.replace(told, short)
    return name.lower().replace("-", "_").replace(" ", "_")


def terms_of(effect, metric):
    "{(model, metric): weight}, positive where the first is better: with less MAE, with more of all else."
    whose, _, of = effect.replace("lead over ", "full − ").partition(", " if metric else ": ")
    per = {metric: -1.0 if metric == "mae" else 1.0} if metric else parts(of, "f1_{}".format)
    return {(m, k): a * b for m, a in parts(whose, model_of).items() for k, b in per.items()}


def of_curve(accuracy):
    "Of the validation accuracy of each epoch; less is better."
    first = np.argmax(accuracy >= 0.95 * accuracy.max())
    after = accuracy[first:]
    drops, wobble = (np.maximum(-np.diff(after), 0).mean(), after.std(ddof=1)) if len(after) > 1 else (0, 0)
    curve = dict(curve_rise=first + 1, curve_level=-after.mean(), curve_drops=drops, curve_wobble=wobble)
    return curve | dict(best=accuracy.max())


def of_probe(probe, v):
    "Of what a probe found in one run; less is better where models are compared."
    if probe == "quality":
        return dict(alpha_quality_rank=v["rho"], alpha_quality_correlation=v["r"], alpha_quality_auc=v["auc"] - 0.5)
    if probe == "poor":
        both = dict(own=v, renamed=v.get("named", {}))
        ranks = {f"beta_quality_rank_{k}": x.get("rho") for k, x in both.items()}
        return ranks | {f"beta_order_correlation_{k}": x.get("r") for k, x in both.items()}
    if probe == "strengths":
        a, b = v["alpha"] or {}, v["beta"] or {}
        weights = dict(weight_falls_with_noise=a.get("rho"), weight_lost_to_noise=a.get("lost"))
        both = dict(own=b, renamed=b.get("named", {}))
        return weights | {f"beta_falls_with_noise_{k}": x.get("rho") for k, x in both.items()}
    if probe == "edges":
        at = v["thetas"].index(round(v["theta"], 2))
        t, u = ({k: x[at] if isinstance(x, list) else x for k, x in v[w].items()} for w in ("trained", "untrained"))
        gained = dict(cosine_auc_gained=t["auc"] - u["auc"], edge_precision_gained=t["precision"] - u["precision"])
        found = dict(edge_precision=t["precision"] - t["chance_precision"], cosine_auc=t["auc"] - 0.5)
        recall = t["recall"] - t["chance_recall"]
        return gained | found | dict(edge_recall=recall, task_correlation=v["corr"], error_without_edges=v["mae"])
    if probe == "lag":
        far = pd.DataFrame(v["lags"]).query("lag > 2")
        mae = np.average(far.mae, weights=far.n)
        return dict(far_error_saved=mae, far_lag_error=mae, parameters_saved=v["sequence_parameters"])
    tried = pd.DataFrame(v["conditions"])
    score = tried.score * (-1 if v["metric"].startswith("acc") else 1)
    curves = [[0, *i] for _, i in tried[tried.which == "all"].groupby("kind").groups.items()]
    worse = np.mean([np.trapezoid(score[i], tried.level[i]) / tried.level[i[-1]] for i in curves])
    clean = dict(clean_above_baseline=score[0], corrupted_above_baseline=worse)
    return clean | dict(loss_below_baseline=worse - score[0])
