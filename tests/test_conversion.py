"""Conversion of the public ECG Transformers against numbers that their authors' code gave (tests/fixtures)."""

import copy
import functools
import hashlib
import json
import logging
import os
import pathlib
import pickle
import re
import subprocess
import tarfile
import time
import traceback
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from cut_fixtures import cut_numbers, cut_record
from forked import Forked
from recorded import CUT, WHOLE, checkpoint, checkpoints, needs_whole, on_both
from safetensors.torch import load_file, save_file
from small_models import LABELS, small_extractor, small_model
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

from ecg_hf import (
    ECGTransformerFeatureExtractor,
    ECGTransformerForMultiLabel,
    PostTrainer,
    PostTrainingArguments,
    cli,
)
from ecg_hf.conversion import FAMILIES, convert_checkpoint
from ecg_hf.conversion.ecg_fm import parse_layers
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

# Largest absolute deviations in float32 on a CPU.
POOLED, TOKENS = 1e-5, 2e-5

# What no tensor and no configuration of these files tells.
HEADS = {
    "mtecg": 3,
    "ecg_jepa_kim": 4,
    "ecg_jepa_kim/checkpoint_variant.pth": 2,
    "hubert_ecg/checkpoint_weights_only.pt": 4,
}


@functools.cache
def converted(file: str):
    heads = HEADS.get(file, HEADS.get(file.split("/")[0]))
    return convert_checkpoint(checkpoint(file), num_attention_heads=heads)


def convert(file: str, attention: str = "sdpa"):
    model, extractor = converted(file)
    model.set_attn_implementation(attention)
    return model, extractor


@dataclass
class Case:
    """A checkpoint, what it is given, and the names of the tensors that it must give."""

    file: str
    name: str
    inputs: object
    """From the tensors of the fixture to the arguments of the model."""
    pooled: str | None = None
    logits: str | None = None
    tokens: str | None = None
    rows: slice = field(default_factory=lambda: slice(None))
    """Rows of the batch whose tokens are recorded."""
    source: str = "io"
    """The file of the fixtures with what `inputs` reads."""

    @property
    def family(self) -> str:
        return self.file.split("/")[0]

    def __str__(self):
        return f"{self.file}-{self.name}"


def lead_ids(values: torch.Tensor, leads) -> torch.Tensor:
    """The same leads for every row of `values`."""
    return torch.tensor([leads] * len(values))


def signal(transform=lambda x: x, leads=None):
    def inputs(io):
        values = transform(io["input"])
        return {"input_values": values, **({} if leads is None else {"lead_ids": lead_ids(values, leads)})}

    return inputs


def st_mem_cases():
    finetuned = "st_mem/checkpoint_finetuned.pth"
    for file in ("checkpoint_encoder.pth", "checkpoint_full.pth"):
        yield Case(f"st_mem/{file}", "input", signal(), "encoder/pooled", tokens="encoder/tokens")
    yield Case(
        finetuned,
        "input",
        signal(),
        "finetuned/pooled",
        "finetuned/logits",
        "finetuned/tokens_prenorm_first_sample",
        slice(1),
    )
    dimhead = "st_mem/checkpoint_finetuned_dimhead.pth"
    yield Case(dimhead, "input", signal(), "dimhead/pooled", "dimhead/logits")
    for name, transform, leads in (
        ("shorter_1125", lambda x: x[..., :1125], None),
        ("one_patch_75", lambda x: x[..., :75], None),
        ("precordial_zeroed", lambda x: torch.cat([x[:, :6], torch.zeros_like(x[:, 6:])], 1), None),
        ("small_amplitude_x0.004", lambda x: x * 0.004, None),
        ("limb_model", lambda x: x[:, :6], range(6)),
        ("lead1_model", lambda x: x[:, :1], [0]),
        # The authors give lead II the embedding of lead I.
        ("lead2_model", lambda x: x[:, 1:2], [0]),
    ):
        case = f"case_{name}"
        yield Case(finetuned, name, signal(transform, leads), f"{case}/pooled", f"{case}/logits")
    yield Case(finetuned, "all_zero", signal(torch.zeros_like), None, "case_all_zero/logits")
    yield Case(finetuned, "leads_reversed", signal(lambda x: x.flip(1)), None, "case_leads_reversed/logits")


def kim_cases():
    file = "ecg_jepa_kim/checkpoint.pth"
    yield Case(file, "input", signal(), "pooled", tokens="tokens")
    for leads in ((0, 1), (1,), (7, 2, 4)):
        name = "leads_" + "_".join(map(str, leads))
        given = signal(lambda x, leads=leads: x[:, list(leads)], leads)
        yield Case(file, name, given, f"{name}/pooled", tokens=f"{name}/tokens")
    yield Case("ecg_jepa_kim/checkpoint_finetuned.pth", "input", signal(), "finetuned/pooled", "finetuned/logits")
    yield Case("ecg_jepa_kim/checkpoint_variant.pth", "input", signal(), "variant/pooled", tokens="variant/tokens")


