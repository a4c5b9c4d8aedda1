"""Models of one, three or any leads, made from encoders that take more."""

import copy
import json
import pathlib

import numpy as np
import pytest
import torch
import wfdb
import yaml
from huggingface_hub import ModelCard
from small_models import small_config, small_extractor, small_model
from test_conversion import CUT, convert
from test_scripts import QUICK, flags
from test_targets import records, trainer_of
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, pipeline

from ecg_hf import ECGTransformerForMultiLabel, cli, restrict_leads
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.pretraining.run import RecordArguments
from ecg_hf.synthetic import simulate_ecg

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

SHIPPED = pathlib.Path(__file__).parents[1] / "hub_cards/ecg-transformer-ptbxl-100hz"
# Files of public encoders by what their leads are.
CHANNELS = [
    "mtecg/checkpoint_gap.pth",
    "ecg_jepa_weimann/checkpoint_finetuned_attn.pt",
    "ecg_fm/checkpoint_finetuned.pt",
]
TOKENS = ["st_mem/checkpoint_finetuned.pth", "ecg_jepa_kim/checkpoint_finetuned.pth"]


def shipped():
    return AutoModel.from_pretrained(SHIPPED).eval(), AutoFeatureExtractor.from_pretrained(SHIPPED)


def shipped_classifier():
    with pytest.warns(UserWarning, match="has no trained head"):
        return ECGTransformerForMultiLabel.from_pretrained(SHIPPED), shipped()[1]


def public(file):
    model, extractor = convert(file)
    return copy.deepcopy(model).eval(), extractor


def output_of(model, **inputs):
    """In 64 bits, where the order of a sum does not matter."""
    inputs["input_values"] = inputs["input_values"].double()
    with torch.no_grad():
        output = model.double()(**inputs)
    return output.pooler_output if "logits" not in output else output.logits


@pytest.mark.parametrize("lead_names", [["I"], ["V5", "i", " II"], ["V1", "V2", "V3", "V6"]])
@pytest.mark.parametrize("source", ["shipped", *CHANNELS])
def test_leads_as_channels_give_what_the_old_model_gives_with_zeros_for_the_others(source, lead_names):
    model, extractor = shipped() if source == "shipped" else public(source)
    known = list(model.config.lead_names)
    names = [{name.casefold(): name for name in LEAD_NAMES}[name.strip().casefold()] for name in lead_names]
    rows = [known.index(name) for name in names]
    torch.manual_seed(0)
    values = torch.randn(2, len(known), model.config.num_samples)
    zeroed = torch.zeros_like(values)
    zeroed[:, rows] = values[:, rows]
    expected, complete = output_of(model, input_values=zeroed), output_of(model, input_values=values)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    restricted, new_extractor = restrict_leads(model, extractor, lead_names)
    assert restricted is model and model.config.lead_names == names and model.config.num_leads == len(names)
    torch.testing.assert_close(output_of(model, input_values=values[:, rows]), expected, atol=1e-12, rtol=1e-12)
    assert not torch.allclose(expected, complete, atol=1e-3)  # the other leads matter
    assert sum(parameter.numel() for parameter in model.parameters()) < parameters
    # Statistics of each lead follow it, and the old extractor is as it was.
    for name in ("mean", "std"):
        old, new = getattr(extractor, name), getattr(new_extractor, name)
        assert new == ([old[row] for row in rows] if isinstance(old, list) else old)
    assert new_extractor.lead_names == names and extractor.lead_names == known


@pytest.mark.parametrize("lead_names", [["II"], ["V1", "V5", "I"]])
@pytest.mark.parametrize("file", TOKENS)
def test_leads_with_their_own_tokens_give_what_the_old_model_gives_for_them_alone(file, lead_names):
    model, extractor = public(file)
    rows = [model.config.lead_names.index(name) for name in lead_names]
    values = CUT.tensors(file.split("/")[0])["input"][:, rows]
    expected = output_of(model, input_values=values, lead_ids=torch.tensor([rows]).expand(len(values), -1))
    restricted, new_extractor = restrict_leads(model, extractor, lead_names)
    torch.testing.assert_close(output_of(restricted, input_values=values), expected, atol=1e-12, rtol=1e-12)
    signal = CUT.recording(file.split("/")[0])["signal"]
    features = new_extractor(signal, sampling_rate=500, lead_names=list(LEAD_NAMES))
    assert features["lead_ids"][0].tolist() == list(range(len(rows)))
    assert restricted.float()(**features).logits.isfinite().all()


