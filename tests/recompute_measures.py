"""What tests/recompute.py reads effects from, without msa_paper: their names, and what learning curves,
probes of trained models and counts of parameters say of them."""

import numpy as np
import pandas as pd

RIGHT = (  # how an effect of models is named: what is more, if the paper is right, comes first
    r"full − .*|.* − no spatio-temporal graph, .*|.*, without graph − full|.*, full − without graph|"
    r"lead over .*: angry and neutral − happy and sad|.*: (happy|sad) − (angry|neutral)"
)


def parts(told, name):
    "'a − b' is {a: 1, b: -1}; of 'a and b', each is half."
    sides = [side.split(" and ") for side in told.split(" − ")]
    return {name(x): sign / len(side) for sign, side in zip((1.0, -1.0), sides) for x in side}


def model_of(name):
    "The id of a model."
    for told in (" model", "-level", "spatio-temporal ", "enation"):
        name = name.replace(told, "")
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
        ranks = dict(alpha_quality_rank=v.get("rho"), alpha_quality_correlation=v["r"])
        return ranks | dict(alpha_quality_auc=v["auc"] - 0.5)
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
        recall, fresh = v["trained"]["recall"][at] - v["trained"]["chance_recall"][at], v["untrained"]
        auc, precision = v["trained"]["auc"], np.array(v["trained"]["precision"], float)[at]
        gained = dict(cosine_auc_gained=auc - fresh["auc"], cosine_auc=auc - 0.5, edge_recall=recall)
        gained["edge_precision"] = precision - v["trained"]["chance_precision"]
        gained["edge_precision_gained"] = precision - np.array(fresh["precision"], float)[at]
        return gained | dict(task_correlation=v["corr"], error_without_edges=v.get("mae"))
    if probe == "lag":
        far = pd.DataFrame(v["lags"]).query("lag > 2")
        mae = np.average(far.mae, weights=far.n)
        return dict(far_error_saved=mae, far_lag_error=mae, parameters_saved=v.get("sequence_parameters"))
    if probe != "robustness":
        return {}
    tried = pd.DataFrame(v["conditions"])
    score = tried.score * (-1 if v["metric"].startswith("acc") else 1)
    curves = [[0, *i] for _, i in tried[tried.which == "all"].groupby("kind").groups.items()]
    worse = np.mean([np.trapezoid(score[i], tried.level[i]) / tried.level[i[-1]] for i in curves])
    clean = dict(clean_above_baseline=score[0], corrupted_above_baseline=worse)
    return clean | dict(loss_below_baseline=worse - score[0])


def growth(counts):
    "What the last of 2, 3, … modalities adds, over what the one before added; whether that is exponential."
    steps = np.diff(counts)
    x, y = np.arange(3, 3 + len(steps)), np.log(steps)
    exponential, power = (np.polyfit(z, y, 1, full=True)[1].sum() for z in (x, np.log(x - 0.5)))
    return steps[-1] / steps[-2], bool(exponential < power and steps.max() >= 1.05 * steps.min())