def weimann_cases():
    folder = "ecg_jepa_weimann"
    for file in ("checkpoint_pretrain.pt", "checkpoint_pretrain.min.pt"):
        yield Case(f"{folder}/{file}", "input", signal(), "pretrain/pooled_mean", tokens="pretrain/tokens")
        for length in (1250, 1267, 25, 4975):
            name = f"pretrain/first_{length}_samples"
            given = signal(lambda x, length=length: x[..., :length])
            tokens = None if length == 4975 else f"{name}/tokens"
            yield Case(f"{folder}/{file}", f"first_{length}", given, f"{name}/pooled_mean", tokens=tokens)
    crop = signal(lambda x: x[..., :1250])
    old = f"{folder}/checkpoint_pretrain_oldrevision_normbias.pt"
    yield Case(old, "input", crop, "oldrevision/pooled_mean", tokens="oldrevision/tokens")
    for name in (
        "linear_attn",
        "finetuned_attn",
        "finetuned_register",
        "finetuned_mean",
        "finetuned_attn_noregister",
        "variant_bias_layerscale_3registers_mean",
        "variant_bias_layerscale_3registers_attn",
        "variant_noregisters_mean",
        "variant_added_register",
    ):
        parts = (f"{name}/pooled", f"{name}/logits", f"{name}/tokens")
        yield Case(f"{folder}/checkpoint_{name}.pt", "input", crop, *parts)
    name = "variant_3leads_250hz_patch20"
    parts = (f"{name}/pooled", f"{name}/logits", f"{name}/tokens")
    given = signal(lambda x: x[:, [1, 6, 10], :1000])
    yield Case(f"{folder}/checkpoint_{name}.pt", "input", given, *parts)


def mtecg_cases():
    def image(transform=lambda x: x):
        return lambda io: {"input_values": transform(io["input"].squeeze(1))}

    parts = ("finetuned/pooled", "finetuned/logits", "finetuned/tokens")
    yield Case("mtecg/checkpoint_finetuned.pth", "input", image(), *parts)
    yield Case("mtecg/checkpoint_pickled_finetuned.pth", "input", image(), *parts)
    yield Case("mtecg/checkpoint_gap.pth", "input", image(), "gap/pooled", "gap/logits", "gap/tokens_prenorm")
    assumed = "mtecg/checkpoint_pretrain_assumed.pth"
    yield Case(assumed, "input", image(), tokens="pretrain_assumed/tokens_nomask")
    for name, transform in (
        ("all_zero", torch.zeros_like),
        ("leads_reversed", lambda x: x.flip(1)),
        ("millivolt_times_1000", lambda x: x * 1000),
        ("precordial_zeroed", lambda x: torch.cat([x[:, :6], torch.zeros_like(x[:, 6:])], 1)),
        ("second_half_zeroed", lambda x: torch.cat([x[..., :2500], torch.zeros_like(x[..., 2500:])], -1)),
    ):
        yield Case("mtecg/checkpoint_finetuned.pth", name, image(transform), None, f"case_{name}/logits")
    yield Case("mtecg/checkpoint_gap.pth", "all_zero", image(torch.zeros_like), None, "case_all_zero/logits_gap")


def ecg_fm_cases():
    files = {
        "finetuned": ("checkpoint_finetuned.pt", "checkpoint_pickled_finetuned.pt"),
        "pretrained": (
            "checkpoint_pretrained.pt",
            "checkpoint_pickled_pretrained.pt",
            "checkpoint_pretrained_parametrizations.pt",
        ),
    }

    def padded(group: str, masked: bool):
        def inputs(io):
            lengths = io[f"finetuned_{group.partition('_')[2]}/lengths"]
            mask = (torch.arange(2500) < lengths[:, None]).long()
            given = {"input_values": io["input"] * mask[:, None]}
            return {**given, "attention_mask": mask} if masked else given

        return inputs

    for group, names in files.items():
        is_finetuned = group == "finetuned"
        for file in names:
            logits = "finetuned/logits" if is_finetuned else None
            yield Case(f"ecg_fm/{file}", "input", signal(), f"{group}/pooled", logits, f"{group}/tokens")
        file = f"ecg_fm/{names[0]}"
        for name, transform in (
            ("short", lambda x: x[..., :1000]),
            ("odd_length", lambda x: x[..., :1003]),
            ("crop", lambda x: x[..., 500:1500]),
            ("single", lambda x: x[1:2]),
            ("len250", lambda x: x[..., :250]),
            ("len31", lambda x: x[..., :31]),
            ("len16", lambda x: x[..., :16]),
            ("long", lambda x: torch.cat([x, x.flip(-1)], -1)),
            ("zero_leads", lambda x: torch.cat([x[:, :6], torch.zeros_like(x[:, 6:])], 1)),
            ("scaled", lambda x: x * 100),
        ):
            key = f"{group}_{name}"
            has_tokens = is_finetuned and name in ("short", "odd_length", "len250", "len31")
            tokens = f"{key}/tokens" if has_tokens else None
            yield Case(
                file, name, signal(transform), f"{key}/pooled", f"{key}/logits" if is_finetuned else None, tokens
            )
        for name in ("pad_a", "pad_b", "pad_two"):
            key = f"{group}_{name}"
            tokens = f"{key}/tokens" if is_finetuned and name == "pad_a" else None
            logits = f"{key}/logits" if is_finetuned else None
            yield Case(file, name, padded(key, True), f"{key}/pooled", logits, tokens)
            if is_finetuned:
                yield Case(file, f"{name}_unmasked", padded(key, False), None, f"{key}_unmasked/logits")
    saliency = signal(lambda x: x[..., :400])
    yield Case("ecg_fm/checkpoint_finetuned.pt", "saliency400", saliency, None, "finetuned_saliency400/logits")