def test_a_record_gives_the_same_whichever_of_its_leads_the_model_reads():
    """From the file to the logits: the old model, with a record of V1 and V5 alone, warns of ten absent leads."""
    old, extractor = small_model(), small_extractor(mean=list(np.linspace(-0.1, 0.1, 12)), std=[0.3] * 6 + [0.5] * 6)
    new, new_extractor = restrict_leads(small_model(), extractor, ["V1", "V5"])
    signal = simulate_ecg(["NORM"], sampling_rate=500, rng=np.random.default_rng(0)) / 1000
    with pytest.warns(UserWarning, match="are missing"):
        few = extractor(signal[[6, 10]], sampling_rate=500, lead_names=["V1", "V5"])
    features = new_extractor(signal, sampling_rate=500, lead_names=list(LEAD_NAMES))
    assert features["input_values"].shape[1] == 2
    torch.testing.assert_close(output_of(new, **features), output_of(old, **few), atol=1e-12, rtol=1e-9)


def test_all_leads_change_nothing_and_an_order_of_its_own_is_kept():
    values = torch.randn(2, 12, 250)
    model, extractor = small_model().eval(), small_extractor()
    expected = output_of(model, input_values=values)
    model, same = restrict_leads(model, extractor, LEAD_NAMES)
    assert torch.equal(output_of(model, input_values=values), expected) and same.to_dict() == extractor.to_dict()
    backwards, _ = restrict_leads(model, extractor, LEAD_NAMES[::-1])
    assert backwards.config.lead_names == list(LEAD_NAMES[::-1])
    torch.testing.assert_close(output_of(backwards, input_values=values.flip(1)), expected)


@pytest.mark.parametrize(
    ("lead_names", "message"),
    [
        (["I", "V3"], "`lead_names` names V3, which the model does not take: it has I II"),
        (["I", "X"], "Unknown leads in `lead_names`: X"),
        (["I", "i"], "names a lead twice"),
        ([], "`lead_names` is empty: name some of the model's leads, I II"),
    ],
)
def test_leads_that_are_none_of_the_models_are_refused(lead_names, message):
    names = ["I", "II"]
    with pytest.raises(ValueError, match=message):
        restrict_leads(small_model(lead_names=names), small_extractor(lead_names=names), lead_names)


def test_models_that_cannot_do_without_leads_are_refused_with_the_reason():
    model, extractor = public("hubert_ecg/checkpoint_finetune_linear.pt")
    before = list(model.config.lead_names)
    with pytest.raises(ValueError, match="leads follow each other in time.*with zeros for them; leave `lead_names`"):
        restrict_leads(model, extractor, ["I"])
    assert model.config.lead_names == before
    conv = {"channels": 12, "kernel_size": 5, "padding": 2, "residual": True}
    layers = [conv, {"channels": 16, "kernel_size": 5, "stride": 5}]
    config = small_config(["a"], conv_layers=layers, patch_size=None)
    with pytest.raises(ValueError, match="first convolution is `residual`"):
        restrict_leads(ECGTransformerForMultiLabel(config), small_extractor(), ["I"])


# ---- The command line ----


@pytest.fixture(scope="module", params=["checkpoint", "new"])
def one_or_three_leads(request, simulated_folder, simulated_cache, tmp_path_factory):
    """A model that `ecg-hf train --lead_names` has made: (folder, its leads)."""
    output = tmp_path_factory.mktemp("leads") / request.param
    settings = {**QUICK, "data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": output}
    if request.param == "checkpoint":
        settings |= {"model_name_or_path": SHIPPED}
        del settings["architecture"]
    lead_names = {"checkpoint": ["i"], "new": ["I", "II", "V5"]}[request.param]
    cli.train([*flags(**settings), "--lead_names", *lead_names])
    return output, [name.upper() for name in lead_names]


@pytest.mark.filterwarnings("error:The leads")
def test_the_trained_model_reads_any_record_that_has_its_leads(one_or_three_leads, tmp_path):
    folder, lead_names = one_or_three_leads
    classifier = pipeline("ecg-classification", model=str(folder))
    assert classifier.model.config.lead_names == classifier.feature_extractor.lead_names == lead_names
    signal = simulate_ecg(["NORM"], sampling_rate=100, rng=np.random.default_rng(0)) / 1000
    wfdb.wrsamp(
        "record",
        100,
        ["mV"] * 12,
        list(LEAD_NAMES),
        p_signal=signal.T,
        fmt=["16"] * 12,
        write_dir=str(tmp_path),
        adc_gain=[1000] * 12,
        baseline=[0] * 12,
    )
    rows = [LEAD_NAMES.index(name) for name in lead_names]
    answers = [
        classifier(str(tmp_path / "record")),
        classifier(signal.round(3), sampling_rate=100, lead_names=list(LEAD_NAMES)),
        classifier(signal.round(3)[rows], sampling_rate=100, lead_names=lead_names),
    ]
    for answer in answers[1:]:
        assert [finding["label"] for finding in answer] == [finding["label"] for finding in answers[0]]
        np.testing.assert_allclose([f["score"] for f in answer], [f["score"] for f in answers[0]], atol=1e-6)


