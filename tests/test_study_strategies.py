"""A study with all strategies: what follows the search, what is used again, and the test fold that is read once."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest
import study
import yaml
from small_models import small_extractor, small_model
from study_differences import compare
from study_figures import draw_dynamics
from study_grid import best_run, cells_of, groups_of, is_ready, known_runs, read_study
from study_report import write_report
from study_runs import ReusedLines, read_lines, read_runs, weights
from study_verdicts import Setting
from task_specific import TaskSpecificArguments, train_task_specific

from ecg_hf.post_training.data import TaskArguments, load_splits
from ecg_hf.runs import windows

ROOT = pathlib.Path(study.__file__).parents[1]
CLAIMS = ROOT / "training" / "configs" / "study.yaml"
COMMON = {
    "architecture": "ptbxl_100hz",
    "max_train_records": 32,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "probe_num_train_epochs": 2,
    "num_bootstrap_resamples": 2,
    "stages": ["finetune"],
}
GRID = {
    "tasks": ["superdiagnostic"],
    "train_fractions": [1.0],
    "seeds": [1],
    "keep": True,
    "common": COMMON,
    "search": {"learning_rate": [0.001, 0.01]},
    "methods": {
        "finetune": {"drop_path_rate": 0.0, "seeds_at_best": [2]},
        "post_train": {"stages": ["probe", "finetune"], "search": {"learning_rate": [0.001]}},
        "post_train+refit": {"refit_of": "post_train", "stages": ["probe"]},
        "task_specific": {
            "trainer": "task_specific",
            "num_epochs": 1,
            "batch_size": 64,
            "search": {"learning_rate": [0.001]},
        },
    },
}


def write_grid(path, **changes):
    path.write_text(yaml.safe_dump({**GRID, **changes}))
    return path


def made_up(run, auroc, auprc=0.3, **more):
    """A line of `runs.jsonl`."""
    figures = {"eval_macro_auroc": auroc, "eval_macro_auprc": auprc, "num_unlearnable": 0}
    figures |= {"learnable_macro_auroc": auroc, "learnable_macro_auprc": auprc}
    return {"name": run.name, "arguments": run.arguments, "weights": weights(run), **figures, **more}


# ---- The grid ----


def test_strategies_differ_only_in_what_their_names_say():
    runs = {run.method: run.arguments for run in read_study(CLAIMS) if run.setting == ("all", 0.1, 1)}

    def differences(first, second):
        names = runs[first].keys() | runs[second].keys()
        return {name for name in names if runs[first].get(name) != runs[second].get(name)} - {"learning_rate"}

    assert differences("finetune", "finetune+sd") == {"drop_path_rate"}
    assert differences("post_train", "probe+finetune") == {"drop_path_rate"}
    assert differences("post_train", "finetune+sd") == {"stages"}
    assert differences("probe+finetune", "finetune") == {"stages"}
    assert differences("scratch", "finetune+sd") == {"model_name_or_path", "architecture"}
    assert runs["finetune"]["drop_path_rate"] == 0 and runs["post_train"]["drop_path_rate"] == 0.1


def test_shares_of_a_seed_are_nested_and_by_patient(simulated_folder, simulated_cache, tmp_path):
    grid = write_grid(tmp_path / "grid.yaml", train_fractions=[0.1, 0.3, 1.0])
    patients = {}
    for run in read_study(grid):
        if run.method == "finetune":
            arguments = {name: run.arguments[name] for name in ("task", "train_fraction")}
            places = {"data_dir": str(simulated_folder), "cache_dir": str(simulated_cache)}
            splits = load_splits(places["data_dir"], TaskArguments(**arguments, **places), run.arguments["seed"])
            found = [list(splits[name]["patient_id"]) for name in ("train", "validation", "test")]
            assert not set(found[0]) & {*found[1], *found[2]}
            patients[run.train_fraction] = found[0]
    small, third, whole = (patients[share] for share in (0.1, 0.3, 1.0))
    assert set(small) < set(third) < set(whole)
    for part in (small, third):  # all records of a patient or none
        assert all(part.count(patient) == whole.count(patient) for patient in part)
    assert len(set(third)) == round(0.3 * len(set(whole)))


def test_the_cheapest_runs_come_first_and_budgets_multiply_the_epochs(tmp_path):
    grid = write_grid(
        tmp_path / "grid.yaml",
        common={**COMMON, "num_train_epochs": 8},
        parts=[
            {"methods": ["finetune"]},
            {"methods": ["finetune"], "search": {"budget": [0.25, 4], "learning_rate": [1]}},
        ],
    )
    runs = read_study(grid)
    assert [run.arguments["num_train_epochs"] for run in runs] == [2, 8, 8, 32]
    assert [run.setting.budget for run in runs] == [0.25, 1, 1, 4]
    assert "budget" not in runs[0].arguments and "budget-0.25" in runs[0].name


def test_seeds_and_refits_follow_the_search(tmp_path):
    runs = read_study(write_grid(tmp_path / "grid.yaml"))
    searched = [run for run in runs if run.method == "finetune"]
    assert {run.seed for run in known_runs(runs, {})} == {1}
    half = {searched[0].name: made_up(searched[0], 0.8)}
    assert len(known_runs(runs, half)) == len(runs)
    lines = half | {searched[1].name: made_up(searched[1], 0.9)}
    (further,) = [run for run in known_runs(runs, lines) if run.seed == 2]
    assert further.searched == searched[1].searched == {"learning_rate": 0.01}
    assert further.arguments == {**searched[1].arguments, "seed": 2}
    missing = [cell for cell in cells_of(runs, half) if cell.method == "finetune" and cell.scores is None]
    assert [cell.seed for cell in missing] == [1, 2]  # the second rate, and the seed whose rate is not known
    refit = next(run for run in runs if run.refit_of)
    assert not is_ready(refit, runs, lines)
    post_trained = next(run for run in runs if run.method == "post_train")
    assert is_ready(refit, runs, lines | {post_trained.name: made_up(post_trained, 0.9)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": [{"tasks": ["rhythm"]}]}, r"`parts\[0\].tasks` must be among the grid's tasks; not there: rhythm"),
        ({"parts": [{"common": {}}]}, r"`parts\[0\]` .* may have tasks, .*got common"),
        ({"parts": {"tasks": []}}, "`parts` must be a list"),
        ({"parts": [{"methods": "finetune"}]}, r"`parts\[0\].methods` must be a list"),
        ({"keep": False}, "refit_of` starts from the best run of post_train: the grid needs `keep: true`"),
        ({"methods": {"a": {"refit_of": "b"}}}, "`methods.a.refit_of` must be another method of the grid, got 'b'"),
        ({"methods": {"a": {"trainer": "resnet"}}}, "`methods.a.trainer` must be one of post_train, task_specific"),
        ({"methods": {"a": {"trainer": "task_specific", "num_train_epochs": 3}}}, "`training/task_specific.py` lacks"),
        ({"common": {"table": "ecgs.csv"}}, "must not have the flag table: a study gives .* the records of PTB-XL"),
        ({"methods": {"a": {"seed": 3}}}, "must not have the flag seed"),
        ({"methods": {"a": None, "b": {"strategy": "a"}}}, "`methods.b` must be a strategy of its own, 'a' is also a"),
        ({"methods": {"a+b": None, "a-b": None}}, "asks for two different runs named superdiagnostic-1-a-b"),
        (
            {"methods": {"a": None, "b": {"refit_of": "a", "seeds_at_best": [9]}}},
            "b on superdiagnostic, 100 % of the labels with seed 9 refits a run of a that the grid lacks",
        ),
        ({"search": {"budget": [0.3]}}, "`budget` 0.3 of 1 epochs is not a whole number"),
        ({"search": {"budget": [2]}, "common": {"max_steps": 2}}, "`budget` multiplies `num_train_epochs`, which"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_study(write_grid(tmp_path / "grid.yaml", **changes))


# ---- Runs that are there ----


def test_the_first_study_is_used_again_by_arguments_and_weights(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    lines = study.Study(CLAIMS, tmp_path, tmp_path).lines
    reused = pd.DataFrame(
        [(run.method, run.train_fraction) for run in read_study(CLAIMS) if run.name in lines],
        columns=["method", "share"],
    )
    counts = reused.value_counts().to_dict()
    # Two tasks, three rates; 1.0 has no scratch, finetune or post_train but those, and 0.3 none.
    assert counts == {
        (method, share): 6 for method in ("scratch", "finetune", "post_train") for share in (0.01, 0.1, 1.0)
    } | {("probe", 1.0): 6}
    line = lines["all-0.1-finetune-learning_rate-0.003-seed-42"]
    assert line["reused_from"] == "all-0.1-fine-tuned-from-the-encoder-plain-learning_rate-0.003-seed-42"


def test_runs_of_other_arguments_or_weights_are_not_used_again(tmp_path):
    run = read_study(write_grid(tmp_path / "grid.yaml"))[0]
    file = tmp_path / "runs.jsonl"
    for change in ({"arguments": {**run.arguments, "weight_decay": 0.3}}, {"weights": "abc"}):
        file.write_text(json.dumps({**made_up(run, 0.9), **change}) + "\n")
        assert ReusedLines([file]).of([run]) == {}
    file.write_text(json.dumps({**made_up(run, 0.9), "name": "another"}) + "\n")
    assert ReusedLines([file]).of([run])[run.name]["reused_from"] == "another"
    with pytest.raises(FileNotFoundError, match="`reuse` of the grid names .*nowhere"):
        ReusedLines([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 0.01}, "a finished run of other settings"),
        ({"predict": ["validation", "test"]}, "a finished run without predictions of test"),
        ({}, None),
    ],
)
def test_a_finished_network_is_not_taken_for_another(tmp_path, given, message):
    facts = {"metrics": {"arguments": dataclasses.asdict(TaskSpecificArguments())}, "all_results": {"seconds": 1}}
    for name, content in facts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "predictions_validation.csv").touch()
    with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):
        assert train_task_specific(tmp_path, "nowhere", **given) == facts["all_results"]


# ---- A whole study ----


def folds_read(folder, ids):
    table = pd.read_csv(folder / "ptbxl_database.csv", index_col="ecg_id")
    return set(table.loc[sorted(ids), "strat_fold"])


@pytest.fixture(scope="module")
def studied(tmp_path_factory, simulated_folder, simulated_cache):
    """A whole study, then its test -> folder, command, and the folds that study and test read."""
    folder = tmp_path_factory.mktemp("strategies")
    for part in (small_model(), small_extractor()):
        part.save_pretrained(folder / "small")
    common = {name: value for name, value in COMMON.items() if name != "architecture"}
    common["model_name_or_path"] = str(folder / "small")
    command = [
        "--config",
        write_grid(folder / "grid.yaml", common=common),
        "--data_dir",
        simulated_folder,
        "--cache_dir",
    ]
    command += [simulated_cache, "--output_dir", folder / "results", "--work_dir", folder / "work"]
    command = [*map(str, command), "--use_cpu", "--disable_tqdm"]
    read = set()
    with pytest.MonkeyPatch.context() as patch:
        for kind in (windows.TrainingWindows, windows.EvaluationWindows):
            original = kind.__init__

            def noted(self, dataset, *args, original=original, **kwargs):
                read.update(dataset["ecg_id"])
                original(self, dataset, *args, **kwargs)

            patch.setattr(kind, "__init__", noted)
        study.main(command)
        by_study = folds_read(simulated_folder, read)
        first = (folder / "results" / "report.md").read_text()
        read.clear()
        study.main([*command, "--test"])
        by_test = folds_read(simulated_folder, read)
    return {"folder": folder, "command": command, "by_study": by_study, "by_test": by_test, "report": first}


def test_all_strategies_are_run_and_reported(studied):
    lines = {line["name"]: line for line in read_runs(studied["folder"] / "results")}
    runs = read_study(studied["folder"] / "grid.yaml")
    assert {run.name for run in known_runs(runs, lines)} == lines.keys() and len(lines) == 6
    refit = next(line for line in lines.values() if line["method"] == "post_train+refit")
    assert refit["refit_from"] == "superdiagnostic-1-post_train-learning_rate-0.001-seed-1"
    assert all(len(step) == 3 for line in lines.values() for step in line["curve"])
    assert all(line["curve"] for line in lines.values() if line["method"] != "post_train+refit")
    report = studied["report"]
    assert "6 of 6 runs are finished. **The records are simulated" in report and "Missing" not in report
    assert "macro AUROC is higher by 0.7 to 8.9 % | **" in report and "The grid lacks finetune+sd" in report
    for name in ("gain", "dynamics"):
        assert f"({name}-superdiagnostic.png)" in report
        assert (studied["folder"] / "results" / f"{name}-superdiagnostic.png").stat().st_size > 5000


def test_a_curve_of_one_evaluation_is_seen():
    curves = {"finetune": [[[8, 0.8, 0.5]]]}
    figure = draw_dynamics({Setting("superdiagnostic", 1.0): curves}, "superdiagnostic")
    (line,) = figure.axes[0].get_lines()
    assert len(line.get_xdata()) > 1 or line.get_marker() not in ("", " ", "None", None)


def test_models_and_predictions_of_the_best_are_kept(studied):
    kept = {path.name for path in (studied["folder"] / "work" / "models").iterdir()}
    lines = {line["name"]: line for line in read_runs(studied["folder"] / "results")}
    best = best_run(
        next(
            group
            for key, group in groups_of(read_study(studied["folder"] / "grid.yaml")).items()
            if key[1] == "finetune"
        ),
        lines,
    )
    assert len(kept) == 5 and {best.name, best.with_seed(2).name} <= kept
    line, tested = read_lines(studied["folder"] / "results" / "differences.jsonl")
    difference = lines[line["first"]]["eval_macro_auroc"] - lines[line["second"]]["eval_macro_auroc"]
    assert line["second"] == best.name and line["auroc"]["value"] == pytest.approx(difference, abs=5e-3)
    entries = json.loads((studied["folder"] / "results" / "test.json").read_text())["runs"]
    aurocs = {entry["name"]: entry["macro_auroc"]["value"] for entry in entries}
    difference = aurocs[line["first"]] - aurocs[line["second"]]
    assert (line["split"], tested["split"]) == ("validation", "test")
    assert tested["second"] == best.name and tested["auroc"]["value"] == pytest.approx(difference, abs=5e-3)


def test_only_the_test_reads_the_test_fold_and_only_once(studied, simulated_splits):
    assert studied["by_study"] == set(range(1, 10)) and 10 in studied["by_test"]
    content = json.loads((studied["folder"] / "results" / "test.json").read_text())
    assert content.keys() == {"date", "commit", "chosen", "runs"}
    assert len(content["chosen"]) == 5  # two seeds of finetune
    assert sorted(content["chosen"]) == sorted(entry["name"] for entry in content["runs"])
    assert all(entry["num_records"] == len(simulated_splits["test"]) for entry in content["runs"])
    report = (studied["folder"] / "results" / "report.md").read_text()
    assert f"**Test fold**, read once, on {content['date']} at commit `{content['commit']}`" in report
    with pytest.raises(FileExistsError, match="the test fold was read on .* A second look would choose by it"):
        study.main([*studied["command"], "--test"])


def test_a_reading_that_was_stopped_goes_on_with_the_runs_it_had_chosen(studied, tmp_path):
    """By its file alone: models and predictions of another session are gone."""
    results, command = studied["folder"] / "results", [*studied["command"], "--output_dir", str(tmp_path)]
    whole = json.loads((results / "test.json").read_text())
    shutil.copy(results / "runs.jsonl", tmp_path)
    part = {**whole, "date": "2026-01-01", "runs": whole["runs"][1:]}
    (tmp_path / "test.json").write_text(json.dumps(part))
    assert "(1 of the 5 runs that were chosen then are not read yet)" in report_of(command)
    study.main([*command, "--test"])
    resumed = json.loads((tmp_path / "test.json").read_text())
    assert resumed["runs"][:-1] == part["runs"] and resumed["date"] == part["date"]
    assert {**resumed["runs"][-1], "date": None} == {**whole["runs"][0], "date": None}
    (tmp_path / "test.json").write_text(json.dumps({**part, "chosen": [*part["chosen"], "another"]}))
    with pytest.raises(ValueError, match="was begun on 2026-01-01 with other runs than are chosen now"):
        study.main([*command, "--test"])


def report_of(command):
    study.main([*command, "--report"])
    return (pathlib.Path(command[-1]) / "report.md").read_text()


def test_an_unfinished_study_is_not_tested(studied, tmp_path):
    lines = (studied["folder"] / "results" / "runs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "runs.jsonl").write_text("".join(lines[1:]))
    command = [*studied["command"], "--output_dir", str(tmp_path), "--test"]
    with pytest.raises(ValueError, match="are missing, and the test fold is read once, after the last"):
        study.main(command)
    assert not (tmp_path / "test.json").exists()


def test_the_report_of_half_a_study_says_what_is_missing(studied, tmp_path, capsys):
    runs = read_study(studied["folder"] / "grid.yaml")
    lines = read_runs(studied["folder"] / "results")
    first = next(line for line in lines if line["method"] == "finetune" and line["seed"] == 1)
    (tmp_path / "runs.jsonl").write_text(json.dumps(first) + "\n")
    report = write_report(tmp_path, runs).read_text()
    assert "1 of 6 runs are finished" in report and "| **not yet decided** |" in report
    assert "| **confirmed" not in report and "| **not confirmed" not in report
    assert (
        "Missing runs: finetune, 100 % (2 of 3); post_train, 100 % (1 of 1); post_train+refit, 100 % (1 of 1)"
        in report
    )
    assert "not yet decided: superdiagnostic, 100 % of the labels: 3 runs missing" in report
    assert "| missing |" in report and "No curves of both methods are kept of: 100 %" in report
    study.main([*studied["command"], "--output_dir", str(tmp_path), "--list"])
    assert len(capsys.readouterr().out.splitlines()) == 3  # the refit waits


# ---- Differences ----


def test_differences_are_paired_by_patient():
    generator = np.random.default_rng(0)
    labels = (generator.random((200, 2)) < 0.3).astype(np.int8)
    shared = {"labels": labels, "ecg_ids": np.arange(200), "patients": np.repeat(np.arange(100), 2)}
    noise = generator.normal(size=(200, 2))
    good = {**shared, "logits": (2 * labels + noise).astype(np.float16)}
    close = {**shared, "logits": (2 * labels + noise + 0.01 * generator.normal(size=(200, 2))).astype(np.float16)}
    poor = {**shared, "logits": (0.5 * labels + generator.normal(size=(200, 2))).astype(np.float16)}
    clear, small = compare(good, poor, 200), compare(good, close, 200)
    assert clear["auroc"]["low"] > 0 and clear["auprc"]["low"] > 0 and clear["num_patients"] == 100
    # Paired: of two that err on the same patients the interval is far narrower than that of either alone.
    assert small["auroc"]["low"] <= 0 <= small["auroc"]["high"]
    assert small["auroc"]["high"] - small["auroc"]["low"] < 0.02
    # The same ranks, as after temperature scaling, are no difference at all.
    cooler = {**good, "logits": (good["logits"] / 2).astype(np.float16)}
    nothing = {"value": 0, "low": 0, "high": 0}
    assert compare(good, cooler, 200) == {"auroc": nothing, "auprc": nothing, "num_patients": 100}
    order = generator.permutation(200)
    assert compare(good, {name: values[order] for name, values in poor.items()}, 200) == clear
    with pytest.raises(ValueError, match="the same records"):
        compare(good, {name: values[:100] for name, values in poor.items()}, 200)
    few = {name: values[:30] for name, values in good.items()}
    assert compare(few, {name: values[:30] for name, values in poor.items()}, 20)["auroc"]["low"] is None
