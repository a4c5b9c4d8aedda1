#!/bin/sh
# `class_weight` of Keras weighs a record by its first finding alone, and a normal record as one with the first label.
#
# Versions: keras 3.15.1, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# `model.fit(..., class_weight={label: weight})` shall make up for rare findings. A record may have several, or none.
#
# One would guess that each label's loss, or that of its positives, is multiplied by its weight; or that several labels
# are refused.
#
# What happens: each record gets one weight, that of the first label that it has, for all its labels. A rare finding
# counts 50 times where it is alone, and once beside a frequent one that comes first in the table; records without a
# finding get the weight of the first label, whatever it is. There is no warning. With another order of the columns the
# same data and weights give another network: here a rare finding that mostly comes beside a frequent one is found in
# none or in 38 % of the records that have it. Where the rare label comes first, normal records count 50 times as well,
# and the frequent findings are lost.
#
# Output seen:
#     weights: hypertrophy 1, AF 2, WPW 50
#       no finding           counts  1.0 times; with the columns the other way round 50.0 times
#       hypertrophy          counts  1.0 times; with the columns the other way round  1.0 times
#       AF                   counts  2.0 times; with the columns the other way round  2.0 times
#       WPW                  counts 50.0 times; with the columns the other way round 50.0 times
#       hypertrophy and WPW  counts  1.0 times; with the columns the other way round 50.0 times
#       AF and WPW           counts  2.0 times; with the columns the other way round 50.0 times
#     found, columns in this order        hypertrophy 69 %  AF 43 %  WPW 0 %
#     found, columns the other way round  hypertrophy 15 %  AF 0 %  WPW 38 %
#     warnings: 0
#     class_weight goes by one finding: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 KERAS_BACKEND=torch venv/bin/python - <<'END'
import sys
import warnings

import keras
import numpy as np

NAMES, WEIGHTS = ("hypertrophy", "AF", "WPW"), (1.0, 2.0, 50.0)


def network(inputs, labels, rate):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(labels, activation="sigmoid", kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((inputs,)), dense])
    model.compile(keras.optimizers.SGD(rate), "binary_crossentropy")
    return model


def weights_of(rows, weights):
    """How many times each record's loss counts."""
    model = network(1, len(weights), 0.0)
    found = []
    for row in rows:
        fitted = model.fit(np.zeros((1, 1)), row[None], class_weight=dict(enumerate(weights)), verbose=0)
        found.append(fitted.history["loss"][0] / np.log(2))
    return found


def sensitivities(order):
    """The share of records with each finding in which it is called, trained with columns in this order."""
    draw = np.random.default_rng(0)
    truth = (draw.random((4000, 3)) < (0.3, 0.1, 0.0)).astype("float32")
    truth[:, 2] = draw.random(4000) < np.where(truth[:, 0] == 1, 0.06, 0.002)  # mostly beside the first
    signal = (2 * truth + draw.normal(size=truth.shape)).astype("float32")
    model = network(3, 3, 0.1)
    weights = {place: WEIGHTS[label] for place, label in enumerate(order)}
    model.fit(signal, truth[:, order], class_weight=weights, epochs=10, batch_size=200, verbose=0)
    called = model.predict(signal, verbose=0) >= 0.5
    return {NAMES[label]: called[truth[:, label] == 1, place].mean() for place, label in enumerate(order)}


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rows = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]], dtype="float32")
    print("weights:", ", ".join(f"{name} {weight:.0f}" for name, weight in zip(NAMES, WEIGHTS)))
    forward, backward = weights_of(rows, WEIGHTS), weights_of(rows[:, ::-1], WEIGHTS[::-1])
    for row, one, other in zip(rows, forward, backward):
        findings = " and ".join(name for name, value in zip(NAMES, row) if value) or "no finding"
        print(f"  {findings:20} counts {one:4.1f} times; with the columns the other way round {other:4.1f} times")
    trained = [sensitivities(order) for order in ((0, 1, 2), (2, 1, 0))]
    for name, found in zip(("in this order", "the other way round"), trained):
        print(f"found, columns {name:20}", "  ".join(f"{label} {100 * found[label]:.0f} %" for label in NAMES))
told = [warning for warning in caught if warning.category is not DeprecationWarning]  # of torch's arrays
print(f"warnings: {len(told)}")

if (
    np.allclose(forward, (1, 1, 2, 50, 1, 2), atol=1e-3)
    and np.allclose(backward, (50, 1, 2, 50, 50, 50), atol=1e-3)
    and abs(trained[0]["WPW"] - trained[1]["WPW"]) > 0.2
):
    print("class_weight goes by one finding: still so")
else:
    sys.exit("class_weight goes by one finding: no longer so")
END
