#!/bin/sh
# Tests of two models that rank every record alike: p = 0, "significantly different".
#
# Versions: MLstatkit 0.1.91, mlxtend 0.25.0, statsmodels 0.15.0, scikit-learn 1.9.1, scipy 1.17.1, pandas 3.1.1,
# numpy 2.4.6; Python 3.11.
#
# Two models are compared on the same records, label by label: their AUROC by DeLong's test (`MLstatkit.Delong_test`),
# their decisions by McNemar's (`mlxtend.evaluate.mcnemar`, `statsmodels.stats.contingency_tables.mcnemar`).
#
# One would guess p = 1 (or NaN) for a model against itself, against itself after temperature scaling, which changes no
# rank, and for a rare label that both models separate perfectly.
#
# What happens: p = 0 in all of them. `Delong_test` finds no variance, falls back on a bootstrap without saying so, and
# its share of "differences above 0" is 0: twice that is the p-value. (The other half, "0 or below", is 1, and the
# smaller one counts.) With the continuity correction, which is the default of mlxtend and wanted of statsmodels by
# `exact=False`, McNemar's statistic for no discordant record is (|0 - 0| - 1)^2 / 0: infinite, p = 0, with no more
# than numpy's warning of a division. The exact tests say 1. Rare labels get such p-values by the dozen, and Holm's or
# any other correction leaves a 0 as it is.
#
# Output seen:
#     DeLong by MLstatkit           z      p       AUROC
#       a model and itself          0      0       0.809  0.809
#       after temperature scaling   0      0       0.809  0.809
#       3 positives, both perfect   0      0       1.000  1.000
#       two different models        1.69   0.091   0.778  0.809
#       warnings: 0
#     McNemar, no record that one model alone has right
#       mlxtend                     0
#       mlxtend, exact              1
#       statsmodels                 0
#       statsmodels, exact          1
#     equal models differ with p = 0: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check MLstatkit==0.1.91 mlxtend==0.25.0 \
    statsmodels==0.15.0 scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import numpy as np
from mlxtend.evaluate import mcnemar
from MLstatkit import Delong_test
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels

RECORDS = 500
generator = np.random.default_rng(0)


def probability(logits, temperature=1.0):
    return 1 / (1 + np.exp(-logits / temperature))


def delong(name, labels, first, second):
    """Prints -> the p-value."""
    z, p, _, _, *areas, _ = Delong_test(labels, first, second, random_state=0)
    print(f"  {name:28}{z:<7.3g}{p:<8.3g}{areas[0]:.3f}  {areas[1]:.3f}")
    return p


labels = (generator.random(RECORDS) < 0.1).astype(int)
logits = generator.normal(size=RECORDS) + labels - 2
other = logits + 0.5 * generator.normal(size=RECORDS)
rare = np.zeros(RECORDS, dtype=int)
rare[:3] = 1
perfect = [rare + 0.5 * generator.random(RECORDS) for _ in range(2)]

equal = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print("DeLong by MLstatkit           z      p       AUROC")
    equal.append(delong("a model and itself", labels, probability(logits), probability(logits)))
    equal.append(delong("after temperature scaling", labels, probability(logits), probability(logits, 1.5)))
    equal.append(delong("3 positives, both perfect", rare, *perfect))
    different = delong("two different models", labels, probability(other), probability(logits))
print(f"  warnings: {len(caught)}")

print("McNemar, no record that one model alone has right")
table = np.array([[450, 0], [0, 50]])
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)
    corrected = [mcnemar(table)[1], mcnemar_of_statsmodels(table, exact=False).pvalue]
exact = [mcnemar(table, exact=True)[1], mcnemar_of_statsmodels(table, exact=True).pvalue]
for index, name in enumerate(("mlxtend", "statsmodels")):
    print(f"  {name:28}{corrected[index]:.3g}\n  {name + ', exact':28}{exact[index]:.3g}")

if max(equal) == 0 and not caught and 0.01 < different < 1 and max(corrected) == 0 and min(exact) == 1:
    print("equal models differ with p = 0: still so")
else:
    sys.exit("equal models differ with p = 0: no longer so")
END
