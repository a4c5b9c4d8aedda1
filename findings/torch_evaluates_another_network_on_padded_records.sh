#!/bin/sh
# On padded records, `nn.TransformerEncoder` of torch is another network in evaluation than in training or exported.
#
# Versions: torch 2.13.0, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# Records of different lengths are padded to the longest, `src_key_padding_mask` says where, and the outputs are pooled
# over time: here ECGs of 1 to 10 s, most of them short. Dropout is switched off by `eval()`.
#
# One would guess that `torch.no_grad()` changes nothing but memory and speed, so that the network that is evaluated is
# the one that explanations differentiate and that is exported.
#
# What happens: without gradients, nested tensors skip the padding, and its outputs are zeros; with them, and in training
# and the exported program, padding gives outputs like any other patch. A mean or maximum over all patches is then
# another one: a validation AUROC of .833 belongs to a network that is exported with .806, and calls 5 % of the records
# otherwise. The only warning is of a prototype. A mean over the patches of the record is the same everywhere; so is
# all with `enable_nested_tensor=False`.
#
# Output seen:
#     pooling: mean of the record
#       with gradients  AUROC 0.815,  0.0 % called otherwise, logits up to 0.0 away
#       without         AUROC 0.815,  0.0 % called otherwise, logits up to 0.0 away
#       exported        AUROC 0.815,  0.0 % called otherwise, logits up to 0.0 away
#     pooling: mean
#       with gradients  AUROC 0.806,  0.0 % called otherwise, logits up to 0.0 away
#       without         AUROC 0.833,  4.8 % called otherwise, logits up to 3.6 away
#       exported        AUROC 0.806,  0.0 % called otherwise, logits up to 0.0 away
#     pooling: largest
#       with gradients  AUROC 0.804,  0.0 % called otherwise, logits up to 0.0 away
#       without         AUROC 0.818,  1.2 % called otherwise, logits up to 2.3 away
#       exported        AUROC 0.804,  0.0 % called otherwise, logits up to 0.0 away
#     outputs at padding: up to 3.8 with gradients, 0.0 without
#     warnings: The PyTorch API of nested tensors is in prototype stage and
#     torch evaluates another network: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - <<'END'
import sys
import warnings

import torch
from sklearn.metrics import roc_auc_score
from torch import nn

LEADS, PATCH, WIDTH, RECORDS = 12, 25, 32, 600


def records(seed):
    """Patches of ECGs of 1 to 10 s at 100 Hz, most of them short, padded to 10 s; where; whether with a finding."""
    draw = torch.Generator().manual_seed(seed)
    finding = (torch.arange(RECORDS) % 2).float()
    patches = torch.randn(RECORDS, 40, LEADS * PATCH, generator=draw) + 0.04 * finding[:, None, None]
    padded = torch.arange(40) >= (4 + 37 * torch.rand(RECORDS, 1, generator=draw) ** 4).int()
    return patches.masked_fill(padded[..., None], 0), padded, finding


class Classifier(nn.Module):
    def __init__(self, pooling):
        super().__init__()
        self.pooling = pooling
        self.patches = nn.Linear(LEADS * PATCH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, 1)

    def forward(self, patches, padded):
        hidden = self.encoder(self.patches(patches), src_key_padding_mask=padded)
        if self.pooling == "mean of the record":
            real = (~padded)[..., None]
            return self.head((hidden * real).sum(1) / real.sum(1)).squeeze(-1)
        return self.head(hidden.mean(1) if self.pooling == "mean" else hidden.amax(1)).squeeze(-1)


def train(pooling):
    torch.manual_seed(0)
    model, (patches, padded, finding) = Classifier(pooling).train(), records(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    for _ in range(150):
        rows = torch.randint(0, RECORDS, (32,))
        loss = nn.functional.binary_cross_entropy_with_logits(model(patches[rows], padded[rows]), finding[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def judge(name, logits, finding):
    right = ((logits > 0) == (finding > 0)).float().mean().item()
    print(f"{name}: AUROC {roc_auc_score(finding, logits):.3f}, {100 * right:.0f} % right", end="")
    return right


patches, padded, finding = records(2)
found = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for pooling in ("mean of the record", "mean", "largest"):
        model = train(pooling)
        exported = torch.export.export(model, (patches, padded)).module()
        logits = {"with gradients": model(patches, padded).detach()}
        with torch.no_grad():
            logits["without"] = model(patches, padded)
            logits["exported"] = exported(patches, padded)
            hidden = model.encoder(model.patches(patches), src_key_padding_mask=padded)[padded]
        called = logits["with gradients"] > 0
        print(f"pooling: {pooling}")
        for name, values in logits.items():
            auroc, other = roc_auc_score(finding, values), (called != (values > 0)).float().mean().item()
            far = (values - logits["with gradients"]).abs().max().item()
            found[pooling, name] = auroc, other, far
            print(f"  {name:15} AUROC {auroc:.3f}, {100 * other:4.1f} % called otherwise, logits up to {far:.1f} away")
with_gradients = model.encoder(model.patches(patches), src_key_padding_mask=padded)[padded]
print(f"outputs at padding: up to {with_gradients.abs().max():.1f} with gradients, {hidden.abs().max():.1f} without")
print("warnings:", *sorted({str(warning.message)[:60] for warning in caught}))

own = [found["mean of the record", name] for name in ("without", "exported")]
others = [found[pooling, "without"] for pooling in ("mean", "largest")]
exported = [found[pooling, "exported"] for pooling in ("mean", "largest")]
alike = all(far < 1e-4 for _, _, far in (*own, *exported))
if alike and all(far > 1 and other > 0.005 for _, other, far in others) and hidden.abs().max() == 0:
    print("torch evaluates another network: still so")
else:
    sys.exit("torch evaluates another network: no longer so")
END
