"""What cards say of where a model comes from, their commands, and cards that people have edited."""

import contextlib
import json
import pathlib
import re
import shlex
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import small_models
import yaml
from huggingface_hub import ModelCard
from test_post_training import make_trainer
from test_pretraining import arguments, own_records, run_cli, small_model

from ecg_hf import ECGTransformerFeatureExtractor, ECGTransformerForMultiLabel, PreTrainer, cli
from ecg_hf.card_text import update_card
from ecg_hf.cards import write_model_card
from ecg_hf.hub import write_release
from ecg_hf.pretraining.records import folder_files, load_records

ROOT = pathlib.Path(__file__).parents[1]
ALL_SHIPPED = sorted(path for path in (ROOT / "hub_cards").iterdir() if path.is_dir())
SHIPPED = ROOT / "hub_cards/ecg-transformer-ptbxl-100hz"

QUICK = {"max_steps": 2, "per_device_train_batch_size": 16, "num_bootstrap_resamples": 20, "probe_num_train_epochs": 1}
QUICK |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
QUICK |= {"use_cpu": True, "disable_tqdm": True}


def flags(**values) -> list[str]:
    return [str(part) for name, value in values.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def encoder(simulated_folder, simulated_cache, tmp_path_factory):
    """An own encoder, pre-trained from the command line."""
    output = tmp_path_factory.mktemp("encoders") / "my-encoder"
    run_cli(simulated_folder, simulated_cache, output, max_steps=1, probe_every=0)
    return output


@pytest.fixture(scope="module")
def classifier(encoder, simulated_folder, simulated_cache, tmp_path_factory):
    """A model that the command line has post-trained from `encoder`."""
    output = tmp_path_factory.mktemp("classifiers") / "run"
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": output}
    cli.train(flags(**QUICK, **places, model_name_or_path=encoder))
    return output


# ---- Where a model comes from ----


def test_a_run_from_python_names_the_shipped_encoder_its_licence_and_its_data(simulated_splits, tmp_path):
    with pytest.warns(UserWarning, match="has no trained head"):
        model = ECGTransformerForMultiLabel.from_pretrained(SHIPPED)
    model.replace_head(dict(enumerate(small_models.LABELS)))
    extractor = ECGTransformerFeatureExtractor.from_pretrained(SHIPPED)
    make_trainer(simulated_splits, tmp_path / "run", model, extractor, stages=["probe"]).post_train()
    card = ModelCard.load(tmp_path / "run/README.md")
    assert "**Base checkpoint**: `ecg-transformer-ptbxl-100hz`, licence apache-2.0." in card.text
    assert "No: it was pre-trained on 17,418 records of PTB-XL's folds 1 to 8" in card.text
    assert "random weights" not in card.text and card.data.license == "apache-2.0"
    assert "# ecg-transformer-ptbxl-100hz-5-labels" in card.text
    # The next stage starts from this folder, and loses nothing.
    again = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "run")
    make_trainer(simulated_splits, tmp_path / "again", again, extractor, stages=["probe"]).post_train()
    card = ModelCard.load(tmp_path / "again/README.md")
    assert "**Base checkpoint**: `run`, licence apache-2.0." in card.text and card.data.license == "apache-2.0"
    assert "17,418 records of PTB-XL's folds 1 to 8" in card.text and str(tmp_path) not in card.text


def test_the_command_line_keeps_base_and_licence(encoder, classifier):
    card = ModelCard.load(classifier / "README.md")
    assert "**Base checkpoint**: `my-encoder`, licence apache-2.0." in card.text
    assert card.data.license == "apache-2.0" and "license_name" not in card.data.to_dict()
    recipe = yaml.safe_load((classifier / "recipe.yaml").read_text())
    assert "architecture" not in recipe and recipe["model_name_or_path"] == "my-encoder"
    assert str(encoder) not in card.text


def test_a_model_from_random_weights_has_a_licence_and_no_base(simulated_splits, tmp_path):
    make_trainer(simulated_splits, tmp_path / "run", stages=["probe"]).post_train()
    card = ModelCard.load(tmp_path / "run/README.md")
    assert "none, the encoder" in card.text and "No, there was no pre-training" in card.text
    assert card.data.license == "apache-2.0" and json.loads((tmp_path / "run/config.json").read_text())["provenance"]
    model = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "run")
    make_trainer(simulated_splits, tmp_path / "next", model, stages=["probe"]).post_train()
    card = ModelCard.load(tmp_path / "next/README.md")
    assert "`run`, licence apache-2.0" in card.text and "Not known" in card.text


