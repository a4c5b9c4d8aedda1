#!/bin/sh
# `skl2onnx` makes probabilities of 0 and 1 of a decision tree for several findings.
#
# Versions: skl2onnx 1.20.0, onnx 1.23.2, onnxruntime 1.32.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# A decision tree of measurements is small enough for a device. `DecisionTreeClassifier` of scikit-learn takes several
# findings at once, and gives the probability of each: the share of records with it among those of a leaf.
# `skl2onnx.to_onnx` converts it into a file that runs without Python.
#
# One would guess that the file gives the same probabilities to within rounding, or that the conversion is refused.
#
# What happens: each share above 0 becomes 1, for the finding as well as against it: all records have some finding with
# probability 1 and have it not with probability 1. The mean AUROC falls from .75 to .56, and two thirds of the records
# are sure to have a finding that one in 25 has. The labels, which are another output, are right, so that a check of
# them shows nothing, and there is no warning. A tree for one finding is right, and so is a forest for several.
#
# Output seen:
#                                          mean AUROC       mean probability of the rarest
#     model                                before   after   before   after
#     tree for one finding                 0.867    0.867   0.042    0.042
#     tree for several findings            0.752    0.560   0.046    0.639
#     forest for several findings          0.876    0.876   0.044    0.044
#     records with other labels after the conversion: 0
#     records that have a finding and have it not, each with probability 1: 1000 of 1000
#     skl2onnx is sure of everything: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.32.0 \
    scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import sys

import numpy as np
import onnxruntime
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier
from skl2onnx import to_onnx

rng = np.random.default_rng(0)
heights = rng.normal(size=(3000, 12)).astype(np.float32)
findings = heights @ rng.normal(size=(12, 5)) + 2 * rng.normal(size=(3000, 5)) > [1, 2, 3, 5, 7]
findings = findings.astype(int)
training, test = slice(2000), slice(2000, None)


def of_findings(probabilities):
    """Records x findings, of what scikit-learn and ONNX give: for each finding, records x (without, with)."""
    probabilities = np.asarray(probabilities)
    return probabilities[:, :, 1].T if probabilities.ndim == 3 else probabilities[:, 1:]


print("                                     mean AUROC       mean probability of the rarest")
print("model                                before   after   before   after")
results = {}
for name, model, columns in (
    ("tree for one finding", DecisionTreeClassifier(min_samples_leaf=50, random_state=0), [4]),
    ("tree for several findings", DecisionTreeClassifier(min_samples_leaf=50, random_state=0), slice(None)),
    ("forest for several findings", RandomForestClassifier(50, min_samples_leaf=10, random_state=0), slice(None)),
):
    known = findings[:, columns]
    model.fit(heights[training], known[training] if known.shape[1] > 1 else known[training, 0])
    file = to_onnx(model, heights[:1], options={id(model): {"zipmap": False}}).SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    labels, raw = session.run(None, {session.get_inputs()[0].name: heights[test]})
    before, after = of_findings(model.predict_proba(heights[test])), of_findings(raw)
    aurocs = [roc_auc_score(known[test], scores) for scores in (before, after)]
    rarest = [scores[:, -1].mean() for scores in (before, after)]
    results[name] = aurocs, rarest
    print(f"{name:36} {aurocs[0]:.3f}    {aurocs[1]:.3f}   {rarest[0]:.3f}    {rarest[1]:.3f}")
    if name == "tree for several findings":
        other = int((labels != model.predict(heights[test])).any(axis=1).sum())
        both = int((np.asarray(raw).min(axis=2) == 1).any(axis=0).sum())

print("records with other labels after the conversion:", other)
print(f"records that have a finding and have it not, each with probability 1: {both} of 1000")
wrong = results.pop("tree for several findings")
if (
    wrong[0][1] < wrong[0][0] - 0.1 and wrong[1][1] > 0.3 and other == 0 and both > 900
    and all(abs(after - before) < 1e-3 for result in results.values() for before, after in result)
):
    print("skl2onnx is sure of everything: still so")
else:
    sys.exit("skl2onnx is sure of everything: no longer so")
END