def hubert_cases():
    heads = {
        "linear": "checkpoint_finetune_linear.pt",
        "mlp": "checkpoint_finetune_mlp.pt",
        "label_embedding": "checkpoint_finetune_label_embedding.pt",
        "hub_classification": "checkpoint_hub_classification",
    }

    def leads(values: torch.Tensor) -> torch.Tensor:
        return values.view(len(values), 12, -1)

    def stacked(io):
        return {"input_values": leads(io["input"])}

    def with_mask(name):
        return lambda io: {**stacked(io), "attention_mask": leads(io[f"mask_{name}/attention_mask"])}

    encoders = ("hub", "pretrain.pt", "pickled_pretrain.pt", "pickled_pretrain_main.pt", "weights_only.pt")
    for name in encoders:
        yield Case(f"hubert_ecg/checkpoint_{name}", "input", stacked, "pooled", tokens="tokens")
    for head, file in heads.items():
        key = f"{head}/logits" if head == "hub_classification" else f"finetuned/{head}/logits"
        yield Case(f"hubert_ecg/{file}", "input", stacked, "pooled", key, "tokens")
        for mask in ("left_pad", "right_pad", "per_lead", "ones"):
            parts = (f"mask_{mask}/pooled", f"mask_{mask}/logits_{head}", f"mask_{mask}/backbone_tokens")
            yield Case(f"hubert_ecg/{file}", f"mask_{mask}", with_mask(mask), *parts)
    pickled = "hubert_ecg/checkpoint_pickled_finetune_hubertconfig.pt"
    yield Case(pickled, "input", stacked, "pooled", "finetuned/linear/logits", "tokens")
    for length in (3000, 500, 82, 9000):
        key = f"length_{length}"
        yield Case(
            f"hubert_ecg/{heads['linear']}",
            key,
            lambda io, key=key: {"input_values": io[f"{key}/input"].unsqueeze(1)},
            f"{key}/pooled",
            f"{key}/logits_linear",
            f"{key}/tokens",
        )

    def real(windows):
        names = ("0_window0", "0_window1", "1_window0", "1_window1")
        return {"input_values": leads(torch.stack([windows[f"processed/{name}"] for name in names]))}

    parts = ("real_windows/pooled", "real_windows/logits_linear", "real_windows/tokens")
    yield Case(f"hubert_ecg/{heads['linear']}", "real_windows", real, *parts, source="preprocess")


CASES = [
    *st_mem_cases(),
    *kim_cases(),
    *weimann_cases(),
    *mtecg_cases(),
    *ecg_fm_cases(),
    *hubert_cases(),
]


def holds(fixtures, case: Case) -> bool:
    recorded = {case.pooled, case.logits, case.tokens} - {None}
    return fixtures.has(case.file) and recorded <= fixtures.tensors(case.family).keys()


def deviation(given: torch.Tensor, expected: torch.Tensor) -> float:
    assert given.shape == expected.shape
    return (given - expected).abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("fixtures", "case"), on_both(CASES, holds))
def test_model_gives_what_the_authors_code_gives(fixtures, case, attention):
    io = fixtures.tensors(case.family)
    model, _ = convert(case.file, attention)
    output = model(**case.inputs(fixtures.tensors(case.family, case.source)))
    if case.pooled:
        assert deviation(output.pooler_output, io[case.pooled]) < POOLED
    if case.logits:
        assert deviation(output.logits, io[case.logits]) < POOLED
    if case.tokens:
        tokens = output.last_hidden_state[case.rows, :: fixtures.step]
        assert deviation(tokens, io[case.tokens]) < TOKENS


def test_every_family_has_a_case_in_the_repository():
    held = [case for case in CASES if holds(CUT, case)]
    assert {case.family for case in held if case.pooled and case.tokens} == FAMILIES.keys()
    assert {case.family for case in held if case.logits} == FAMILIES.keys()


@needs_whole
def test_the_cut_has_the_numbers_and_bytes_of_the_shared_fixtures():
    assert torch.equal(cut_record(WHOLE.path), load_file(CUT.path / "record.safetensors")["microvolts"])
    for family in FAMILIES:
        for name, expected in cut_numbers(WHOLE.path, family).items():
            given = load_file(CUT.path / family / f"{name}.safetensors")
            assert given.keys() == expected.keys()
            assert all(torch.equal(given[key], values) for key, values in expected.items())
    for path in CUT.path.glob("*/checkpoint*"):
        assert path.read_bytes() == (WHOLE.path / path.relative_to(CUT.path)).read_bytes()


@needs_whole
@torch.no_grad()
def test_head_of_a_linear_evaluation_fits_the_encoder_that_it_was_trained_on():
    io = WHOLE.tensors("ecg_jepa_kim")
    head = torch.load(checkpoint("ecg_jepa_kim/checkpoint_linear_head.pth"), weights_only=True)
    pooled = convert("ecg_jepa_kim/checkpoint.pth")[0](io["input"]).pooler_output
    assert deviation(pooled @ head["fc.weight"].T + head["fc.bias"], io["linear/logits"]) < POOLED


# ---- From the raw record to the logits ----


@dataclass
class Record:
    """A real record of a fixture, and what the authors' code makes of it."""

    file: str
    number: int
    processed: object
    """From the tensors of `preprocess.safetensors` to the model's input."""
    logits: object = None
    """From these and those of `io.safetensors` to the logits of the windows."""
    score: object = None
    """Likewise to the score of the record: a probability."""
    raw: str = "raw"
    tolerance: float = 1e-4
    """Of `processed`, relative to its spread."""

    @property
    def family(self) -> str:
        return self.file.split("/")[0]

    def __str__(self):
        return f"{self.file}-{self.raw}{self.number}"


