#!/bin/sh
# `multipletests` of statsmodels calls a finding significant that could not be tested.
#
# Versions: statsmodels 0.15.0, scipy 1.17.1, numpy 2.4.6, pandas 2.3.3; Python 3.11.
#
# A model is tested on a small set: have records with a finding higher scores than others? Mann-Whitney's test of
# scipy answers for each finding, and with NaN for those that no record has. `multipletests` corrects for their number,
# by default after Holm and Sidak; `reject` is what it says of each.
#
# One would guess that NaN is left out, or refused, and in no case that it is significant.
#
# What happens: by Holm-Sidak, the default, and by Holm, findings without a p-value are significant as soon as all
# others are: 10 of 10 where 7 were tested, without a warning. By Hommel one NaN makes none significant, and by
# Benjamini and Hochberg all corrected p-values are NaN. NaN also count among the tests: others have to be lower.
#
# Output seen:
#     10 findings, 7 of which some record has, all with p < .001
#     method          significant   of them tested   corrected p-values
#     default         10            7                7
#     holm            10            7                7
#     bonferroni      7             7                7
#     hommel          0             0                0
#     fdr_bh          7             7                0
#     hommel without the three        7
#     statsmodels calls untested findings significant: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6 \
    pandas==2.3.3
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import sys
import warnings

import numpy as np
from scipy.stats import mannwhitneyu
from statsmodels.stats.multitest import multipletests

RECORDS, FINDINGS, ABSENT = 300, 10, 3
rng = np.random.default_rng(0)
findings = rng.random((RECORDS, FINDINGS)) < np.linspace(0.3, 0.1, FINDINGS)
findings[:, -ABSENT:] = False
scores = rng.normal(size=(RECORDS, FINDINGS)) + 1.5 * findings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scipy says that three samples are empty
    p_values = np.array([
        mannwhitneyu(scores[with_it, label], scores[~with_it, label], alternative="greater").pvalue
        for label, with_it in enumerate(findings.T)
    ])
tested = ~np.isnan(p_values)
assert tested.sum() == FINDINGS - ABSENT and p_values[tested].max() < 1e-3

print(f"{FINDINGS} findings, {tested.sum()} of which some record has, all with p < .001")
print("method          significant   of them tested   corrected p-values")
results = {}
with warnings.catch_warnings():
    warnings.simplefilter("error")
    for method in ("default", "holm", "bonferroni", "hommel", "fdr_bh"):
        reject, corrected = multipletests(p_values, **({} if method == "default" else {"method": method}))[:2]
        results[method] = reject.sum(), (reject & tested).sum(), np.isfinite(corrected).sum()
        print("{:15} {:<13} {:<16} {}".format(method, *results[method]))
    without = multipletests(p_values[tested], method="hommel")[0].sum()
print(f"hommel without the three        {without}")

if (
    results["default"][0] == results["holm"][0] == FINDINGS
    and results["hommel"][0] == 0 and without == tested.sum() and results["fdr_bh"][2] == 0
):
    print("statsmodels calls untested findings significant: still so")
else:
    sys.exit("statsmodels calls untested findings significant: no longer so")
END
