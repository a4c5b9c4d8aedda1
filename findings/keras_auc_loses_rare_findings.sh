#!/bin/sh
# The AUROC that Keras gives of a rare finding may be .78 where it is .93, and an absent finding counts as 0.
#
# Versions: keras 3.15.1, torch 2.13.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `keras.metrics.AUC` is an approximation by 200 thresholds, which is what many ECG networks are chosen by.
#
# One would guess that the approximation is off by some thousandths, whatever the prevalence, as the value does not
# depend on it; and that a finding that no record has is left out of the mean over labels, or makes it unknown.
#
# What happens: thresholds lie evenly from 0 to 1, and calibrated probabilities of a rare finding below the first or
# the second of them. Of a finding of 3 in 1,000 records .85 is seen instead of .92, of 1 in 1,000 .78 instead of .93;
# if probabilities are multiplied, the value rises. `SensitivityAtSpecificity` has the same thresholds. With
# `multi_label=True` an absent finding counts as 0: .73 instead of .98 with 1 of 4 absent. There is no warning.
# `F1Score` with its default threshold takes the highest finding of each record for its only one.
#
# Output seen:
#     share 0.3    AUROC sklearn 0.922  keras 0.922, times 10 0.797  sensitivity at .9: 0.77, keras 0.76
#     share 0.03   AUROC sklearn 0.919  keras 0.915, times 10 0.911  sensitivity at .9: 0.76, keras 0.74
#     share 0.01   AUROC sklearn 0.920  keras 0.905, times 10 0.919  sensitivity at .9: 0.76, keras 0.73
#     share 0.003  AUROC sklearn 0.917  keras 0.848, times 10 0.913  sensitivity at .9: 0.75, keras 0.62
#     share 0.001  AUROC sklearn 0.934  keras 0.778, times 10 0.931  sensitivity at .9: 0.80, keras 0.58
#     3 of 4 findings occur: macro AUROC of the three 0.980, keras 0.735
#     macro F1 at .5: 0.883, keras 0.669; warnings: 0
#     Keras loses rare findings: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 torch==2.13.0 scikit-learn==1.9.1 \
    numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 KERAS_BACKEND=torch venv/bin/python - <<'END'
import sys
import warnings

import keras
import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

RECORDS, DISTANCE = 100000, 2.0
draw = np.random.default_rng(0)
noise = draw.normal(size=RECORDS)


def value(metric, truth, probability):
    metric.update_state(truth, probability)
    return np.array(metric.result())


def expit(logit):
    return 1 / (1 + np.exp(-logit))


rows = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for prevalence in (0.3, 0.03, 0.01, 0.003, 0.001):
        has = np.arange(RECORDS) < prevalence * RECORDS
        score = noise + DISTANCE * has
        logit = DISTANCE * score - DISTANCE**2 / 2 + np.log(prevalence / (1 - prevalence))  # Bayes: calibrated
        probability = expit(logit).astype("float32")
        exact = roc_auc_score(has, probability)
        sensitivity = np.mean(probability[has] >= np.quantile(probability[~has], 0.9))
        seen = float(value(keras.metrics.AUC(), has, probability))
        times_ten = float(value(keras.metrics.AUC(), has, np.minimum(probability * 10, 1)))
        at_90 = float(value(keras.metrics.SensitivityAtSpecificity(0.9), has, probability))
        rows.append((exact, seen, times_ten, sensitivity, at_90))
        print(f"share {prevalence:<5}  AUROC sklearn {exact:.3f}", end="")
        print(f"  keras {seen:.3f}, times 10 {times_ten:.3f}  ", end="")
        print(f"sensitivity at .9: {sensitivity:.2f}, keras {at_90:.2f}")
    truth = (draw.random((1000, 4)) < (0.3, 0.3, 0.3, 0)).astype("float32")
    probability = expit(3 * truth - 1.5 + draw.normal(size=truth.shape)).astype("float32")
    present = roc_auc_score(truth[:, :3], probability[:, :3])
    with_absent = float(value(keras.metrics.AUC(multi_label=True, num_labels=4), truth, probability))
    print(f"3 of 4 findings occur: macro AUROC of the three {present:.3f}, keras {with_absent:.3f}")
    f1 = f1_score(truth[:, :3], probability[:, :3] >= 0.5, average="macro")
    told = [warning for warning in caught if warning.category is not DeprecationWarning]  # of torch's arrays
    keras_f1 = float(value(keras.metrics.F1Score("macro"), truth[:, :3], probability[:, :3]))
    print(f"macro F1 at .5: {f1:.3f}, keras {keras_f1:.3f}; warnings: {len(told)}")

exact, seen, times_ten, sensitivity, at_90 = np.array(rows).T
if (
    (np.abs(exact - exact[0]) < 0.03).all()
    and abs(seen[0] - exact[0]) < 0.005
    and seen[3] < exact[3] - 0.05
    and seen[4] < exact[4] - 0.1
    and (times_ten[2:] > seen[2:]).all()
    and at_90[4] < sensitivity[4] - 0.1
    and abs(with_absent - 0.75 * present) < 0.01
    and keras_f1 < f1 - 0.1
):
    print("Keras loses rare findings: still so")
else:
    sys.exit("Keras loses rare findings: no longer so")
END
