"""Claims in tests/recompute.py: whether figures/claims/claims.json follows from results/ by data/rules.toml:
effects, their directions and states, the conditions of a verdict, and verdicts."""

import json
import re
import tomllib

import pandas as pd
from recompute_measures import RIGHT, growth, model_of, terms_of
from recompute_rules import by_rule, in_sight, interval, judged, ruled_out, state, together
from scipy import stats

PAPER = ["tfn", "lmf", "mfn", "raven", "mult", "graph_mfn", "full"]  # Tables 3 to 5, from worst to best
OF_MODELS = "C1", "C2", "C3", "C5", "C6", "C9"  # claims of differences between metrics
SHARES = "error_without_edges", "far_error_saved", "parameters_saved"  # of what the other model has


class Row:
    "A row of a claim: what the page says, and what results/ say."

    def __init__(self, results, id, name, f):
        self.results, self.id, self.name, self.f, self.of = results, id, name, f, {}
        for _, model, run in (r.split("/") for r in f["runs"] if r.count("/") == 2):
            self.of[model] = self.of.get(model, ()) + (run[:8],)  # several: folds, or variants
        self.runs = [results.of[c] for configurations in self.of.values() for c in configurations]
        self.deciding = [x for x in f["effects"] if x["decides"]]

    def counted(self, model):
        "{parameters or bytes: (what the last modality adds, whether that is exponential)}"
        cost = json.loads((self.results.root / "results/probes/derived.json").read_text())["cost"]
        rows = pd.DataFrame(cost["rows"]).query("model == @model").sort_values("modalities")
        return {k: growth(rows[k].to_numpy(float)) for k in ("parameters", "bytes")}

    def sides(self, effect):
        "The configurations whose insides are compared; the same one, where one is looked at."
        if self.id in ("C8", "C15"):
            other = "no_graph" if self.id == "C8" else model_of(effect.split(" than ")[1])
            return self.of["full"][0], self.of[other][0]

        def stands_in(c):
            settings = json.loads(self.results.of[c].spec.iloc[0])["settings"]
            return settings.get("sequence", "tcn") != "tcn", settings.get("edges") == "temporal"

        some = sorted((c for configurations in self.of.values() for c in configurations), key=stands_in)
        return some[0], some[-1]

    def effect(self, x):
        "What follows from results/; nothing where that is taken as published."
        name, measure = x["effect"], x["measure"]
        if self.id in OF_MODELS:
            terms = terms_of(name, x["metric"]).items()
            return self.results.test(*((self.of[m], k, w) for (m, k), w in terms))
        if self.id == "C4":
            metric, sign = ("mae", -1) if name.endswith("MAE") else ("acc", 1)
            means = [sign * self.results.values(self.of[m], metric).mean() for m in PAPER]
            ranks = self.results.statistic("ranks", self.of["full"])
            tau = stats.kendalltau(range(7), means)[0]
            return dict(mean=tau, low=ranks["kendall_low"], high=ranks["kendall_high"], p=ranks["p"])
        if self.id == "C7":
            errors, sign = self.results.statistic("errors", self.of["full"]), -1 if "slope" in measure else 1
            d = errors["slope" if "slope" in measure else "large"]
            found = interval(sign * d["mean"], d["se"], d["df"])
            return found if sign > 0 else {k: v for k, v in found.items() if k != "detectable"}
        if self.id == "C14":
            counted = self.counted(model_of(name.split(":")[0]))
            more = counted["bytes" if "memory" in measure else "parameters"][0] - 1
            return dict(mean=more, low=more, high=more)
        one, other = (self.results.seen.loc[c][measure] for c in self.sides(name))
        compared = self.id in ("C8", "C13", "C15")
        d = 1 - one / other if measure in SHARES else other - one if compared else one
        return judged(d.dropna().to_numpy())

    def met(self, condition, asked):
        "Whether a condition is met; nothing where that doesn't follow from results/."
        seen = self.results.seen
        each = [seen.loc[c] for some in self.of.values() for c in some if c in seen.index]
        if condition == "size_in_sight":
            return in_sight(self.deciding, asked)
        if condition == "every_baseline":
            return {*PAPER[:-1]} <= {*self.of}
        if condition == "several_modalities":
            return all("," in r.modalities.iloc[0] for r in self.runs)
        if condition == "ten_seeds":
            return min(len(r) for r in self.runs) >= 10
        if condition == "validation_not_saturated":
            return max(s.best.mean() for s in each) <= 0.97
        if condition == "task_learnt":
            return max(s.task_correlation.mean() for s in each) >= 0.5
        if condition == "alike_when_clean":
            alike = [x for x in self.f["effects"] if x["measure"] == "clean_above_baseline"]
            alike = [x["effect"] for x in alike if abs(x["estimate"]) <= x["minimum"]]
            told = [x["effect"].replace("when corrupted", "without corruption") for x in self.deciding]
            return bool(told) and sorted(told) == sorted(alike)
        return None

    def effects(self, rule, sizes):
        "Compare effects, the minimum that counts for each, and their states."
        for x in self.f["effects"]:
            what, mine = f"{self.id} {self.name} {x['effect']}", self.effect(x)
            x["mean"], x["df"] = x["estimate"], mine.get("df", 1e9)
            least = [sizes[k] for k in (x["measure"], x["metric"]) if k in rule["minimum"]]
            mine = {k: mine[k] for k in ("mean", "low", "high", "p", "detectable") if k in mine}
            self.results.same(what, mine | dict(minimum=[*least, 0.0][0]), x, digits=5)
            self.results.agree(f"{what} state", state(x), x["state"])
            if self.id in (*OF_MODELS, "C8"):
                self.results.agree(f"{what} direction", bool(re.fullmatch(RIGHT, x["effect"])), True)

    def by_rule(self, rule):
        "The verdict, wherever it can be given."
        if rule != "growth_is_as_claimed":
            return by_rule(rule, self.deciding) if self.deciding else "not testable here"
        counts = {m: self.counted(m).values() for m in ("tfn", "lmf")}
        right = all(exponential == (m == "tfn") for m, some in counts.items() for _, exponential in some)
        return "supported" if right else "contradicted"

    def verdict(self, rule):
        "Compare conditions, and the verdict that follows from them and from the effects."
        what, unmet = f"{self.id} {self.name}", [c["id"] for c in self.f["checks"] if c["met"] is False]
        if self.id in (*OF_MODELS, "C4", "C8") and self.runs:
            part = "validation_n" if self.id == "C8" else "test_n"
            sizes = [int(self.results.of[c][part].iloc[0]) for c in [*self.of.values()][0]]
            mine = dict(n=sum(sizes), seeds=min(map(len, self.runs)))
            self.results.same(what, mine, self.f)
        asked = rule["testable"] if self.deciding else []
        self.results.agree(f"{what} conditions", asked, [c["id"] for c in self.f["checks"]])
        for c in self.f["checks"]:
            mine = self.met(c["id"], rule.get("visible", {}))
            self.results.agree(f"{what} {c['id']}", c["met"] if mine is None else mine, c["met"])
        mine = self.by_rule(rule["rule"])
        mine = "not testable here" if ruled_out(mine, unmet) else mine
        self.results.agree(f"{what} verdict", mine, self.f["verdict"])


def claims(results, ids=()):
    "Compare every claim, or some."
    rules = tomllib.loads((results.root / "data/rules.toml").read_text())
    sizes = {name: m["size"] for m in rules["minimum"] for name in m["of"]}
    told = json.loads((results.root / "figures/claims/claims.json").read_text())
    for rule in (r for r in rules["rule"] if r["claim"] in (ids or told)):
        rows = [Row(results, rule["claim"], name, f) for name, f in told[rule["claim"]]["places"].items()]
        for row in rows:
            row.effects(rule, sizes)
            row.verdict(rule)
        mine = together(row.f["verdict"] for row in rows if row.f["decides"])
        results.agree(f"{rule['claim']} verdict", mine, told[rule["claim"]]["verdict"])