def test_a_card_says_what_becomes_of_missing_leads_and_which_step_was_kept(simulated_splits, tmp_path):
    model = small_models.small_model(lead_layout="tokens", use_cls_token=False, pooling="mean")
    extractor = small_models.small_extractor(lead_tokens=True)
    fields = {"max_steps": 1, "probe_num_train_epochs": 1, "load_best_model_at_end": False}
    make_trainer(simulated_splits, tmp_path / "run", model, extractor, **fields).post_train()
    card = (tmp_path / "run/README.md").read_text()
    assert "leads that are missing are left out" in card and "set to 0" not in card
    assert 'The weights after "Fine-tuning with stochastic depth" are those of its last step' in card
    assert "the epoch of the probe was selected by macro_auroc" in card
    assert "\nThe thresholds were selected on the validation records." in card and "best checkpoint" not in card


def test_an_encoders_card_has_the_title_of_its_folder_or_repository(encoder, tmp_path):
    assert "\n# my-encoder\n" in (encoder / "README.md").read_text()
    assert "\n# release\n" in (write_release(encoder, tmp_path / "release") / "README.md").read_text()
    assert "\n# hers\n" in write_model_card(tmp_path / "release", "alice/hers")
    assert (SHIPPED / "README.md").read_text().count("# ecg-transformer-ptbxl-100hz\n") == 1


def test_own_records_are_no_data_set_of_the_hub(simulated_splits, tmp_path):
    folder = own_records(tmp_path / "own", 16)
    run_cli(folder, tmp_path / "cache", tmp_path / "encoder", max_steps=1, per_device_train_batch_size=8)
    data = {name: records.remove_columns("device") for name, records in simulated_splits.items()}
    for records in data.values():
        records.info.dataset_name = "my_hospital"
    make_trainer(data, tmp_path / "classifier", stages=["probe"]).post_train()
    for name in ("encoder", "classifier"):
        card = ModelCard.load(tmp_path / name / "README.md")
        assert card.data.datasets is None, name
    assert "16 own records" in (tmp_path / "encoder/README.md").read_text()


def test_an_encoder_that_python_pre_trained_says_on_what(tmp_path):
    records = load_records(folder_files(own_records(tmp_path / "own", 16)), 2.5, tmp_path)
    trainer = PreTrainer(
        model=small_model(),
        args=arguments(tmp_path / "run", max_steps=1, per_device_train_batch_size=8),
        train_dataset=records,
        feature_extractor=small_models.small_extractor(),
    )
    trainer.pretrain()
    card = (tmp_path / "run/README.md").read_text()
    assert "pre-trained without labels on 16 own records" in card and "None" not in card
    assert "started from Python" in card and "(9 and 10) were used for pre-training is not known" in card


HUB_HEADINGS = [
    "Model details",
    "Intended use and limitations",
    "How to use",
    "Training data",
    "Training procedure",
    "Evaluation",
    "Environmental and technical",
    "Citation",
]


def test_cards_have_the_headings_of_the_hub_and_the_curves(encoder, classifier):
    for folder in (encoder, classifier, SHIPPED):
        card = (folder / "README.md").read_text()
        assert re.findall(r"^## (.+)$", card, re.MULTILINE) == HUB_HEADINGS, folder.name
        assert "zhou2025posttraining" in card
        for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", card):
            assert (folder / picture).stat().st_size > 5000, picture
    card = (classifier / "README.md").read_text()
    assert "](reliability.png)" in card and "](precision_recall.svg)" in card
    assert "<svg" in (classifier / "precision_recall.svg").read_text()
    assert card.count("Validation after this stage: macro AUROC") == len(
        yaml.safe_load(read(classifier, "recipe"))["stages"]
    )
    assert "datasets" not in ModelCard.load(SHIPPED / "README.md").data.to_dict()


def read(folder, name: str) -> str:
    return (folder / f"{name}.yaml").read_text()