def records():
    for i in (0, 1):
        yield Record(
            "st_mem/checkpoint_finetuned.pth",
            i,
            lambda p, i=i: p[f"processed/{i}"],
            lambda p, io, i=i: p[f"finetuned_logits/{i}"],
            lambda p, io, i=i: p[f"finetuned_logits/{i}"].sigmoid().mean(0),
        )
        yield Record("ecg_jepa_kim/checkpoint.pth", i, lambda p, i=i: p[f"processed/{i}"][None])
        yield Record(
            "ecg_jepa_kim/checkpoint_finetuned.pth",
            i,
            lambda p, i=i: p[f"processed_finetune/{i}"][None],
            lambda p, io, i=i: p[f"end_to_end/finetuned_logits/{i}"][None],
        )
        for name in ("linear_attn", "finetuned_attn", "finetuned_register", "finetuned_mean"):
            yield weimann_record(i, name, "processed")
        yield weimann_record(i, "variant_3leads_250hz_patch20", "processed_250hz_II_V1_V5")
        yield Record(
            "mtecg/checkpoint_finetuned.pth",
            i,
            lambda p, i=i: p[f"processed/{i}"],
            lambda p, io, i=i: p[f"finetuned_logits/{i}"][None],
        )
        yield Record(
            "hubert_ecg/checkpoint_finetune_linear.pt",
            i,
            lambda p, i=i: torch.stack([p[f"processed/{i}_window{window}"] for window in (0, 1)]).view(2, 12, -1),
            lambda p, io, i=i: io["real_windows/logits_linear"][2 * i : 2 * i + 2],
        )
    yield Record(
        "hubert_ecg/checkpoint_hub",
        0,
        lambda p: torch.stack([p[f"processed250/0_window{window}"] for window in (0, 1)]).view(2, 12, -1),
        raw="raw250",
    )
    yield Record(
        "ecg_jepa_weimann/checkpoint_pretrain.pt",
        0,
        lambda p: p["processed_pretraining_statistics/0"][None],
        tolerance=1e-2,
    )
    for i in range(3):
        yield Record(
            "ecg_fm/checkpoint_finetuned.pt",
            i,
            lambda p, i=i: p[f"processed/{i}"],
            lambda p, io, i=i: io[f"end_to_end/{i}/logits"],
            lambda p, io, i=i: io[f"end_to_end/{i}/aggregated"],
        )


def weimann_record(i: int, name: str, processed: str) -> Record:
    return Record(
        f"ecg_jepa_weimann/checkpoint_{name}.pt",
        i,
        lambda p: p[f"{processed}/{i}"],
        lambda p, io: p[f"end_to_end/{name}/crop_logits/{i}"],
        lambda p, io: p[f"end_to_end/{name}/logits/{i}"].sigmoid(),
        tolerance=1e-2,
    )


def holds_record(fixtures, record: Record) -> bool:
    tensors, io = fixtures.tensors(record.family, "preprocess"), fixtures.tensors(record.family)
    try:
        record.processed(tensors)
        for recorded in (record.logits, record.score):
            if recorded:
                recorded(tensors, io)
    except KeyError:
        return False
    return fixtures.has(record.file)


@torch.no_grad()
@pytest.mark.parametrize(("fixtures", "record"), on_both(records(), holds_record))
def test_raw_record_gives_the_authors_windows_and_scores(fixtures, record):
    tensors, io = fixtures.tensors(record.family, "preprocess"), fixtures.tensors(record.family)
    model, extractor = convert(record.file)
    features = extractor(**fixtures.recording(record.family, record.number, record.raw))
    values, expected = features["input_values"][..., :: fixtures.step], record.processed(tensors).double()
    assert values.shape == expected.shape
    assert (values - expected).abs().max() <= record.tolerance * expected.std()
    if record.logits:
        logits = model(**features).logits
        assert deviation(logits, record.logits(tensors, io)) < 1e-4
    if record.score:
        score = model.aggregate_windows(logits[None])[0].sigmoid()
        assert deviation(score, record.score(tensors, io)) < 1e-4


# ---- Lead subsets ----


@torch.no_grad()
@pytest.mark.parametrize(
    ("file", "lead_names"),
    [
        (file, leads)
        for file in ("st_mem/checkpoint_finetuned.pth", "ecg_jepa_kim/checkpoint_finetuned.pth")
        for leads in (["II"], ["V5", "I"], ["V3", "V1", "II"], ["I", "II", "V1", "V2", "V4", "V6"])
    ],
)
def test_any_leads_in_any_order_give_tokens_for_them_alone(file, lead_names):
    model, extractor = convert(file)
    rows = [LEAD_NAMES.index(name) for name in lead_names]
    signal = CUT.recording(file.split("/")[0])["signal"][rows]
    features = extractor(signal, sampling_rate=500, lead_names=lead_names)
    assert features["input_values"].shape[1] == features["lead_ids"].shape[1] == len(lead_names)
    output = model(**features)
    assert output.last_hidden_state.shape[1] % len(lead_names) == 0
    order = np.argsort(rows)
    again = extractor(signal[order], sampling_rate=500, lead_names=[lead_names[place] for place in order])
    assert deviation(model(**again).logits, output.logits) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("file", ["st_mem/checkpoint_finetuned.pth", "ecg_jepa_kim/checkpoint_finetuned.pth"])
def test_permuted_full_list_of_leads_equals_the_public_result(file):
    io = CUT.tensors(file.split("/")[0])
    model, _ = convert(file)
    order = torch.randperm(io["input"].shape[1])
    output = model(io["input"][:, order], lead_ids=order[None])
    assert deviation(output.logits, io["finetuned/logits"]) < POOLED