def test_the_card_and_the_recipe_say_which_leads(one_or_three_leads, simulated_folder, simulated_cache, tmp_path):
    folder, lead_names = one_or_three_leads
    card = ModelCard.load(folder / "README.md").text
    assert f"classification of {len(lead_names)}-lead ECGs ({', '.join(lead_names)}): it gives" in card
    assert f"| leads | {' '.join(lead_names)} |" in card
    assert f"Of a record with more leads only {', '.join(lead_names)} " in card
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["lead_names"] == lead_names
    statistics = json.loads((folder / "preprocessor_config.json").read_text())
    assert len(statistics["std"]) == len(lead_names)
    # The recipe makes the same model again.
    place = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "again"}
    if "model_name_or_path" in recipe:
        place["model_name_or_path"] = SHIPPED
    cli.train(["--config", str(folder / "recipe.yaml"), *flags(**place), "--use_cpu", "--disable_tqdm", "true"])
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")
    first = AutoModelForSequenceClassification.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_the_checkpoint_is_evaluated_on_its_leads(one_or_three_leads, simulated_folder, simulated_cache, tmp_path):
    folder, _ = one_or_three_leads
    place = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "evaluation"}
    metrics = cli.evaluate(flags(model_name_or_path=folder, num_bootstrap_resamples=20, use_cpu=True, **place))
    results = json.loads((folder / "all_results.json").read_text())
    assert metrics["macro_auroc"] == pytest.approx(results["test_macro_auroc"])


def test_pre_training_takes_the_leads_that_it_is_given(simulated_folder, simulated_cache, tmp_path):
    place = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "probe_every": 0, "max_steps": 1}
    settings = {"per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True, **place}
    settings |= {"model_name_or_path": SHIPPED, "output_dir": tmp_path / "encoder"}
    cli.pretrain([*flags(**settings), "--lead_names", "II", "V2"])
    encoder = AutoModel.from_pretrained(tmp_path / "encoder")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "encoder")
    assert encoder.config.lead_names == extractor.lead_names == ["II", "V2"]


def test_bad_leads_end_the_command_before_anything_is_written(simulated_folder, simulated_cache, tmp_path):
    place = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    with pytest.raises(ValueError, match="`lead_names` must list some of I II III .* got .*V9"):
        cli.train([*flags(**QUICK, **place), "--lead_names", "I", "V9"])
    with pytest.raises(ValueError, match="`lead_names` must list some of"):
        RecordArguments(data_dir="x", lead_names=[])
    small_model(lead_names=["I", "II"]).save_pretrained(tmp_path / "two")
    small_extractor(lead_names=["I", "II"]).save_pretrained(tmp_path / "two")
    settings = {name: value for name, value in QUICK.items() if name != "architecture"}
    with pytest.raises(ValueError, match="names V1, which the model does not take: it has I II"):
        cli.train([*flags(**settings, **place, model_name_or_path=tmp_path / "two"), "--lead_names", "I", "V1"])
    assert not (tmp_path / "run").exists()


def test_an_age_is_learned_from_one_lead(tmp_path):
    """The encoder of twelve leads, restricted to lead I, and records that have no other."""
    model, extractor = restrict_leads(*shipped_classifier(), ["I"])
    model.replace_head({0: "age", 1: "st"}, {"age": "age in years"}, "regression")
    splits = {
        name: records("regression", count, seed, lead_names=["I"])
        for seed, (name, count) in enumerate({"train": 60, "validation": 30, "test": 30}.items())
    }
    trainer = trainer_of("regression", tmp_path / "run", splits, model, extractor, stages=["probe"])
    results = trainer.post_train()
    assert results["test_r2"] > 0.7
    card = ModelCard.load(tmp_path / "run/README.md").text
    assert "for regression from 1-lead ECGs (I): it gives a number for each of its targets (age, st)." in card
    assert "| age | age in years | 30 | " in card
    answer = pipeline("ecg-classification", model=str(tmp_path / "run"))(splits["test"][0])
    true = splits["test"][0]["labels"][0]
    assert answer[0]["name"] == "age in years" and answer[0]["value"] == pytest.approx(true, abs=20)
