"""Conversion of the public ECG Transformers against numbers that their authors' code gave (the shared fixtures)."""

from dataclasses import dataclass, field

import pytest
import torch
from conftest import SHARED
from safetensors.torch import load_file

from ecg_hf.conversion import convert_checkpoint

FIXTURES = SHARED / "fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"the fixtures are not at {FIXTURES}")

# Largest absolute deviations in float32 on a CPU.
POOLED, TOKENS = 1e-5, 2e-5

# What no tensor and no configuration of these files tells.
HEADS = {
    "mtecg": 3,
    "ecg_jepa_kim": 4,
    "ecg_jepa_kim/checkpoint_variant.pth": 2,
    "hubert_ecg/checkpoint_weights_only.pt": 4,
}


def convert(file: str, attention: str = "sdpa"):
    heads = HEADS.get(file, HEADS.get(file.split("/")[0]))
    if file == "hubert_ecg/checkpoint_weights_only.pt" or file.split("/")[0] in HEADS:
        model, extractor = convert_checkpoint(FIXTURES / file, num_attention_heads=heads)
    else:
        model, extractor = convert_checkpoint(FIXTURES / file)
    model.set_attn_implementation(attention)
    return model, extractor


def numbers(family: str, name: str = "io") -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / family / f"{name}.safetensors")


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

    @property
    def family(self) -> str:
        return self.file.split("/")[0]

    def __str__(self):
        return f"{self.file}-{self.name}"


def signal(transform=lambda x: x, **extra):
    return lambda io: {"input_values": transform(io["input"]), **extra}


def lead_ids(*leads: int) -> torch.Tensor:
    return torch.tensor([leads] * 2)


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
    for name, transform, extra in (
        ("shorter_1125", lambda x: x[..., :1125], {}),
        ("one_patch_75", lambda x: x[..., :75], {}),
        ("precordial_zeroed", lambda x: torch.cat([x[:, :6], torch.zeros_like(x[:, 6:])], 1), {}),
        ("small_amplitude_x0.004", lambda x: x * 0.004, {}),
        ("limb_model", lambda x: x[:, :6], {"lead_ids": lead_ids(*range(6))}),
        ("lead1_model", lambda x: x[:, :1], {"lead_ids": lead_ids(0)}),
        # The authors give lead II the embedding of lead I.
        ("lead2_model", lambda x: x[:, 1:2], {"lead_ids": lead_ids(0)}),
    ):
        case = f"case_{name}"
        yield Case(finetuned, name, signal(transform, **extra), f"{case}/pooled", f"{case}/logits")
    yield Case(finetuned, "all_zero", signal(torch.zeros_like), None, "case_all_zero/logits")
    yield Case(finetuned, "leads_reversed", signal(lambda x: x.flip(1)), None, "case_leads_reversed/logits")


def kim_cases():
    file = "ecg_jepa_kim/checkpoint.pth"
    yield Case(file, "input", signal(), "pooled", tokens="tokens")
    for leads in ((0, 1), (1,), (7, 2, 4)):
        name = "leads_" + "_".join(map(str, leads))
        given = signal(lambda x, leads=leads: x[:, list(leads)], lead_ids=lead_ids(*leads))
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

    def real(io):
        windows = numbers("hubert_ecg", "preprocess")
        names = ("0_window0", "0_window1", "1_window0", "1_window1")
        return {"input_values": leads(torch.stack([windows[f"processed/{name}"] for name in names]))}

    parts = ("real_windows/pooled", "real_windows/logits_linear", "real_windows/tokens")
    yield Case(f"hubert_ecg/{heads['linear']}", "real_windows", real, *parts)


CASES = [
    *st_mem_cases(),
    *kim_cases(),
    *weimann_cases(),
    *mtecg_cases(),
    *ecg_fm_cases(),
    *hubert_cases(),
]


def deviation(given: torch.Tensor, expected: torch.Tensor) -> float:
    assert given.shape == expected.shape
    return (given - expected).abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_model_gives_what_the_authors_code_gives(case, attention):
    io = numbers(case.family)
    model, _ = convert(case.file, attention)
    output = model(**case.inputs(io))
    if case.pooled:
        assert deviation(output.pooler_output, io[case.pooled]) < POOLED
    if case.logits:
        assert deviation(output.logits, io[case.logits]) < POOLED
    if case.tokens:
        assert deviation(output.last_hidden_state[case.rows], io[case.tokens]) < TOKENS