def test_a_card_keeps_curves_that_it_cannot_draw(classifier, tmp_path):
    folder = tmp_path / "release"
    write_release(classifier, folder)
    assert not (folder / "test_predictions.csv").exists()
    drawn = (folder / "precision_recall.png").read_bytes()
    assert drawn == (classifier / "precision_recall.png").read_bytes()
    assert "](precision_recall.png)" in (folder / "README.md").read_text()
    for name in ("precision_recall.png", "reliability.svg"):
        (folder / name).unlink()
    assert "reliability.png" not in write_model_card(folder) and "precision_recall" not in write_model_card(folder)


def test_metrics_have_the_bins_of_reliability(classifier):
    metrics = json.loads((classifier / "metrics.json").read_text())
    table = pd.read_csv(classifier / "test_predictions.csv")
    for label, bins in metrics["test"]["reliability"].items():
        places = np.minimum((table[f"prob_{label}"] * 10).astype(int), 9)
        assert bins["count"] == [int((places == place).sum()) for place in range(10)]
        assert bins["num_positive"] == [int(table[f"true_{label}"][places == place].sum()) for place in range(10)]
    assert metrics["validation"]["reliability"].keys() == metrics["test"]["reliability"].keys()


@pytest.mark.parametrize("absent", ["metrics.json", "recipe.yaml"])
def test_a_folder_that_is_no_finished_run_is_named_and_nothing_is_written(classifier, tmp_path, absent):
    run = shutil.copytree(classifier, tmp_path / "run")
    (run / absent).unlink()
    with pytest.raises(FileNotFoundError, match=f"`{run}` lacks `{absent}`"):
        cli.release([str(run), "--output_dir", str(tmp_path / "release")])
    assert list(tmp_path.iterdir()) == [run]


def test_a_release_with_code_loads_without_the_package(classifier, new_process, tmp_path):
    """The folder is taken by the library alone, as its card says; without code the card imports `ecg_hf`."""
    cli.release([str(classifier), "--output_dir", str(tmp_path / "bare")])
    cli.release([str(classifier), "--output_dir", str(tmp_path / "whole"), "--with_code"])
    (tmp_path / "new").touch()
    for folder in (classifier, tmp_path / "bare", tmp_path / "whole"):  # colleagues can read what they may read
        modes = {file.stat().st_mode for file in folder.iterdir() if file.is_file()}
        assert modes == {(tmp_path / "new").stat().st_mode}
    assert not list((tmp_path / "bare").glob("*.py"))
    assert "import ecg_hf" in snippets(tmp_path / "bare", "python")[0]
    (code,) = snippets(tmp_path / "whole", "python")
    assert "trust_remote_code=True" in code and "ecg_hf" not in code
    refuse = "import sys\nsys.modules['ecg_hf'] = None\n"
    done = new_process(refuse + code, cwd=tmp_path / "whole", HF_MODULES_CACHE=tmp_path / "modules")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5, done.stderr[-2000:]