@pytest.mark.parametrize("file", ["st_mem/checkpoint_finetuned.pth", "ecg_jepa_kim/checkpoint_finetuned.pth"])
def test_other_leads_without_their_ids_and_longer_windows_are_refused(file):
    model, _ = convert(file)
    values = CUT.tensors(file.split("/")[0])["input"].expand(2, -1, -1)
    with pytest.raises(ValueError, match="give `lead_ids`"):
        model(values[:, :3])
    with pytest.raises(ValueError, match="which lead it is"):
        model(values[:, :3], lead_ids=lead_ids(values, [0, 1]))
    with pytest.raises(ValueError, match="This model reads"):
        model(torch.cat([values, values], -1))


# ---- Files: heads, wrappers, labels, provenance ----


def test_heads_that_nobody_says_are_an_error_and_the_argument_wins(tmp_path):
    # Without its configuration, HuBERT-ECG's file does not say them either.
    content = torch.load(checkpoint("hubert_ecg/checkpoint_finetune_linear.pt"), weights_only=True)
    torch.save(content["model_state_dict"], tmp_path / "weights_only.pt")
    for path in (
        checkpoint("mtecg/checkpoint_gap.pth"),
        checkpoint("ecg_jepa_kim/checkpoint_finetuned.pth"),
        tmp_path / "weights_only.pt",
    ):
        with pytest.raises(ValueError, match="give `num_attention_heads`"):
            convert_checkpoint(path)
    model, _ = convert_checkpoint(checkpoint("ecg_fm/checkpoint_finetuned.pt"), num_attention_heads=2)
    assert model.config.num_attention_heads == 2
    with pytest.raises(ValueError, match="7 attention heads do not divide"):
        convert_checkpoint(checkpoint("mtecg/checkpoint_gap.pth"), num_attention_heads=7)
    for file in ("mtecg/checkpoint_gap.pth", "ecg_jepa_weimann/checkpoint_pretrain.pt"):
        with pytest.raises(ValueError, match="`num_attention_heads` must be above 0, got 0"):
            convert_checkpoint(checkpoint(file), num_attention_heads=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("file", "key", "place", "wrapper"),
    [
        ("ecg_fm/checkpoint_finetuned.pt", "model", r"^", "module._orig_mod."),
        ("st_mem/checkpoint_finetuned.pth", "model", r"(?<=block\d\.)", "_orig_mod."),
        (
            "hubert_ecg/checkpoint_finetune_linear.pt",
            "model_state_dict",
            r"^|(?<=layers\.\d\.)",
            "_fsdp_wrapped_module._checkpoint_wrapped_module.",
        ),
    ],
)
def test_names_with_what_training_wrappers_put_into_them_convert(file, key, place, wrapper, tmp_path):
    content = torch.load(checkpoint(file), weights_only=True)
    names = list(content[key])
    content[key] = {re.sub(place, wrapper, name): tensor for name, tensor in content[key].items()}
    assert list(content[key]) != names
    torch.save(content, tmp_path / "wrapped.pt")
    values = CUT.tensors(file.split("/")[0])["input"].view(1, 12, -1)
    wrapped, _ = convert_checkpoint(tmp_path / "wrapped.pt")
    assert torch.equal(wrapped(values).logits, convert(file)[0](values).logits)


def test_provenance_and_labels_are_in_the_configuration():
    model, _ = convert("ecg_fm/checkpoint_finetuned.pt")
    provenance = model.config.provenance
    assert provenance["source"] == "ecg_fm" and provenance["license"] == "mit"
    digest = hashlib.sha256(checkpoint("ecg_fm/checkpoint_finetuned.pt").read_bytes()).hexdigest()
    assert provenance["sha256"] == digest
    assert "PTB-XL" in provenance["pretraining_data"]
    assert model.config.id2label[15] == "Infarction"
    for file in ("st_mem/checkpoint_finetuned.pth", "hubert_ecg/checkpoint_finetune_linear.pt"):
        assert convert(file)[0].config.provenance["license"] == "cc-by-nc-4.0"


def test_head_without_label_names_says_how_to_give_them(caplog):
    logging.getLogger("ecg_hf").propagate = True
    with caplog.at_level("WARNING"):
        convert_checkpoint(checkpoint("st_mem/checkpoint_finetuned.pth"))
    assert "id2label" in caplog.text


# ---- Strictness ----


