#!/bin/sh
# An epoch that `StatefulDataLoader` of torchdata resumes has records twice, and others never, with a sampler of torch.
#
# Versions: torchdata 0.11.0, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# A run on a shared machine may be stopped at any time: the state of the loader is saved with the weights, and a new
# process with the same seed goes on from there. The training records, 800 of 1,000, are drawn by torch's
# `SubsetRandomSampler`; or they are a `Subset`, with `shuffle=True`.
#
# One would guess that the resumed half of an epoch has the 400 records that the first half had not, as it has with
# `shuffle=True`; or that a sampler whose order cannot be restored is refused.
#
# What happens: of the sampler only the number of batches is kept. The new process draws an order of its own, leaves
# out as many, and goes on: 197 of 400 records come for a second time, and as many are missing, without a warning; a
# generator of its own does not help. In the first epoch the seed gives the same order, so that a test of it passes. A
# run of 8 epochs that is stopped in each has seen one record once, and another 15 times.
#
# Output seen:
#                               twice in the first, second epoch   never in the second   visits in 8: least   most
#     Subset, shuffle=True      0                    0             0                     8                    8
#     SubsetRandomSampler       0                    197           197                   1                    15
#     the same, own generator   0                    202           202                   1                    15
#     torchdata resumes another order of records: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torchdata==0.11.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error -W "ignore:'set_vital' is deprecated" - <<'END'
import sys
from collections import Counter

import torch
from torch.utils.data import Subset, SubsetRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

BATCH, EPOCHS = 10, 8
records = list(range(1000))
training = [record for record in records if record % 10 < 8]
ways = {
    "Subset, shuffle=True": lambda: {"dataset": Subset(records, training), "shuffle": True},
    "SubsetRandomSampler": lambda: {"dataset": records, "sampler": SubsetRandomSampler(training)},
    "the same, own generator": lambda: {
        "dataset": records,
        "sampler": SubsetRandomSampler(training, torch.Generator().manual_seed(0)),
    },
}


def start(way):
    """The loader of a run that has just started, with its network and its seed."""
    torch.manual_seed(0)
    torch.nn.Linear(12, 5)
    return StatefulDataLoader(batch_size=BATCH, **ways[way]())


def numbers(batches):
    return [int(record) for batch in batches for record in batch]


print("                          twice in the first, second epoch   never in the second   visits in 8: least   most")
results = {}
for way in ways:
    loader, visits, twice, never = start(way), Counter(), [], []
    for _ in range(EPOCHS):
        batches = iter(loader)
        first = numbers(next(batches) for _ in range(len(training) // BATCH // 2))
        state = loader.state_dict()
        loader = start(way)
        loader.load_state_dict(state)
        rest = numbers(loader)
        visits.update(first + rest)
        twice.append(len(set(first) & set(rest)))
        never.append(len(set(training) - set(first + rest)))
    least, most = min(visits[record] for record in training), max(visits.values())
    results[way] = twice, never, least, most
    print(f"{way:25} {twice[0]:<20} {twice[1]:<13} {never[1]:<21} {least:<20} {most}")

right, *wrong = results.values()
if right == ([0] * EPOCHS, [0] * EPOCHS, EPOCHS, EPOCHS) and all(
    twice[0] == 0 and min(twice[1:]) > 150 and twice == never and least < EPOCHS / 2 and most > EPOCHS * 3 / 2
    for twice, never, least, most in wrong
):
    print("torchdata resumes another order of records: still so")
else:
    sys.exit("torchdata resumes another order of records: no longer so")
END
