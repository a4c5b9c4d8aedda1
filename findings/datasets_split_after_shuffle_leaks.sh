#!/bin/sh
# Records that `datasets` sets apart for validation after a shuffle are trained on from the second epoch on.
#
# Versions: datasets 5.2.0; Python 3.11.
#
# A data set that is streamed (`IterableDataset`) has no split by index. The documentation of `take` and `skip` advises
# to shuffle it first, with a seed, and then to take the first records for validation and to skip them for training.
#
# One would guess that the two parts have no record in common, as the seed is given.
#
# What happens: `take` and `skip` count anew in each epoch, and the shuffle has another order in each epoch. In the
# first epoch the parts are apart. After `set_epoch(1)`, which the Trainer of transformers calls by itself, the records
# that are skipped are others: four fifths of the validation records are trained on in the second epoch, and 98 % of
# them in four epochs. A model that knows by heart what it has seen gets half of them right at first, as labels are
# random here, and then all. There is no warning. Skipping before shuffling keeps the parts apart.
#
# Output seen:
#     shuffled, then taken and skipped
#       epoch 0: 1800 records, of those held back   0 %, so far   0 %; known by heart: 0.50 right
#       epoch 1: 1800 records, of those held back  83 %, so far  83 %; known by heart: 0.92 right
#       epoch 2: 1800 records, of those held back  80 %, so far  94 %; known by heart: 0.97 right
#       epoch 3: 1800 records, of those held back  76 %, so far  98 %; known by heart: 0.99 right
#     skipped, then shuffled
#       epoch 0: 1800 records, of those held back   0 %, so far   0 %; known by heart: 0.50 right
#       epoch 1: 1800 records, of those held back   0 %, so far   0 %; known by heart: 0.50 right
#       epoch 2: 1800 records, of those held back   0 %, so far   0 %; known by heart: 0.50 right
#       epoch 3: 1800 records, of those held back   0 %, so far   0 %; known by heart: 0.50 right
#     a split after a shuffle leaks: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
from datasets import Dataset

RECORDS, HELD, EPOCHS = 2000, 200, 4
label = np.random.default_rng(0).integers(0, 2, RECORDS)  # nothing to learn but the records themselves


def stream():
    records = {"record": list(range(RECORDS)), "label": label.tolist()}
    return Dataset.from_dict(records).to_iterable_dataset(num_shards=8)


def numbers(part):
    return {row["record"] for row in part}


def train(name, validation, training):
    """Prints and gives, for each epoch, the share of validation records that are trained on in it, and so far."""
    held = numbers(validation)
    assert len(held) == HELD
    seen, shares = set(), []
    print(name)
    for epoch in range(EPOCHS):
        training.set_epoch(epoch)
        here = numbers(training)
        seen |= here
        known = len(held & seen) / HELD
        shares.append((len(held & here) / HELD, known))
        right = np.mean([label[record] if record in seen else 0.5 for record in held if label[record]] +
                        [1 - label[record] if record in seen else 0.5 for record in held if not label[record]])
        print(f"  epoch {epoch}: {len(here)} records, of those held back {100 * shares[-1][0]:3.0f} %, ", end="")
        print(f"so far {100 * known:3.0f} %; known by heart: {right:.2f} right")
    return shares


shuffled = stream().shuffle(seed=0, buffer_size=1000)
leaking = train("shuffled, then taken and skipped", shuffled.take(HELD), shuffled.skip(HELD))
apart = train("skipped, then shuffled", stream().take(HELD), stream().skip(HELD).shuffle(seed=0, buffer_size=1000))

if leaking[0] == (0, 0) and leaking[1][0] > 0.7 and leaking[-1][1] > 0.97 and apart[-1] == (0, 0):
    print("a split after a shuffle leaks: still so")
else:
    sys.exit("a split after a shuffle leaks: no longer so")
END
