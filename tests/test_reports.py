"""Pre-training by the words of reports: words, loss, runs, what is never read, and what is refused."""

import csv
import json
import math
import shutil
import unicodedata

import numpy as np
import pandas as pd
import pytest
import small_models
import torch
import yaml
from forked import launch_forked
from test_distributed import steps_of
from test_pretraining import RESUMABLE, Killed, arguments, extractor, own_records, run_cli, small_model, weights_of
from transformers import AutoModel, AutoModelForPreTraining

from ecg_hf import (
    ECGTransformerForMultiLabel,
    ECGTransformerForPreTraining,
    ECGTransformerModel,
    PreTrainer,
    cli,
    plotting,
)
from ecg_hf.pretraining.arguments import REPORT_FIELDS
from ecg_hf.pretraining.crops import Augmentation, Crops
from ecg_hf.pretraining.records import table_files
from ecg_hf.pretraining.run import RecordArguments, load_training_records
from ecg_hf.pretraining.words import ReportWords, word_loss, words_of

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

SENTINEL = "klabusterbeere"


@pytest.fixture(scope="module", autouse=True)
def small_figures():
    """Drawing them takes longer than these short runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "DOTS_PER_INCH", 30)
        yield


def copy_with_reports(folder, target, report_of):
    """A copy of a PTB-XL folder whose reports are what a function makes of each row of its table."""
    shutil.copytree(folder, target, symlinks=True)
    table = pd.read_csv(target / "ptbxl_database.csv")
    table["report"] = [report_of(row) for _, row in table.iterrows()]
    table.to_csv(target / "ptbxl_database.csv", index=False)
    return target


def report_of(row) -> str:
    """One record in three has none; records of the validation and test folds have a word of their own."""
    if row["ecg_id"] % 3 == 0:
        return ""
    return f"Ruhe-EKG: {row['report']} {SENTINEL if row['strat_fold'] > 8 else ''}"


@pytest.fixture(scope="module")
def folder(simulated_folder, tmp_path_factory):
    return copy_with_reports(simulated_folder, tmp_path_factory.mktemp("reports") / "ptbxl", report_of)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache of reports")


@pytest.fixture(scope="module")
def records(folder, cache):
    return load_training_records(RecordArguments(data_dir=str(folder), cache_dir=cache), 2.5, "report")


@pytest.fixture(scope="module")
def finished(folder, cache, tmp_path_factory):
    """A run of the command line by reports and contrast: its folder and results."""
    output = tmp_path_factory.mktemp("by reports") / "run"
    return output, run_cli(folder, cache, output, **BY_REPORTS, num_train_epochs=1, probe_every=1)


BY_REPORTS = {"report_column": "report", "contrastive_weight": 0.5, "report_weight": 2.0}
WORDS_ALONE = {"report_column": "report", "contrastive_weight": 0, "crops_per_record": 1}


def make_trainer(records, output_dir, model=None, **fields) -> PreTrainer:
    fields = {"report_column": "report", "report_min_count": 5, **fields}
    model = model or small_model()
    args = arguments(output_dir, **fields)
    return PreTrainer(model=model, args=args, train_dataset=records, feature_extractor=extractor())


# ---- Words ----


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Sinusrhythmus, QRS(T) abnormal; ST-Senkung", {"sinusrhythmus", "qrs", "t", "abnormal", "st", "senkung"}),
        ("QT-VERLÄNGERUNG qt-verlängerung", {"qt", "verlängerung"}),
        (unicodedata.normalize("NFD", "verlängerung é"), {"verlängerung", "é"}),
        ("Überleitung 2:1, V1_V2 0,2 mV", {"überleitung", "2", "1", "v1", "v2", "0", "mv"}),
        ("Нормальная ЭКГ", {"нормальная", "экг"}),
        ("सामान्य ईसीजी", {"सामान्य", "ईसीजी"}),
        ("窦性心律 正常", {"窦性心律", "正常"}),
        ("--- . ,", set()),
        ("", set()),
        (None, set()),
    ],
)
def test_words_are_those_of_any_script_with_their_accents(text, words):
    assert words_of(text) == words


def test_words_are_counted_by_record_and_listed_from_a_minimum_on():
    reports = ReportWords(["a b b", "b", None, "c a b", " ", "--"], min_count=2)
    assert reports.words == ["a", "b"] and reports.counts.tolist() == [2, 3]
    assert reports.has_text.tolist() == [True, True, False, True, False, False]
    assert reports.targets([3, 2, 1, 5]).tolist() == [[1, 1], [-100, -100], [0, 1], [-100, -100]]
    assert reports.as_csv() == "word,reports\na,2\nb,3\n"
    assert reports.log_odds() == pytest.approx([math.log(2.5 / 1.5), math.log(3.5 / 0.5)])
    assert reports.weights("none").tolist() == [1, 1]
    rarity = reports.weights("rarity")
    assert rarity.mean() == pytest.approx(1) and rarity[0] / rarity[1] == pytest.approx(math.sqrt(3 / 2))
    with pytest.raises(ValueError, match="at least 4 records: of 6 records 3 have a report, .* occurs in 3. Lower"):
        ReportWords(["a b b", "b", None, "c a b", " ", "--"], min_count=4)


def test_the_loss_of_words_is_that_of_each_crop_and_word():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, requires_grad=True)
    targets = torch.tensor([[1, 0, 0], [-100] * 3, [0, 1, 1], [-100] * 3, [0, 0, 0]], dtype=torch.int8)
    weights = torch.tensor([0.5, 1.0, 1.5])
    expected = 0
    for crop in (0, 2, 4):
        for word in range(3):
            chance = 1 / (1 + math.exp(-logits[crop, word].item()))
            expected -= weights[word].item() * math.log(chance if targets[crop, word] else 1 - chance) / 3 / 3
    loss = word_loss(logits, targets, weights, 3)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert not logits.grad[[1, 3]].any() and logits.grad[[0, 2, 4]].all()


def test_each_crop_has_the_words_of_its_record(records):
    reports = ReportWords(records["report"], 5)
    crops = Crops(records, extractor(), Augmentation(), 0, crops_per_record=3, reports=reports)
    batch = crops.__getitems__([(0, index) for index in (7, 0, 50, 11)])
    text_of = dict(zip(records["ecg_id"], records["report"], strict=True))
    assert len(batch["report_words"]) == 12 and {text_of[i] is None for i in batch["record_ids"].tolist()} == {
        False,
        True,
    }
    for record_id, row in zip(batch["record_ids"].tolist(), batch["report_words"].tolist(), strict=True):
        found = words_of(text_of[record_id])
        assert row == [int(word in found) if found else -100 for word in reports.words]
    plain = Crops(records, extractor(), Augmentation(), 0, crops_per_record=3).__getitems__([(0, 7)])
    assert "report_words" not in plain


# ---- The model ----


def test_the_word_head_begins_with_frequencies_and_stays_in_pre_training_checkpoints(tmp_path):
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    log_odds = torch.tensor([-2.0, 0.5, 3.0])
    model.set_report_words(log_odds)
    values = torch.randn(4, 12, 250)
    output = model(values)
    assert torch.equal(output.word_logits, log_odds.expand(4, 3)) and output.loss is None and output.accuracy is None
    assert model(values, record_ids=torch.tensor([0, 0, 1, 1])).loss is not None
    torch.nn.init.normal_(model.word_head.weight)
    model.save_pretrained(tmp_path / "checkpoint")
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "checkpoint")
    assert again.config.num_report_words == 3 and torch.equal(again.word_head.weight, model.word_head.weight)
    encoder = ECGTransformerModel.from_pretrained(tmp_path / "checkpoint")
    assert all(torch.equal(value, model.base_model.state_dict()[name]) for name, value in encoder.state_dict().items())
    with pytest.warns(UserWarning, match="has no trained head"):
        ECGTransformerForMultiLabel.from_pretrained(tmp_path / "checkpoint")
    again.set_report_words(None)
    assert again.state_dict().keys() == before.keys() and "num_report_words" not in again.config.to_dict()
    assert again(values).word_logits is None


# ---- Runs ----


def test_a_run_leaves_an_encoder_and_the_words(finished, folder):
    output, results = finished
    assert results["loss"] == pytest.approx(0.5 * results["contrastive_loss"] + 2 * results["word_loss"], rel=1e-5)
    assert results["num_records"] == 128 and "probe_macro_auroc" in results
    table = pd.read_csv(folder / "ptbxl_database.csv")
    texts = table.loc[table["strat_fold"] <= 8, "report"]
    listed = {row["word"]: int(row["reports"]) for row in csv.DictReader(open(output / "report_words.csv"))}
    counts = pd.Series([word for text in texts.dropna() for word in words_of(text)]).value_counts()
    assert listed == counts[counts >= 20].to_dict() and {"ruhe", "ekg"} < listed.keys()

    model = AutoModel.from_pretrained(output)
    assert type(model) is ECGTransformerModel and "num_report_words" not in (output / "config.json").read_text()
    assert not any(name.startswith(("word_head", "projection_head")) for name in weights_of(output))
    trained = ECGTransformerForPreTraining.from_pretrained(output / "_stages/pretrain/checkpoint-2")
    assert trained.word_head.weight.shape == (len(listed), 128) and trained.word_head.weight.any(dim=1).all()
    told = f"{len(listed)} words of {texts.notna().sum()} reports, of 128 simulated ECGs"
    assert model.config.provenance["pretraining_reports"] == told
    card = " ".join((output / "README.md").read_text().split())
    assert f"Supervised by the words of the reports ({told}). Where labels were made from these reports" in card
    assert "weak supervision, not label-free learning" in card and "pre-trained with the words of reports" in card
    assert "without labels on" not in card and "learned from reports of that fold" in card
    recipe = yaml.safe_load((output / "recipe.yaml").read_text())
    assert {name: recipe[name] for name in BY_REPORTS} == BY_REPORTS and recipe["report_min_count"] == 20
    history = json.loads((output / "log_history.json").read_text())
    assert all({"word_loss", "contrastive_loss", "accuracy"} <= entry.keys() for entry in history if "loss" in entry)


def test_reports_of_validation_and_test_are_in_no_file_of_a_run(finished, folder, cache):
    assert SENTINEL in (folder / "ptbxl_database.csv").read_text()
    for place in (finished[0], cache):
        files = [file for file in place.rglob("*") if file.is_file()]
        assert len(files) > 1 and not [file for file in files if SENTINEL.encode() in file.read_bytes()]
    copied = copy_with_reports(folder, finished[0].parent / "other", lambda row: SENTINEL)
    dataset = load_training_records(RecordArguments(data_dir=str(copied), cache_dir=cache), 2.5, "report")
    assert set(dataset["report"]) == {SENTINEL}  # the test would notice


def test_reports_change_neither_the_cache_nor_runs_without_them(records, folder, cache, finished, tmp_path):
    files = {file: file.stat().st_mtime_ns for file in cache.rglob("*.arrow")}
    plain = load_training_records(RecordArguments(data_dir=str(folder), cache_dir=cache), 2.5)
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.arrow")} == files
    assert plain.column_names == [name for name in records.column_names if name != "report"]
    assert not arguments(tmp_path).recipe().keys() & set(REPORT_FIELDS)
    for name, dataset in {"plain": plain, "with a column": records}.items():
        make_trainer(dataset, tmp_path / name, report_column=None, report_min_count=20, max_steps=1).pretrain()
    first, second = weights_of(tmp_path / "plain"), weights_of(tmp_path / "with a column")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "pretraining_reports" not in (tmp_path / "plain/config.json").read_text()
    assert "report" not in (tmp_path / "plain/recipe.yaml").read_text().replace("report_to", "")


def test_a_post_trained_model_says_that_reports_supervised_its_encoder(
    finished, simulated_folder, simulated_cache, tmp_path
):
    settings = {
        "model_name_or_path": finished[0],
        "data_dir": simulated_folder,
        "cache_dir": simulated_cache,
        "output_dir": tmp_path / "run",
        "stages": "probe",
        "probe_num_train_epochs": 1,
        "max_train_records": 32,
        "num_bootstrap_resamples": 2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    cli.train([str(part) for name, value in settings.items() for part in (f"--{name}", value)])
    card = (tmp_path / "run/README.md").read_text()
    assert "**What was its pre-training told?** Supervised by the words of the reports (" in card


def test_words_are_learned_from_signals(records, tmp_path):
    fields = {"learning_rate": 1e-2, "lead_mask_probability": 0, "noise": 0, "num_train_epochs": 12}
    trainer = make_trainer(records, tmp_path / "run", **WORDS_ALONE, **fields, per_device_train_batch_size=16)
    results = trainer.pretrain()
    with_text = sum(text is not None for text in records["report"])
    assert 0 < with_text < 128 and results["num_records"] == with_text
    losses = [entry["word_loss"] for entry in trainer.state.log_history if "word_loss" in entry]
    assert not {"accuracy", "contrastive_loss"} & results.keys() and results["word_loss"] == results["loss"]
    # It begins with what frequencies tell.
    shares = trainer.reports.counts / with_text
    entropy = -np.mean(shares * np.log(shares) + (1 - shares) * np.log(np.maximum(1 - shares, 1e-9)))
    assert np.mean(losses[:2]) == pytest.approx(entropy, rel=0.2)
    assert np.mean(losses[-10:]) < 0.9 * entropy
    untrained = small_model()
    assert torch.equal(trainer.model.projection_head.fc1.weight, untrained.projection_head.fc1.weight)


def test_rare_words_count_more_in_the_loss_by_their_weights(records, tmp_path):
    gradients = {}
    for kind in ("none", "rarity"):
        trainer = make_trainer(records, tmp_path / kind, **WORDS_ALONE, report_word_weights=kind)
        batch = trainer.training_windows(trainer.train_dataset).__getitems__([(0, index) for index in range(20)])
        trainer.compute_loss(trainer.model, batch).backward()
        gradients[kind] = trainer.model.word_head.bias.grad.numpy()
    factors = trainer.reports.weights("rarity")
    assert factors.max() > 1.5 * factors.min() and np.abs(gradients["none"]).max() > 1e-4
    np.testing.assert_allclose(gradients["rarity"], factors * gradients["none"], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("fields", [{"contrastive_weight": 0.3, "report_word_weights": "rarity"}, WORDS_ALONE])
def test_a_killed_and_resumed_run_ends_with_the_bits_of_one_left_alone(records, tmp_path, fields):
    fields = {**RESUMABLE, "num_train_epochs": 2, **fields}
    make_trainer(records, tmp_path / "alone", **fields).pretrain()
    trainer = make_trainer(records, tmp_path / "killed", **fields)
    with small_models.stopped_at(trainer, 3, Killed):
        trainer.pretrain()
    resumed = make_trainer(records, tmp_path / "killed", **fields)
    resumed.pretrain(resume_from_checkpoint=True)
    first, second = weights_of(tmp_path / "alone"), weights_of(tmp_path / "killed")
    assert all(torch.equal(first[name], second[name]) for name in first)
    last = f"_stages/pretrain/checkpoint-{resumed.state.max_steps}"
    heads = [weights_of(tmp_path / name / last) for name in ("alone", "killed")]
    assert heads[0]["word_head.weight"].any() and torch.equal(*(head["word_head.weight"] for head in heads))
    changed = records.remove_columns("report").add_column("report", ["ekg ruhe"] * len(records))
    with pytest.raises(ValueError, match="cannot be resumed with other settings: .*`data.report_words` was"):
        make_trainer(changed, tmp_path / "killed", **fields).pretrain(resume_from_checkpoint=True)


def train_in_two_processes(folder, cache, output, fields):
    records = load_training_records(RecordArguments(data_dir=folder, cache_dir=cache), 2.5, "report")
    trainer = make_trainer(records, output, per_device_train_batch_size=16, **fields)
    trainer.pretrain()
    if trainer.is_world_process_zero():
        with open(output + ".json", "w") as file:
            json.dump([steps_of(trainer), figures_of(trainer)], file)


def figures_of(trainer) -> list[float]:
    return [entry["word_loss"] for entry in trainer.state.log_history if "word_loss" in entry]


@pytest.mark.distributed
@pytest.mark.parametrize("fields", [{"contrastive_weight": 0.1}, WORDS_ALONE], ids=["both", "words alone"])
def test_two_processes_train_as_one_with_the_whole_batch(records, folder, cache, tmp_path, fields):
    fields = {"num_train_epochs": 1, "save_strategy": "no", **fields}
    places = (str(folder), str(cache), str(tmp_path / "two"))
    processes = launch_forked(tmp_path / "two", train_in_two_processes, *places, fields)
    assert [process.wait() for process in processes] == [0, 0], [process.stderr[-2000:] for process in processes]
    alone = make_trainer(records, tmp_path / "one", **fields)
    alone.pretrain()
    steps, figures = json.loads((tmp_path / "two.json").read_text())
    np.testing.assert_allclose(steps, steps_of(alone), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(figures, figures_of(alone), atol=1e-5, rtol=1e-5)


def test_bfloat16_trains_and_a_run_goes_on_without_reports(finished, folder, cache, records, tmp_path):
    results = make_trainer(records, tmp_path / "bf16", bf16=True, max_steps=1).pretrain()
    assert math.isfinite(results["word_loss"])
    checkpoint = finished[0] / "_stages/pretrain/checkpoint-2"
    run_cli(folder, cache, tmp_path / "run", model_name_or_path=checkpoint, max_steps=1, probe_every=0)
    after = ECGTransformerForPreTraining.from_pretrained(tmp_path / "run/_stages/pretrain/checkpoint-1")
    assert after.word_head is None
    assert "words of" in after.config.provenance["pretraining_reports"]  # its weights have seen them


# ---- Own records ----


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory):
    return own_records(tmp_path_factory.mktemp("own"), 12)


def write_table(path, reports, kind="csv"):
    frame = pd.DataFrame({"path": [f"r{index:03}" for index in range(len(reports))], "Befund": reports})
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    return path


def test_own_texts_in_any_language_are_learned(own_folder, tmp_path):
    reports = ["Ритм синусовый, норма"] * 4 + ["Vorhofflimmern; ÜBERLEITUNG 2:1"] * 4 + [None, "", " ", "…"]
    for kind in ("csv", "parquet"):
        table = write_table(own_folder / f"texts.{kind}", reports, kind)
        texts = [file.report for file in table_files(table, "path", None, None, report_column="Befund")]
        assert texts == [*reports[:8], None, None, None, "…"]
    output = tmp_path / "run"
    words = {"report_column": "Befund", "report_min_count": 4, "max_steps": 1, "per_device_train_batch_size": 4}
    results = run_cli(None, tmp_path, output, table=table, probe_every=None, **words)
    assert results["num_records"] == 12
    listed = [row["word"] for row in csv.DictReader(open(output / "report_words.csv", encoding="utf-8"))]
    assert listed == sorted(["ритм", "синусовый", "норма", "vorhofflimmern", "überleitung", "2", "1"])
    provenance = AutoModel.from_pretrained(output).config.provenance
    assert provenance["pretraining_reports"] == "7 words of 8 reports, of 12 own records"


# ---- Bad input ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contrastive_weight": 0.5}, "`contrastive_weight` can only be set with `report_column`"),
        (
            {"report_min_count": 5, "report_weight": 2},
            "`report_min_count`, `report_weight` can only be set",
        ),
        ({"report_column": "report", "report_min_count": 0}, "`report_min_count` must be at least 1, got 0"),
        ({"report_column": "report", "report_weight": 0}, "`report_weight` must be above 0 and finite, got 0"),
        ({"report_column": "report", "report_weight": math.nan}, "`report_weight` must be above 0"),
        ({"report_column": "report", "contrastive_weight": -1}, "`contrastive_weight` must be at least 0"),
        ({"report_column": "report", "report_word_weights": "idf"}, "must be none or rarity, got `idf`"),
        ({"report_column": "report", "crops_per_record": 1}, "must be at least 2, got 1: one has no partner"),
        ({**WORDS_ALONE, "crops_per_record": 0}, "`crops_per_record` must be at least 1, got 0"),
    ],
)
def test_impossible_fields_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **fields)


def test_records_without_a_usable_text_are_refused(folder, cache, records, own_folder, tmp_path):
    output = tmp_path / "run"

    def refused(message, data_dir=None, **values):
        with pytest.raises(ValueError, match=message):
            run_cli(data_dir, cache, output, **{"report_column": "report", "per_device_train_batch_size": 4, **values})

    refused("PTB-XL has its reports in the column `report`, not `device`", folder, report_column="device")
    refused("`allow_test_folds` is refused beside `report_column`", folder, allow_test_folds=True)
    refused("needs a table: a folder of records .* has no reports. Give `--table`", own_folder)
    table = write_table(own_folder / "bad.csv", ["a"] * 12)
    refused("`report_column`: .* has no column `report`; it has path, Befund", table=table)
    refused("No word occurs in the reports of at least 20 records", table=table, report_column="Befund")
    write_table(table, [None] * 12)
    refused("of 12 records 0 have a report", table=table, report_column="Befund")
    numbers = write_table(own_folder / "bad.parquet", [1.5] * 12, "parquet")
    refused(r"must hold texts, or nothing; .* row 1 \(1.5\)", table=numbers, report_column="Befund")
    assert not output.exists()
    with pytest.raises(ValueError, match="the records have no column `report`"):
        make_trainer(records.remove_columns("report"), output)


def test_own_tables_with_test_records_of_ptbxl_are_refused(folder, tmp_path):
    table = pd.read_csv(folder / "ptbxl_database.csv").rename(columns={"filename_lr": "path"})
    table.to_csv(tmp_path / "mine.csv", index=False)
    given = {"table": tmp_path / "mine.csv", "report_column": "report", "probe_every": None}
    with pytest.raises(ValueError, match=r"PTB-XL's and not known to be of its training folds[\s\S]*of fold 10"):
        run_cli(folder, tmp_path, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
    table[table["strat_fold"] <= 8].to_csv(tmp_path / "mine.csv", index=False)
    run_cli(folder, tmp_path, tmp_path / "run", **given, max_steps=1)
    provenance = AutoModel.from_pretrained(tmp_path / "run").config.provenance
    assert provenance["ptbxl_folds"] == list(range(1, 9)) and "PTB-XL's folds" in provenance["pretraining_reports"]
    assert "PTB-XL's statements were made from these reports, so this" in (tmp_path / "run/README.md").read_text()
    assert not [
        file for file in (tmp_path / "run").rglob("*") if file.is_file() and SENTINEL.encode() in file.read_bytes()
    ]
