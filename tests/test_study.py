"""A study: its grid, going on where it was, and the report."""

import json
import re

import pytest
import study
import yaml
from study import read_runs, read_study, write_report

from ecg_hf.synthetic import simulate_ptbxl

GRID = {
    "tasks": ["superdiagnostic"],
    "train_fractions": [0.5, 1.0],
    "seeds": [1],
    "common": {
        "architecture": "ptbxl_100hz",
        "max_steps": 2,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "per_device_train_batch_size": 16,
        "probe_num_train_epochs": 2,
        "num_bootstrap_resamples": 10,
        "window_stride_seconds": 2.5,
    },
    "by_fraction": {0.5: {"max_steps": 1}},
    "search": {"learning_rate": [0.001, 0.01]},
    "methods": {
        "plain": {"stages": ["finetune"], "drop_path_rate": 0.0},
        "probe": {"stages": ["probe"], "train_fractions": [1.0], "search": {"probe_learning_rate": [0.01]}},
    },
}


def write_grid(path, **changes):
    path.write_text(yaml.safe_dump({**GRID, **changes}))
    return path


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study that was stopped after its first runs and then called again, and what is needed to call it once more."""
    folder = tmp_path_factory.mktemp("study")
    simulate_ptbxl(folder / "data", 120, seed=0, sampling_rates=(100,))
    command = ["--data_dir", folder / "data", "--cache_dir", folder / "cache", "--output_dir", folder / "results"]
    command = [*map(str, [*command, "--work_dir", folder / "work"]), "--use_cpu", "--disable_tqdm"]
    grid = write_grid(folder / "grid.yaml")
    study.main(["--config", str(write_grid(folder / "part.yaml", train_fractions=[0.5])), *command])
    study.main(["--config", str(grid), *command])
    return folder, command


def test_every_cell_is_run_once_and_reported(studied):
    folder, command = studied
    lines = read_runs(folder / "results")
    assert [line["name"] for line in lines] == [run.name for run in read_study(folder / "grid.yaml")]
    assert len(lines) == 5 and not any((folder / "work").iterdir())
    report = (folder / "results" / "report.md").read_text()
    header, _, plain, probe = report[report.index("| method") :].split("\n\n")[0].splitlines()
    assert header == "| method | 50% of the labels | 100% of the labels |"
    whole = [line for line in lines if line["method"] == "plain" and line["train_fraction"] == 1.0]
    best = max(whole, key=lambda line: line["eval_macro_auroc"])
    assert (
        f"{best['eval_macro_auroc']:.3f}"[1:] in plain
        and f"learning rate {best['searched']['learning_rate']:g} |" in plain
    )
    assert probe.startswith("| probe |  | .")


def test_a_share_of_the_labels_may_have_seeds_of_its_own(tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", by_fraction={0.5: {"max_steps": 1, "seeds": [1, 2]}})
    seeds = {0.5: set(), 1.0: set()}
    for run in read_study(grid):
        seeds[run.train_fraction].add(run.seed)
        assert "seeds" not in run.arguments and run.arguments["seed"] == run.seed
    assert seeds == {0.5: {1, 2}, 1.0: {1}}


def test_labels_that_cannot_be_learned_are_reported_apart(tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", train_fractions=[0.5])
    runs = [run for run in read_study(grid) if run.method == "plain"]
    values = [  # macro AUROC and AUPRC, then those of the learnable labels
        (0.81, 0.30, 0.82, 0.31),
        (0.79, 0.28, 0.84, 0.33),
    ]
    names = ("eval_macro_auroc", "eval_macro_auprc", "learnable_macro_auroc", "learnable_macro_auprc")
    with open(tmp_path / "runs.jsonl", "w") as file:
        for run, value in zip(runs, values, strict=True):
            line = {"name": run.name, "num_unlearnable": 2, **dict(zip(names, value, strict=True))}
            file.write(json.dumps(line) + "\n")
    report = write_report(tmp_path, runs).read_text()
    assert "| .790 / .280 [.840 / .330], learning rate 0.01 |" in report


def test_the_test_fold_stays_closed(studied):
    folder, _ = studied
    assert not any(name.startswith("test_") for line in read_runs(folder / "results") for name in line)


def test_runs_are_not_mixed_with_those_of_other_settings(studied, capsys):
    folder, command = studied
    other = write_grid(folder / "other.yaml", by_fraction={})
    before = (folder / "results" / "runs.jsonl").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        study.main(["--config", str(other), *command])
    assert re.search("superdiagnostic-0.5-plain.* with other settings or", capsys.readouterr().err)
    assert (folder / "results" / "runs.jsonl").read_bytes() == before


def test_a_run_whose_line_a_kill_cut_off_is_run_again(studied):
    folder, command = studied
    file = folder / "results" / "runs.jsonl"
    whole = [line["eval_macro_auroc"] for line in read_runs(folder / "results")]
    file.write_bytes(file.read_bytes()[:-20])
    study.main(["--config", str(folder / "grid.yaml"), *command])
    assert [line["eval_macro_auroc"] for line in read_runs(folder / "results")] == whole


def test_a_misspelt_field_of_the_grid_is_named(tmp_path):
    with pytest.raises(ValueError, match="unknown: serch"):
        read_study(write_grid(tmp_path / "grid.yaml", serch={}))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"search": {"learning_rate": ["1e-3", 0.01]}}, "learning_rate"),
        ({"train_fractions": [0.5, "1e-1", 1.0]}, "train_fractions"),
        ({"common": {"weight_decay": "1e-3"}}, "weight_decay"),
        ({"by_fraction": {0.5: {"learning_rate": "1e-3"}}}, "learning_rate"),
        ({"seeds": ["1e0"]}, "seeds"),
        ({"methods": {"plain": {"layer_decay": "1e-1"}}}, "layer_decay"),
        ({"methods": {"plain": {"search": {"probe_learning_rate": ["1e-2"]}}}}, "probe_learning_rate"),
        ({"methods": {"plain": {"train_fractions": ["1e0"]}}}, "train_fractions"),
    ],
)
def test_a_number_that_yaml_read_as_text_is_refused(tmp_path, changes, name):
    with pytest.raises(TypeError, match=rf"`{name}` is the string '1e.*' where a number is expected; YAML needs"):
        read_study(write_grid(tmp_path / "grid.yaml", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "superdiagnostic"}, "`tasks` must be a list of one or more values.*got 'superdiagnostic'"),
        ({"train_fractions": 0.5}, "`train_fractions` must be a list"),
        ({"seeds": 1}, "`seeds` must be a list"),
        ({"seeds": []}, "`seeds` must be a list"),
        ({"search": {"learning_rate": 0.001}}, "`search.learning_rate` must be a list"),
        ({"search": {"learning_rate": []}}, "`search.learning_rate` must be a list"),
        ({"search": None}, "`search` must hold `name: value` lines, got None"),
        ({"methods": ["plain"]}, "`methods` must hold `name: value` lines"),
        ({"methods": {"plain": {"search": {"pooling": "mean"}}}}, "`methods.plain.search.pooling` must be a list"),
    ],
)
def test_one_value_where_a_list_is_expected_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_study(write_grid(tmp_path / "grid.yaml", **changes))


def test_a_method_needs_no_flags(tmp_path):
    runs = read_study(write_grid(tmp_path / "grid.yaml", methods={"plain": None}, by_fraction={}))
    assert {run.method for run in runs} == {"plain"} and len(runs) == 4


def test_flags_and_shares_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ValueError, match="settings for the shares 0.25, which are not among its train_fractions"):
        read_study(write_grid(tmp_path / "grid.yaml", by_fraction={0.25: {"max_steps": 1}}))
    with pytest.raises(ValueError, match="a flag that `training/train.py` lacks: learning_rat"):
        read_study(write_grid(tmp_path / "grid.yaml", search={"learning_rat": [0.1]}))


def test_a_grid_that_cannot_be_meant_ends_the_command_in_one_line(tmp_path, capsys):
    grid = write_grid(tmp_path / "grid.yaml", common={"table": "ecgs.csv"})
    places = ["--output_dir", str(tmp_path / "results"), "--work_dir", str(tmp_path / "work")]
    with pytest.raises(SystemExit, match="2"):
        study.main(["--config", str(grid), "--data_dir", "PTBXL", *places])
    assert capsys.readouterr().err.endswith(
        "a study gives each run its task, share, seed, folder and the records of PTB-XL.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


def test_words_can_be_searched(tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", search={"pooling": ["mean", "cls"]}, by_fraction={})
    assert {"superdiagnostic-0.5-plain-pooling-mean-seed-1"} <= {run.name for run in read_study(grid)}


def test_the_studies_of_the_repository_are_understood():
    configs = sorted((study.pathlib.Path(study.__file__).parent / "configs").glob("study*.yaml"))
    assert configs and all(read_study(config) for config in configs)
