#!/bin/sh
# `ModuleValidator.fix` of opacus makes another network of a Transformer: its heads are mixed with its samples in time.
#
# Versions: opacus 1.6.0, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# `opacus` trains with differential privacy, say a network that is pre-trained elsewhere on the records of a hospital.
# Attention of torch has to be replaced for that. `ModuleValidator.fix` does so, and takes the weights along;
# `ModuleValidator.validate` calls what it takes instead a "drop-in replacement".
#
# One would guess that the network gives the same outputs before and after, as no weight has changed.
#
# What happens: with `batch_first=True`, as most encoders have it, the outputs of the heads are put together as if they
# were moments in time. A network that is right in .998 of the findings is right in .619, before any training,
# without a warning, and `ModuleValidator.validate` has nothing against it. Three epochs of private training on records
# of the same kind bring it to .743. With the same weights and `batch_first=False` nothing changes.
#
# Output seen:
#                           right: as trained   after fix   after private training
#     batch_first=True      0.998               0.619       0.743
#     batch_first=False     0.998               0.998
#     what ModuleValidator.validate finds: []
#     opacus scrambles attention: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check opacus==1.6.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore::UserWarning:torch -W ignore::FutureWarning - <<'END'
import sys
import warnings

import torch
from opacus import PrivacyEngine
from opacus.validators import ModuleValidator
from torch import nn

LEADS, PATCH, PATCHES, LABELS, WIDTH = 12, 25, 40, 4, 32
draw = torch.Generator().manual_seed(0)
waves = torch.randn(LABELS, LEADS, PATCH, generator=draw)


def records(number):
    """Noise in all leads, with the wave of each finding somewhere."""
    findings = torch.randint(2, (number, LABELS), generator=draw).float()
    signals = torch.randn(number, LEADS, PATCHES, PATCH, generator=draw)
    for label in range(LABELS):
        with_it = torch.nonzero(findings[:, label])[:, 0]
        places = torch.randint(PATCHES, with_it.shape, generator=draw)
        signals[with_it, :, places] += 0.55 * waves[label]
    return signals.flatten(2), findings


class Network(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.patches = nn.Conv1d(LEADS, WIDTH, PATCH, stride=PATCH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, LABELS)

    def forward(self, signals):
        patches = self.patches(signals).transpose(1, 2)
        if self.batch_first:
            return self.head(self.encoder(patches).mean(1))
        return self.head(self.encoder(patches.transpose(0, 1)).transpose(0, 1).mean(1))


def loss_of(network, signals, findings):
    return nn.functional.binary_cross_entropy_with_logits(network(signals), findings)


@torch.no_grad()
def right(network):
    network.eval()
    return float(((network(test[0]) > 0) == (test[1] > 0)).float().mean())


torch.manual_seed(0)
training, hospital, test = records(2000), records(1000), records(1000)
trained = Network(batch_first=True)
optimizer = torch.optim.AdamW(trained.parameters(), 2e-3)
for _ in range(6):
    for some in torch.randperm(2000, generator=draw).split(50):
        optimizer.zero_grad()
        loss_of(trained, training[0][some], training[1][some]).backward()
        optimizer.step()

print("                      right: as trained   after fix   after private training")
results = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for batch_first in (True, False):
        torch.manual_seed(1)
        network = Network(batch_first)
        network.load_state_dict(trained.state_dict())
        private = ModuleValidator.fix(network)
        results[batch_first] = [right(network), right(private)]
        complaints = ModuleValidator.validate(private.train())
        if batch_first:
            loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*hospital), batch_size=100)
            private, optimizer, loader = PrivacyEngine().make_private(
                module=private,
                optimizer=torch.optim.SGD(private.parameters(), 0.05),
                data_loader=loader,
                noise_multiplier=1.0,
                max_grad_norm=1.0,
            )
            for _ in range(3):
                for signals, findings in loader:
                    optimizer.zero_grad()
                    loss_of(private, signals, findings).backward()
                    optimizer.step()
            results[batch_first].append(right(private))
        figures = "".join(f"{figure:<{width}.3f}" for figure, width in zip(results[batch_first], (20, 12, 5)))
        print(f"batch_first={batch_first!s:9} {figures}".rstrip())
told = [str(warning.message) for warning in caught if "attention" in str(warning.message).lower()]

print("what ModuleValidator.validate finds:", complaints)
mixed, same = results[True], results[False]
if mixed[1] < mixed[0] - 0.3 and mixed[2] < mixed[0] - 0.1 and same[1] == same[0] and not complaints and not told:
    print("opacus scrambles attention: still so")
else:
    sys.exit("opacus scrambles attention: no longer so")
END