def snippets(folder, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def test_the_python_of_a_card_runs_in_its_folder(encoder, classifier, tmp_path, monkeypatch, capsys):
    for folder in (encoder, classifier, *ALL_SHIPPED, write_release(classifier, tmp_path / "release")):
        monkeypatch.chdir(folder)
        (code,) = snippets(folder, "python")
        scope = {}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            exec(compile(code, str(folder / "README.md"), "exec"), scope)
        if "features" in scope:
            assert scope["features"].shape == (scope["model"].config.hidden_size,)
        else:
            assert len(capsys.readouterr().out.splitlines()) == len(scope["classifier"].model.config.labels)


def test_the_pictures_of_the_cards_that_ship_are_there():
    for folder in ALL_SHIPPED:
        promised = re.findall(r"\]\(([\w-]+\.(?:png|svg))\)", (folder / "README.md").read_text())
        assert promised and [name for name in promised if not (folder / name).is_file()] == [], folder.name


def test_the_shell_of_an_encoders_card_trains_from_its_folder(
    encoder, simulated_folder, simulated_cache, tmp_path, monkeypatch
):
    monkeypatch.chdir(encoder)
    command = shlex.split(snippets(encoder, "bash")[0].replace("path/to/ptb-xl", str(simulated_folder)))
    assert command[:2] == ["ecg-hf", "train"]
    command[command.index("../run")] = str(tmp_path / "run")
    cli.main([*command[1:], "--dry_run", "true", "--use_cpu", "true", "--cache_dir", str(simulated_cache)])
    shipped = [folder for folder in ALL_SHIPPED if snippets(folder, "bash")[0].startswith("ecg-hf train --model")]
    assert [folder.name for folder in shipped] == [SHIPPED.name, f"{SHIPPED.name}-reports"]
    assert all(snippets(folder, "bash")[0] == snippets(encoder, "bash")[0] for folder in shipped)


# ---- The command ----


def command_of(folder) -> str:
    return re.search(
        r"## Environmental and technical\n\n.*?```bash\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL
    )[1]


def repeat(folder, places: dict[str, pathlib.Path], output) -> pathlib.Path:
    """Run the command of a card in its folder, with the places that it leaves to the reader."""
    command = command_of(folder)
    for name, path in places.items():
        assert f"path/to/{name}" in command
        command = command.replace(f"path/to/{name}", str(path))
    assert "path/to" not in command
    program, *argv = shlex.split(command)
    assert program == "ecg-hf"
    argv[argv.index("--output_dir") + 1] = str(output)
    extra = ["--use_cpu", "true", "--disable_tqdm", "true", "--cache_dir", str(output) + "-cache"]
    with contextlib.chdir(folder):
        cli.main([*argv, *extra])
    return output


def same_run(first, second) -> bool:
    recipes = [yaml.safe_load((folder / "recipe.yaml").read_text()) for folder in (first, second)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second)]
    return recipes[0] == recipes[1] and weights[0] == weights[1]


def test_the_command_of_a_classifiers_card_gives_the_same_model(classifier, encoder, simulated_folder, tmp_path):
    again = repeat(classifier, {"ptb-xl": simulated_folder, "my-encoder": encoder}, tmp_path / "again")
    assert same_run(classifier, again)


def test_the_command_of_a_card_names_each_file_of_its_recipe(tmp_path):
    for folder in ALL_SHIPPED:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        names = [recipe.get("model_name_or_path"), *recipe.get("teacher_predictions", ())]
        assert all(f"path/to/{name} " in command_of(folder) for name in names if name), folder.name
    again = shutil.copytree(folder, tmp_path / folder.name)
    write_model_card(again)
    assert "--teacher_predictions" in command_of(again) and command_of(again) == command_of(folder)


def test_the_command_of_an_encoders_card_gives_the_same_encoder(encoder, simulated_folder, tmp_path):
    assert same_run(encoder, repeat(encoder, {"ptb-xl": simulated_folder}, tmp_path / "again"))


@pytest.mark.parametrize("source", ["records", "table.csv"])
def test_the_command_of_an_encoder_of_own_records_from_a_base(encoder, simulated_folder, tmp_path, source):
    folder = own_records(tmp_path / "own", 16)
    given = {"data_dir": folder}
    if source == "table.csv":
        (tmp_path / "table.csv").write_text("file\n" + "\n".join(f"own/r{index:03}" for index in range(16)) + "\n")
        given = {"data_dir": None, "train_table": tmp_path / "table.csv", "record_column": "file"}
    settings = {"max_steps": 1, "per_device_train_batch_size": 8, "model_name_or_path": encoder}
    run_cli(None, tmp_path / "cache", tmp_path / "run", **settings, **given, probe_data_dir=simulated_folder)
    places = {source: folder if source == "records" else tmp_path / "table.csv", "my-encoder": encoder}
    again = repeat(tmp_path / "run", {**places, "ptb-xl": simulated_folder}, tmp_path / "again")
    assert same_run(tmp_path / "run", again)


# ---- Cards that people have edited ----

NEW = (
    "---\nlicense: mit\n---\n<!-- generated: a -->\n# Model\n\nnew a\n<!-- /generated -->\n\n"
    "<!-- generated: b -->\n## Use\n\nnew b\n<!-- /generated -->\n"
)
EDITED = (
    NEW.replace("new", "old").replace("<!-- generated: b", "## Ours\n\nBeware.\n\n<!-- generated: b") + "\nLast.\n"
)