def changed(tmp_path, file: str, change) -> object:
    content = torch.load(checkpoint(file), weights_only=True)
    change(content["model"])
    torch.save(content, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.update(extra=torch.zeros(3)), "neither used nor known.*`extra`"),
        (lambda tensors: tensors.pop("block1.ff.fn.net.0.bias"), "lacks .*layers.1.mlp.fc1.bias"),
        (lambda tensors: tensors.pop("head.bias"), "lacks .*classifier.bias"),
        (
            lambda tensors: tensors.update({"head.weight": torch.zeros(5, 7)}),
            r"`classifier.weight` must have shape \(5, 24\).*\(5, 7\)",
        ),
        (lambda tensors: tensors.pop("block1.attn.norm.weight"), "lacks .*layers.1.attention_norm.weight"),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("block1.")],
            "none should be left out",
        ),
    ],
)
def test_tensor_too_many_too_few_or_of_another_shape_is_an_error(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(changed(tmp_path, "st_mem/checkpoint_finetuned.pth", change))


def test_wrong_truncated_and_foreign_files_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        convert_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        convert_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="`source` must be one of"):
        convert_checkpoint(tmp_path, source="resnet")
    whole = checkpoint("st_mem/checkpoint_finetuned.pth").read_bytes()
    for name, content in (
        ("empty.pth", b""),
        ("text.pth", b"no checkpoint at all"),
        ("half.pth", whole[: len(whole) // 2]),
        ("hole.pth", whole[:2000] + whole[60000:]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="damaged|cut short"):
            convert_checkpoint(tmp_path / name)
    save_file({"conv1.weight": torch.zeros(30, 30)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        convert_checkpoint(tmp_path / "half.safetensors")
    torch.save({"model": {"conv1.weight": torch.zeros(3, 3)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no checkpoint of .*`conv1.weight`"):
        convert_checkpoint(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no checkpoint of mtecg.*found was one of ecg_fm"):
        convert_checkpoint(checkpoint("ecg_fm/checkpoint_finetuned.pt"), source="mtecg")
    torch.save({"fc.weight": torch.zeros(5, 32), "fc.bias": torch.zeros(5)}, tmp_path / "linear_head.pth")
    with pytest.raises(ValueError, match="head without its encoder"):
        convert_checkpoint(tmp_path / "linear_head.pth")


@torch.no_grad()
def test_st_mem_of_fewer_leads_and_of_one_wide_head_convert(tmp_path):
    io = CUT.tensors("st_mem")
    for count, key in ((6, "case_limb_model"), (1, "case_lead1_model")):

        def drop_leads(tensors, count=count):
            for lead in range(count, 12):
                del tensors[f"lead_embeddings.{lead}"]

        path = changed(tmp_path, "st_mem/checkpoint_finetuned.pth", drop_leads)
        model, extractor = convert_checkpoint(path)
        assert model.config.lead_names == extractor.lead_names == list(LEAD_NAMES[:count])
        assert deviation(model(io["input"][:, :count]).logits, io[f"{key}/logits"]) < POOLED

    def one_wide_head(tensors):
        for index in range(3):
            del tensors[f"block{index}.attn.fn.to_out.0.weight"], tensors[f"block{index}.attn.fn.to_out.0.bias"]
            for kind in ("weight", "bias"):
                name = f"block{index}.attn.fn.to_qkv.{kind}"
                tensors[name] = torch.cat([part[:24] for part in tensors[name].chunk(3)])

    path = changed(tmp_path, "st_mem/checkpoint_finetuned.pth", one_wide_head)
    model, _ = convert_checkpoint(path, num_attention_heads=1)
    assert torch.equal(model.ecg_transformer.layers[1].attention.o_proj.weight, torch.eye(24))
    with pytest.raises(ValueError, match="lacks .*o_proj"):
        convert_checkpoint(path, num_attention_heads=2)


@torch.no_grad()
@pytest.mark.parametrize("file", ["ecg_fm/checkpoint_finetuned.pt", "hubert_ecg/checkpoint_finetune_linear.pt"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_score_of_a_record_does_not_depend_on_the_records_beside_it(file, attention):
    model, extractor = convert(file, attention)
    raw = CUT.recording(file.split("/")[0])["signal"]
    facts = {"sampling_rate": 500, "lead_names": list(LEAD_NAMES)}
    signals = [raw, raw[:, :2500], raw[:, :1550]]
    alone = [model(**extractor(signal, **facts)).logits for signal in signals]
    for order in ([0, 1, 2], [2, 0, 1], [2, 2, 1]):
        logits = model(**extractor([signals[place] for place in order], **facts)).logits
        assert deviation(logits, torch.cat([alone[place] for place in order])) < 1e-5


# ---- A stranger's file ----


class Payload:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["model", "config", "top"])
@pytest.mark.parametrize("function", [os.system, eval, exec, "popen", "touch"], ids=str)
def test_hostile_file_runs_nothing(function, place, tmp_path):
    marker = tmp_path / "marker"
    arguments = {
        os.system: f"touch {marker}",
        eval: f"open({str(marker)!r}, 'w').close()",
        exec: f"open({str(marker)!r}, 'w').close()",
    }
    if function == "popen":
        payload = Payload(subprocess.Popen, ["touch", str(marker)])
    elif function == "touch":
        payload = Payload(pathlib.Path.touch, marker)
    else:
        payload = Payload(function, arguments[function])
    content = torch.load(checkpoint("st_mem/checkpoint_finetuned.pth"), weights_only=True)
    if place == "top":
        content["epoch"] = payload
    else:
        content[place]["payload"] = payload
    torch.save(content, tmp_path / "hostile.pth")
    try:
        convert_checkpoint(tmp_path / "hostile.pth")
    except ValueError as error:
        assert "hostile.pth" in str(error)
    assert not marker.exists()


def refusal_of(path, kind=ValueError) -> str:
    """What the command says, with all that Python prints of causes and warnings."""
    with warnings.catch_warnings(record=True) as caught, pytest.raises(kind) as error:
        warnings.simplefilter("always")
        cli.convert([str(path), "--output_dir", f"{path}-converted"])
    assert str(path) in str(error.value)
    return "".join(traceback.format_exception(error.value)) + "\n".join(str(warning.message) for warning in caught)


def test_no_refusal_repeats_torchs_advice_to_load_a_file_unsafely(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with tarfile.open(tmp_path / "tar.pt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    torch.save({"model": {"x": torch.ones(1)}, "call": Payload(os.system, "true")}, tmp_path / "zip.pt")
    torch.save({"call": Payload(os.system, "true")}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"call": Payload(eval, "1")}))
    (tmp_path / "text.pt").write_text("weights_only")
    for file in sorted(tmp_path.iterdir()):
        printed = refusal_of(file)
        for advice in ("weights_only=", "`weights_only`", "safe_globals(", "trust", "torch.jit.load", "PyTorch 2.6"):
            shown = [line for line in printed.splitlines() if not line.startswith("    ")]  # not the lines of code
            assert not any(advice in line for line in shown), (file.name, advice, printed)
    assert "TorchScript archive, which holds a program" in refusal_of(tmp_path / "script.pt")


@pytest.mark.parametrize("kind", ["pipe", "device", "pipe in a folder", "folder in a folder", "configuration"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "checkpoint"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
        name = "config.json" if kind == "configuration" else "model.safetensors"
        (path / "pytorch_model.bin").write_bytes(b"")
        (path / name).mkdir() if kind == "folder in a folder" else os.mkfifo(path / name)
    assert "is not a regular file" in refusal_of(path)


def test_hostile_expression_in_a_configuration_is_parsed_not_evaluated(tmp_path):
    marker = tmp_path / "marker"
    content = torch.load(checkpoint("ecg_fm/checkpoint_finetuned.pt"), weights_only=True)
    content["cfg"]["model"]["conv_feature_layers"] = f"open({str(marker)!r}, 'w').close() or [(24, 2, 2)] * 4"
    torch.save(content, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match="no list of"):
        convert_checkpoint(tmp_path / "hostile.pt")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("expression", "layers"),
    [
        ("[(256, 2, 2)] * 4", [(256, 2, 2)] * 4),
        (
            "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
            [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2,
        ),
    ],
)
def test_layer_expressions(expression, layers):
    assert parse_layers(expression) == layers


@pytest.mark.parametrize("expression", ["[(256, 2, 2)] * 10**9", "[(1, 2)]", "(", "[[(1, 2, 3)] * 99] * 99", "7"])
def test_other_layer_expressions_are_refused(expression):
    with pytest.raises(ValueError, match="no list of"):
        parse_layers(expression)


# ---- Training and graphs ----

ONE_OF_EACH = {
    "mtecg/checkpoint_gap.pth": (12, 5000),
    "st_mem/checkpoint_finetuned.pth": (12, 2250),
    "ecg_jepa_kim/checkpoint_finetuned.pth": (8, 2500),
    "ecg_jepa_weimann/checkpoint_finetuned_attn.pt": (12, 1250),
    "ecg_jepa_weimann/checkpoint_variant_bias_layerscale_3registers_attn.pt": (12, 1250),
    "ecg_fm/checkpoint_finetuned.pt": (12, 2500),
    "hubert_ecg/checkpoint_finetune_linear.pt": (12, 500),
    "hubert_ecg/checkpoint_finetune_mlp.pt": (12, 500),
}


@pytest.mark.parametrize("file", checkpoints(*ONE_OF_EACH))
def test_checkpointing_with_stochastic_depth_gives_the_same_gradients(file):
    model = copy.deepcopy(convert(file)[0]).train()
    model.set_drop_path_rate(0.5)
    values = torch.randn(4, *ONE_OF_EACH[file])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(0)
        model(values, labels=torch.zeros(4, model.num_labels)).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    plain, checkpointed = gradients
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


@pytest.mark.slow
@pytest.mark.parametrize("file", checkpoints(*ONE_OF_EACH))
def test_compiles_to_one_graph_and_exports_with_a_free_batch_size(file):
    torch._dynamo.reset()
    model = copy.deepcopy(convert(file)[0])
    values = torch.randn(3, *ONE_OF_EACH[file])
    with torch.no_grad():
        expected = model(values).logits
        free = {"input_values": {0: torch.export.Dim("rows")}}
        exported = torch.export.export(model, (values,), dynamic_shapes=free).module()
        for count in (1, 3):
            assert deviation(exported(values[:count]).logits, expected[:count]) < 1e-5
    model.train().set_drop_path_rate(0.5)
    torch.compile(model, backend="aot_eager", fullgraph=True)(
        values, labels=torch.zeros(3, model.num_labels)
    ).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# ---- Post-training ----


@pytest.mark.parametrize(
    "file",
    checkpoints(
        "mtecg/checkpoint_gap.pth",
        "st_mem/checkpoint_finetuned.pth",
        "st_mem/checkpoint_encoder.pth",
        "ecg_jepa_kim/checkpoint_variant.pth",
        "ecg_jepa_kim/checkpoint.pth",
        "ecg_jepa_weimann/checkpoint_finetuned_attn.pt",
        "ecg_jepa_weimann/checkpoint_pretrain.min.pt",
        "ecg_jepa_weimann/checkpoint_variant_bias_layerscale_3registers_attn.pt",
        "ecg_fm/checkpoint_finetuned.pt",
        "hubert_ecg/checkpoint_finetune_linear.pt",
        "hubert_ecg/checkpoint_finetune_mlp.pt",
    ),
)
def test_both_stages_post_train_a_converted_model(file, simulated_splits, tmp_path):
    for part in convert(file):
        part.save_pretrained(tmp_path / "converted")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no trained head")
        model = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "converted")
    model.replace_head(dict(enumerate(LABELS)))
    backbone = {name: value.clone() for name, value in model.ecg_transformer.state_dict().items()}
    few = {name: split.select(range(12)) for name, split in simulated_splits.items()}
    trainer = PostTrainer(
        model=model,
        args=PostTrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=2,
            save_steps=2,
            warmup_steps=0,
            probe_num_train_epochs=2,
            per_device_train_batch_size=6,
            per_device_eval_batch_size=6,
            drop_path_rate=0.3,
            layer_decay=0.8,
            keep_best_stage=False,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=few["train"],
        eval_dataset=few["validation"],
        feature_extractor=ECGTransformerFeatureExtractor.from_pretrained(tmp_path / "converted"),
    )
    groups = trainer.create_optimizer().param_groups
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert len({group["lr"] for group in groups}) == model.config.num_hidden_layers + 2

    trainer.post_train()
    probed = load_file(tmp_path / "run" / "_stages" / "probe" / "model.safetensors")
    assert all(torch.equal(probed[f"ecg_transformer.{name}"], value) for name, value in backbone.items())
    tuned = trainer.model.ecg_transformer.state_dict()
    assert [name for name, value in backbone.items() if torch.equal(tuned[name], value)] == []

    trained = trainer.model.eval()
    loaded = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "run").eval()
    record = few["validation"][0]
    signal = np.array(record["signal"], dtype=np.int16).reshape(12, -1)
    features = trainer.processing_class(signal, sampling_rate=100, lead_names=record["lead_names"], units="uV")
    with torch.no_grad():
        assert torch.equal(trained(**features).pooler_output, trained(**features).pooler_output)
        assert deviation(loaded(**features).logits, trained(**features).logits) < 1e-5


def test_probe_gives_a_head_of_another_form_a_linear_one(simulated_splits, tmp_path):
    few = {name: split.select(range(12)) for name, split in simulated_splits.items()}
    trainer = PostTrainer(
        model=small_model(num_hidden_layers=1, classifier_bias=False),
        args=PostTrainingArguments(
            output_dir=str(tmp_path / "run"),
            stages=["probe"],
            probe_num_train_epochs=1,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=few["train"],
        eval_dataset=few["validation"],
        feature_extractor=small_extractor(),
    )
    trainer.post_train()
    loaded = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "run")
    assert torch.equal(loaded.classifier.bias, trainer.model.classifier.bias) and loaded.classifier.bias.any()


# ---- Full size ----


def full_size(family: str, facts: dict) -> dict:
    """A checkpoint of the published size in the authors' container, from the names and shapes in `meta.json`."""

    def tensors(shapes):
        return {
            name: torch.randn([5 if size == "num_classes" else size for size in shape])
            for name, shape in shapes.items()
        }

    if family == "st_mem":
        encoder = tensors(facts["encoder_keys"])
        whole = {f"encoder.{name}": tensor for name, tensor in encoder.items()} | tensors(
            facts["full_additional_keys"]
        )
        return {"model": whole, "config": {"model_name": "st_mem_vit_base_dec256d4b", "model": {}}}
    if family == "ecg_fm":
        return {"model": tensors(facts["finetuned"]["keys"]), "cfg": {"model": facts["finetuned"]["cfg_model"]}}
    if family == "hubert_ecg":
        return {"model_state_dict": tensors(facts["base_tensors"])}
    if family == "ecg_jepa_kim":
        return {"encoder": tensors(facts["container"]["encoder"]), "epoch": 99}
    if family == "ecg_jepa_weimann":
        return {"model": tensors(facts["model_keys"]["ViTS"]), "config": facts["configurations"]["ViTS_all"]}
    return {"model": tensors(facts["keys"])}


def measured_conversion(path: pathlib.Path) -> None:
    def peak():
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

    before, start = peak(), time.time()
    model, _ = convert_checkpoint(path)
    print(time.time() - start, peak() - before, model.config.num_attention_heads)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("fixtures", "family"), on_both(FAMILIES, lambda fixtures, family: False))
def test_published_size_converts_in_half_a_minute_and_three_times_the_memory(fixtures, family, tmp_path):
    facts = json.loads((fixtures.path / family / "meta.json").read_text())["published_full_size"]
    torch.save(full_size(family, facts), tmp_path / "full.pt")
    process = Forked(tmp_path / "measured", measured_conversion, tmp_path / "full.pt")
    assert process.wait() == 0, process.stderr
    seconds, memory, heads = map(float, process.stdout.split())
    assert seconds < 30
    assert memory < 3 * (tmp_path / "full.pt").stat().st_size
    assert heads == {"ecg_jepa_kim": 16, "ecg_jepa_weimann": 6, "mtecg": 3}.get(family, 12)


# ---- The command ----


@torch.no_grad()
@pytest.mark.parametrize(
    "file",
    checkpoints("hubert_ecg/checkpoint_finetune_linear.pt", "hubert_ecg/checkpoint_hub_classification"),
)
def test_command_writes_a_folder_that_the_auto_classes_load(file, tmp_path, capsys):
    cli.convert([str(checkpoint(file)), "--output_dir", str(tmp_path / "hubert")])
    assert "cc-by-nc-4.0" in capsys.readouterr().out
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hubert").eval()
    AutoFeatureExtractor.from_pretrained(tmp_path / "hubert")
    fixtures, key = (CUT, "finetuned/linear") if "linear" in file else (WHOLE, "hub_classification")
    io = fixtures.tensors("hubert_ecg")
    assert deviation(model(io["input"].view(-1, 12, 500)).logits, io[f"{key}/logits"]) < POOLED
    with pytest.raises(FileExistsError, match="not empty"):
        cli.convert([str(checkpoint("mtecg/checkpoint_gap.pth")), "--output_dir", str(tmp_path / "hubert")])
