#!/usr/bin/env python3
"""Recomputes with scipy and numpy what drift-stats computed, and compares.

Reads JSON lines on standard input (written by tests/crosscheck.rs), one case per line:
  {"kind": "ks", "a": [...], "b": [...], "d": D, "exact": p, "asymptotic": p, "auto": p}
  {"kind": "kstwo", "n": n, "x": x, "sf": p}
  {"kind": "chi2", "x": x, "df": k, "sf": p} | {"kind": "chi2_quantile", "q": q, "df": k, "x": x}
  {"kind": "homogeneity", "a": [...], "b": [...], "statistic": s, "p": p}
  {"kind": "bh", "p": [...], "adjusted": [...]}
  {"kind": "edges", "rule": "sturges" | "doane", "values": [...], "edges": [...]}
  {"kind": "evidently", "a": [...], "b": [...], "psi": ..., "js": ..., "w": ..., "kl": ..., "hellinger": ..., "ks_p": ...}
The evidently cases use the evidently package where it imports, else the same formulas written with numpy.
Prints the number of comparisons and the worst relative error per kind; exits 1 when one is above the tolerance.
"""

import collections
import json
import sys

import numpy as np
import scipy
from scipy import stats
from scipy.spatial import distance

TOLERANCE = 1e-9
DISTANCES = {"psi", "js", "w", "kl", "hellinger"}

try:
    import pandas as pd
    from evidently.legacy.calculations import stattests
    from evidently.legacy.core import ColumnType
except ImportError:
    stattests = None


def binned(a, b, fill):
    if len(np.unique(a)) > 20:
        edges = np.histogram_bin_edges(np.concatenate([a, b]), bins="sturges")
        shares = [np.histogram(s, edges)[0] / len(s) for s in (a, b)]
    else:
        values = np.unique(np.concatenate([a, b]))
        shares = [np.array([np.sum(s == v) for v in values]) / len(s) for s in (a, b)]
    if fill:
        for s in shares:
            low = s[s > 0].min()
            s[s == 0] = low / 1e6 if low <= 1e-4 else 1e-4
    return shares


def evidently_scores(a, b):
    if stattests is not None:
        def score(test):
            return test.func(pd.Series(a), pd.Series(b), ColumnType.Numerical, 0.1)[0]
        return {
            "psi": score(stattests.psi_stat_test),
            "js": score(stattests.jensenshannon_stat_test),
            "w": score(stattests.wasserstein_stat_test),
            "kl": score(stattests.kl_div_stat_test),
            "hellinger": score(stattests.hellinger_stat_test),
            "ks_p": score(stattests.ks_stat_test),
        }
    p, q = binned(a, b, fill=True)
    raw = binned(a, b, fill=False)
    edges = np.histogram_bin_edges(np.unique(np.concatenate([a, b])), bins="sturges")
    h = [np.histogram(s, edges)[0] / len(s) for s in (a, b)]
    return {
        "psi": np.sum((p - q) * np.log(p / q)),
        "js": distance.jensenshannon(*raw),
        "w": stats.wasserstein_distance(a, b) / max(np.std(a), 0.001),
        "kl": stats.entropy(p, q),
        "hellinger": np.sqrt(1 - np.clip(np.sum(np.sqrt(h[0] * h[1])), 0, 1)),
        "ks_p": stats.ks_2samp(a, b).pvalue,
    }


def expected(case):
    kind = case["kind"]
    if kind == "ks":
        a, b = np.array(case["a"]), np.array(case["b"])
        run = {m: stats.ks_2samp(a, b, method=m) for m in ("exact", "asymp", "auto")}
        return {
            "d": run["exact"].statistic,
            "exact": run["exact"].pvalue,
            "asymptotic": run["asymp"].pvalue,
            "auto": run["auto"].pvalue,
        }
    if kind == "kstwo":
        return {"sf": stats.kstwo.sf(case["x"], case["n"])}
    if kind == "chi2":
        return {"sf": stats.chi2.sf(case["x"], case["df"])}
    if kind == "chi2_quantile":
        return {"x": stats.chi2.ppf(case["q"], case["df"])}
    if kind == "homogeneity":
        test = stats.chi2_contingency([case["a"], case["b"]], correction=False)
        return {"statistic": test.statistic, "p": test.pvalue}
    if kind == "bh":
        return {"adjusted": stats.false_discovery_control(case["p"])}
    if kind == "edges":
        return {"edges": np.histogram_bin_edges(np.array(case["values"]), case["rule"])}
    if kind == "evidently":
        return evidently_scores(np.array(case["a"]), np.array(case["b"]))
    raise SystemExit(f"unknown kind {kind!r}")


def main():
    worst = collections.defaultdict(float)
    count = collections.Counter()
    failures = []
    for line in sys.stdin:
        case = json.loads(line)
        for name, want in expected(case).items():
            want, got = np.atleast_1d(want), np.atleast_1d(case[name])
            key = f"{case['kind']}.{name}"
            count[key] += 1
            if want.shape != got.shape:
                failures.append(f"{key}: {got.shape} values, scipy {want.shape}")
                continue
            gap = np.abs(got - want)
            if name in DISTANCES:
                # Identical shares give a distance of 0, or rounding noise around it: no relative error there.
                gap = np.where((np.abs(want) < 1e-7) & (gap < 1e-7), 0.0, gap)
            error = float(np.max(gap / np.maximum(np.abs(want), 1e-300)))
            worst[key] = max(worst[key], error)
            if not error <= TOLERANCE:
                failures.append(f"{key}: got {got}, scipy {want}, case {line[:200].strip()}")
    with_evidently = "evidently package" if stattests is not None else "numpy formulas"
    for key in sorted(count):
        print(f"{key:24} {count[key]:5} comparisons, worst relative error {worst[key]:.1e}")
    print(f"checked {sum(count.values())} values against scipy {scipy.__version__}, {with_evidently}")
    for failure in failures[:20]:
        print("FAILED", failure, file=sys.stderr)
    if failures or not count:
        sys.exit(1)


if __name__ == "__main__":
    main()
