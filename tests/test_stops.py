"""Runs that cannot go on: divergence, a full disk, signals. Each says what to do."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_models import small_model
from test_distributed import launch
from test_post_training import make_resumable, make_trainer, same_weights, weights_of
from test_scripts import QUICK, flags

from ecg_hf import cli
from ecg_hf.post_training.evaluation import DivergenceError

ROOT = pathlib.Path(__file__).parents[1]

# ---- Divergence ----


@pytest.mark.parametrize("logging_steps", [1, 1000])
def test_a_divergence_is_named_with_step_and_rate(simulated_splits, tmp_path, capsys, logging_steps):
    trainer = make_trainer(
        simulated_splits, tmp_path / "run", stages=["finetune"], learning_rate=1e30, logging_steps=logging_steps
    )
    with pytest.raises(
        DivergenceError, match=r"diverged: at step \d+ (the loss is nan|of 1\d of 1\d records).*lower `learning_rate`"
    ):
        trainer.post_train()
    assert "'loss': '0'" not in capsys.readouterr().out


def test_a_divergence_without_evaluations_and_logs_is_found_at_the_end(simulated_splits, tmp_path):
    off = {"eval_strategy": "no", "save_strategy": "no", "logging_strategy": "no", "load_best_model_at_end": False}
    trainer = make_trainer(simulated_splits, tmp_path / "run", stages=["finetune"], learning_rate=1e30, **off)
    with pytest.raises(DivergenceError, match="the loss is nan.*lower `learning_rate`"):
        trainer.post_train()
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_probe_that_diverges_is_named(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path / "run", probe_learning_rate=1e36)
    with pytest.raises(DivergenceError, match=r"The probe has diverged: in its epoch \d+ .*than 1e\+36"):
        trainer.post_train()


def test_weights_that_are_not_finite_are_named(simulated_splits, tmp_path):
    model = small_model()
    model.ecg_transformer.norm.weight.data[0] = torch.nan
    trainer = make_trainer(simulated_splits, tmp_path / "run", model=model)
    with pytest.raises(ValueError, match=r"Of (\d+) of \1 records the scores are not finite: .*weights are damaged"):
        trainer.predict(simulated_splits["test"])
    with pytest.raises(ValueError, match="features that are not finite"):
        trainer.post_train()


# ---- A full disk ----


@pytest.mark.parametrize(
    ("moment", "what"),
    [
        ("_cache_features", "the features of the probe"),
        ("_fit_probe", "the probe"),
        ("train", "checkpoint of step 3 could not be written"),
        ("begin_final_files", "the final files"),
        ("publish_final_files", "the final files"),
    ],
)
def test_a_full_disk_is_named_in_every_stage_and_the_run_goes_on_afterwards(simulated_splits, tmp_path, moment, what):
    trainer = make_resumable(simulated_splits, tmp_path / "run", num_train_epochs=1)
    limits, method = resource.getrlimit(resource.RLIMIT_FSIZE), getattr(trainer, moment)

    def fill(*args, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
        return method(*args, **kwargs)

    setattr(trainer, moment, fill)
    try:
        with pytest.raises(OSError, match=f"{what}.*MiB are free.*resume by `--resume_from_checkpoint true`"):
            trainer.post_train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "run" / "config.json").exists()
    make_resumable(simulated_splits, tmp_path / "run", num_train_epochs=1).post_train(resume_from_checkpoint=True)
    make_resumable(simulated_splits, tmp_path / "alone", num_train_epochs=1).post_train()
    assert same_weights(weights_of(tmp_path / "run"), weights_of(tmp_path / "alone"))


# ---- Signals ----

COMMAND = """
import json, sys
sys.path.insert(0, {tests!r})
from ecg_hf import cli
from ecg_hf.post_training.trainer import PostTrainer
step = PostTrainer.training_step
def slow(self, *args):
    if self.state.global_step == 2:
        print("waiting", flush=True)
        import time
        time.sleep(60)
    return step(self, *args)
PostTrainer.training_step = slow
cli.train(json.loads({flags!r}))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_ends_the_command_with_one_line(simulated_folder, simulated_cache, tmp_path, number, workers):
    import json

    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    command = flags(**{**QUICK, "max_steps": 4, **places, "dataloader_num_workers": workers})
    code = COMMAND.format(tests=str(ROOT / "tests"), flags=json.dumps(command))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert any("waiting" in line for line in process.stdout)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == (
        f"Stopped by {number.name}. The same command with `--resume_from_checkpoint true` resumes the run in "
        f"`{tmp_path / 'run'}`."
    )
    assert "Traceback" not in errors and "Error" not in errors
    results = cli.train([*command, "--resume_from_checkpoint", "true"])
    assert results["world_size"] == 1


def test_a_signal_before_the_arguments_are_read_is_no_traceback(tmp_path):
    code = "import os, signal, ecg_hf.cli as cli\n"
    code += "cli.parse_arguments = lambda *args: os.kill(os.getpid(), signal.SIGTERM)\ncli.pretrain([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1] == "Stopped by SIGTERM before the run began."


def test_handlers_are_given_back_and_other_errors_are_their_own(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="Give either"):
        cli.train(flags(output_dir=tmp_path / "run", use_cpu=True))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def stopped_run(folder, cache, output):
    """Both processes wait in their third step until each has got its signal."""
    from ecg_hf.post_training.trainer import PostTrainer

    step = PostTrainer.training_step

    def slow(self, *args):
        if self.state.global_step == 2:
            pathlib.Path(f"{output}.{self.args.process_index}.pid").write_text(str(os.getpid()))
            while True:
                time.sleep(0.1)
        return step(self, *args)

    PostTrainer.training_step = slow
    cli.train(flags(**{**QUICK, "data_dir": folder, "cache_dir": cache, "output_dir": output, "max_steps": 4}))


@pytest.mark.distributed
def test_a_signal_ends_all_processes(simulated_folder, simulated_cache, tmp_path, monkeypatch):
    import threading

    # `test_scripts` imports a script.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "training"), os.environ.get("PYTHONPATH", "")]))
    output = tmp_path / "run"
    done = {}

    def run():
        done["process"] = launch(
            "stopped_run",
            module="test_stops",
            folder=str(simulated_folder),
            cache=str(simulated_cache),
            output=str(output),
        )

    thread = threading.Thread(target=run)
    thread.start()
    files = [pathlib.Path(f"{output}.{rank}.pid") for rank in range(2)]
    deadline = time.time() + 120
    while not all(file.is_file() and file.read_text() for file in files) and time.time() < deadline:
        time.sleep(0.2)
    for file in reversed(files):
        os.kill(int(file.read_text()), signal.SIGTERM)
    thread.join(timeout=100)
    errors = done["process"].stderr
    assert errors.count("Stopped by SIGTERM. The same command with `--resume_from_checkpoint true`") == 1
    assert "KeyboardInterrupt" not in errors and "exitcode  : 143" in errors.replace("exitcode :", "exitcode  :")
