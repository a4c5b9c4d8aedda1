"""Pre-training without labels: crops of one record shall lie close together, crops of other patients far apart.

Contrastive multi-segment coding (Kiyasseh et al. 2021, arXiv 2005.13249). With random lead masking of the crops it is
what the authors of ECG-FM pre-train with (Oh et al. 2022, arXiv 2203.06889).
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_ecg_transformer import ECGTransformerConfig
from .modeling_ecg_transformer import ECGTransformerModel, ECGTransformerPreTrainedModel


@dataclass
class ECGTransformerForPreTrainingOutput(ModelOutput):
    """
    loss (`torch.FloatTensor` of shape `(1,)`): of the crops of all processes.
    accuracy (`torch.FloatTensor` of shape `(1,)`): share of the crops whose nearest other crop is of the same record.
    feature_std (`torch.FloatTensor` of shape `(1,)`):
        Root mean square distance of the projected crops, which have length 1, from their mean: 1 where they are spread
        over the whole sphere, 0 where all are the same.
    pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): of this process's crops.
    """

    loss: torch.FloatTensor | None = None
    accuracy: torch.FloatTensor | None = None
    feature_std: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None


class ECGTransformerProjectionHead(nn.Module):
    """(batch, hidden) to (batch, projection size): what crops are compared by, and what is dropped afterwards."""

    def __init__(self, config: ECGTransformerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(4 * config.hidden_size, config.projection_size)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(pooled)))


class _GatherRows(torch.autograd.Function):
    """The rows of all processes, one process after another; the gradient flows to the own rows."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        # The gradients of all rows add up, but data-parallel training takes the mean over the processes.
        return gradient.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


def contrastive_loss(
    features: torch.Tensor, record_ids: torch.Tensor, patient_ids: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (rows, size) of length 1 -> loss and accuracy, both of shape ().

    For each row the cross entropy of finding another row of its record among all rows but itself and those of other
    records of its patient; the mean over such rows where there are several, and over the rows.
    """
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    same_record = record_ids[:, None] == record_ids
    same_patient = patient_ids[:, None] == patient_ids
    positive, ignored = same_record & ~itself, itself | (same_patient & ~same_record)
    if not torch.compiler.is_compiling():
        _check_rows(positive, same_record | same_patient)
    similarity = (features @ features.T / temperature).masked_fill(ignored, -torch.inf)
    log_probability = similarity.log_softmax(dim=1).masked_fill(~positive, 0.0)
    loss = -(log_probability.sum(dim=1) / positive.sum(dim=1)).mean()
    nearest = similarity.argmax(dim=1, keepdim=True)
    return loss, positive.gather(1, nearest).float().mean()


def _check_rows(positive: torch.Tensor, related: torch.Tensor):
    if not positive.any(dim=1).all():
        raise ValueError("Each row needs another one with the same `record_ids`: give two crops of every record.")
    if related.all():
        raise ValueError(
            f"All {len(related)} rows of the batch are of one patient, so that there is nothing to tell them from: "
            "take larger batches, or shuffle the records."
        )


class ECGTransformerForPreTraining(ECGTransformerPreTrainedModel):
    """The encoder with a projection head, trained by telling crops of one record from those of other patients."""

    # The loss is a mean over the batch, whatever else is passed.
    accepts_loss_kwargs = False

    def __init__(self, config: ECGTransformerConfig):
        super().__init__(config)
        self.ecg_transformer = ECGTransformerModel(config)
        self.projection_head = ECGTransformerProjectionHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        record_ids: torch.Tensor,
        patient_ids: torch.Tensor | None = None,
        **encoder_inputs,
    ) -> ECGTransformerForPreTrainingOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, num_leads, samples)`): Crops, as windows elsewhere.
            record_ids (`torch.LongTensor` of shape `(batch,)`): The record of each crop, at least two of each record.
            patient_ids (`torch.LongTensor` of shape `(batch,)`, *optional*):
                The patient of each crop; crops of a patient's other records take no part. Without it each record has
                a patient of its own.
            encoder_inputs: Further inputs of [`ECGTransformerModel`].

        In training with several processes the loss is that of the crops of all of them, which must be as many in each.

        Raises `ValueError` for a crop that is alone of its record, and where all crops are of one patient.
        """
        pooled = self.ecg_transformer(input_values, **encoder_inputs).pooler_output
        ids = torch.stack([record_ids, record_ids if patient_ids is None else patient_ids], dim=1)
        projected = self.projection_head(pooled)
        # Similarities in 16 bits would be too coarse for the temperature.
        with torch.autocast(pooled.device.type, enabled=False):
            features = nn.functional.normalize(projected.float(), dim=-1)
            if self.training and dist.is_initialized() and dist.get_world_size() > 1:
                features, ids = _GatherRows.apply(features), _GatherRows.apply(ids)
            loss, accuracy = contrastive_loss(features, *ids.unbind(1), self.config.contrastive_temperature)
        spread = (features.detach() - features.detach().mean(dim=0)).square().sum(dim=1).mean().sqrt()
        return ECGTransformerForPreTrainingOutput(
            loss=loss, accuracy=accuracy, feature_std=spread, pooler_output=pooled
        )


__all__ = ["ECGTransformerForPreTraining", "contrastive_loss"]
