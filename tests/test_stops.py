"""Runs that cannot go on: divergence, a full disk, signals. Each says what to do."""

import errno
import multiprocessing
import os
import resource
import signal
import time

import pytest
import torch
from forked import Forked, launch_forked
from small_models import small_model
from test_post_training import make_resumable, make_trainer, same_weights, weights_of
from test_scripts import QUICK, flags

from ecg_hf import PostTrainer, PostTrainingArguments, cli
from ecg_hf.post_training.evaluation import DivergenceError

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

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


@pytest.fixture(scope="module")
def undisturbed(simulated_splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    make_resumable(simulated_splits, folder, num_train_epochs=1).post_train()
    return weights_of(folder)


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
def test_a_full_disk_is_named_in_every_stage_and_the_run_goes_on_afterwards(
    simulated_splits, undisturbed, tmp_path, moment, what
):
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
    assert same_weights(weights_of(tmp_path / "run"), undisturbed)


def test_a_checkpoint_that_another_process_still_writes_is_left_alone(simulated_splits, tmp_path, monkeypatch):
    """A process that writes none itself, and the first one where something else has failed after its checkpoint."""
    checkpoint = "_stages/finetune/checkpoint-3"
    trainer = make_resumable(simulated_splits, tmp_path / "lost", stages=["finetune"])
    step = trainer.training_step

    def lose(*args):
        if trainer.state.global_step == 3:
            (tmp_path / "lost" / checkpoint / "rng_state.pth").unlink()  # which each process writes at its time
            raise RuntimeError("Connection closed by peer")
        return step(*args)

    trainer.training_step = lose
    with pytest.raises(RuntimeError, match="^Connection closed by peer$"):
        trainer.post_train()
    assert (tmp_path / "lost" / checkpoint / "model.safetensors").is_file()

    trainer = make_resumable(simulated_splits, tmp_path / "full", stages=["finetune"])

    def fill(*args):
        monkeypatch.setattr(PostTrainingArguments, "should_save", False)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer._save_rng_state = fill
    with pytest.raises(OSError, match="There is no room for a checkpoint"):
        trainer.post_train()
    assert (tmp_path / "full" / checkpoint / "model.safetensors").is_file()


# ---- Signals ----


def waiting_run(command):
    """The command, which waits in its third step."""
    step = PostTrainer.training_step

    def slow(self, *args):
        if self.state.global_step == 2:
            print("waiting", flush=True)
            time.sleep(60)
        return step(self, *args)

    PostTrainer.training_step = slow
    cli.train(command)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_a_signal_ends_the_command_with_one_line(simulated_folder, simulated_cache, tmp_path, number, workers):
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    few = {"max_train_records": 64, "window_stride_seconds": 2.5}
    command = flags(**{**QUICK, "max_steps": 4, **places, **few, "dataloader_num_workers": workers})
    process = Forked(tmp_path / "command", waiting_run, command)
    process.wait_for("waiting")
    os.kill(process.pid, number)
    assert process.wait() == 128 + number
    errors = process.stderr
    assert errors.splitlines()[-1] == (
        f"Stopped by {number.name}. The same command with `--resume_from_checkpoint true` resumes the run in "
        f"`{tmp_path / 'run'}`."
    )
    assert "Traceback" not in errors and "Error" not in errors
    results = cli.train([*command, "--resume_from_checkpoint", "true"])
    assert results["world_size"] == 1


def test_a_signal_before_the_arguments_are_read_is_no_traceback(tmp_path):
    def early():
        cli.parse_arguments = lambda *args: os.kill(os.getpid(), signal.SIGTERM)
        cli.pretrain([])

    process = Forked(tmp_path / "command", early)
    assert process.wait() == 143
    assert process.stderr.splitlines()[-1] == "Stopped by SIGTERM before the run began."


def test_handlers_are_given_back_and_other_errors_are_their_own(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="Give one source of records"):
        cli.train(flags(output_dir=tmp_path / "run", use_cpu=True))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.distributed
def test_a_signal_ends_all_processes(simulated_folder, simulated_cache, tmp_path):
    """Both wait in their third step until each has got its signal."""
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    command = flags(**{**QUICK, **places, "max_steps": 4, "max_train_records": 64, "window_stride_seconds": 2.5})
    processes = launch_forked(tmp_path / "command", waiting_run, command)
    for process in processes:
        process.wait_for("waiting")
    for process in reversed(processes):
        os.kill(process.pid, signal.SIGTERM)
    assert [process.wait() for process in processes] == [143, 143]
    errors = "".join(process.stderr for process in processes)
    assert errors.count("Stopped by SIGTERM. The same command with `--resume_from_checkpoint true`") == 1
    assert "KeyboardInterrupt" not in errors and "Traceback" not in errors


def test_a_killed_worker_is_named(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path / "run", stages=["finetune"], dataloader_num_workers=1)
    step = trainer.training_step

    def kill(*args):
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        return step(*args)

    trainer.training_step = kill
    with pytest.raises(ChildProcessError, match="prepares batches has ended .*fewer `dataloader_num_workers`"):
        trainer.post_train()