HARMLESS = {
    "as it is": lambda card: card,
    "CRLF": lambda card: card.replace("\n", "\r\n"),
    "old Mac": lambda card: card.replace("\n", "\r"),
    "byte order mark": lambda card: "\ufeff" + card,
    "no blanks": lambda card: card.replace("<!-- ", "<!--").replace(" -->", "-->"),
    "more blanks": lambda card: (
        card.replace("<!-- ", "<!--   ").replace(" -->", "\t -->").replace("generated:", "generated :")
    ),
    "blanks behind": lambda card: card.replace("-->\n", "-->  \n"),
    "blanks in front": lambda card: card.replace("<!--", "  <!--"),
    "capitals": lambda card: card.replace("generated", "Generated"),
    "a mark over lines": lambda card: card.replace("<!-- generated: a -->", "<!--\ngenerated: a\n-->"),
    "no line end behind": lambda card: card.replace("-->\n", "-->"),
    "a rule of blanks in the metadata": lambda card: card.replace("---\n", "---  \n"),
}


@pytest.mark.parametrize("edit", HARMLESS)
def test_marks_that_an_editor_has_changed_are_recognised(edit):
    card = update_card(NEW, HARMLESS[edit](EDITED))
    assert "old" not in card and card.count("<!-- generated: ") == card.count("<!-- /generated -->") == 2
    assert card.count("Beware.") == card.count("## Ours") == card.count("Last.") == 1
    assert card.index("new a") < card.index("## Ours") < card.index("Beware.") < card.index("new b")
    assert card.index("new b") < card.index("Last.") and card.count("license") == 1
    assert update_card(NEW, card) == card and "\r" not in card


DAMAGE = {
    "closing lost": (("<!-- /generated -->", "", 1), "`<!-- generated: a -->` has no `<!-- /generated -->` before"),
    "last closing lost": (("b\n<!-- /generated -->", "b", 1), "`<!-- generated: b -->` has no `<!-- /generated -->`"),
    "opening lost": (
        ("<!-- generated: a -->", "", 1),
        "`<!-- /generated -->` has no `<!-- generated: NAME -->` before",
    ),
    "opening cut": (("<!-- generated: a -->", "<!-- generated: a", 1), "the mark `<!-- generated: a` cannot be read"),
    "no name": (("<!-- generated: a -->", "<!-- generated -->", 1), "the mark `<!-- generated -->` cannot be read"),
    "closing cut": (("<!-- /generated -->", "<!-- /generated", 1), "the mark `<!-- /generated` cannot be read"),
    "dashes merged": (("<!-- /generated -->", "<! – /generated –>", 1), "generated"),
    "twice": (("<!-- generated: b", "<!-- generated: a", 1), "the section `a` is there twice"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_mark_is_named_and_nothing_is_written(damage):
    (old, new, count), message = DAMAGE[damage]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        update_card(NEW, EDITED.replace(old, new, count))
    assert "restore the mark" in str(error.value) and "line " in str(error.value)


def test_a_card_whose_marks_are_all_gone_is_not_doubled(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "run", ignore=shutil.ignore_patterns("_stages"))
    before = re.sub(r"<!--.*?-->\n", "", (folder / "README.md").read_text())
    (folder / "README.md").write_text(before)
    with pytest.raises(ValueError, match="none of their marks"):
        write_model_card(folder)
    assert (folder / "README.md").read_text() == before


def test_a_passage_that_both_cards_have_stays_once_however_often_they_are_merged(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "run", ignore=shutil.ignore_patterns("_stages"))
    card = (folder / "README.md").read_text()
    limits = "<!-- generated: limits -->"
    passage = "## Seen in our clinic\n\nBeware.\n\n"
    published = card.replace(limits, passage + limits)
    (folder / "README.md").write_text(card.replace(limits, f"Ours.\n\n{passage}Folder alone.\n\n{limits}"))
    for _ in range(4):
        published = write_model_card(folder, "alice/encoder", published)
        own = (folder / "README.md").read_text()
        assert published.count("## Seen in our clinic") == own.count("## Seen in our clinic") == 1
        assert own.count("Beware.") == own.count("Folder alone.") == own.count("Ours.") == 1
        assert "Folder alone." not in published


def test_a_paragraph_that_a_person_wrote_twice_stays_twice():
    twice = EDITED.replace("Last.", "Beware.")
    assert update_card(NEW, twice).count("Beware.") == 2
