"""One run in one folder: the lock."""

import os
import signal
import time

import pytest
from forked import Forked
from test_post_training import make_resumable, same_weights, weights_of

from ecg_hf.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


def waiting_run(splits, output):
    trainer = make_resumable(splits, output, stages=["finetune"], dataloader_num_workers=1)
    step = trainer.training_step

    def slow(*args):
        if trainer.state.global_step == 4:
            print("waiting", flush=True)
            time.sleep(100)
        return step(*args)

    trainer.training_step = slow
    trainer.post_train()


def test_a_run_that_is_going_is_not_joined_and_a_dead_one_is_resumed(simulated_splits, tmp_path):
    output = tmp_path / "run"
    process = Forked(output, waiting_run, simulated_splits, output)
    try:
        process.wait_for("waiting")

        def second():
            return make_resumable(simulated_splits, output, stages=["finetune"])

        with pytest.raises(BlockingIOError, match=rf"run` is still going \(process {process.pid} on .*stop it"):
            second().post_train(resume_from_checkpoint=True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    second().post_train(resume_from_checkpoint=True)
    make_resumable(simulated_splits, tmp_path / "alone", stages=["finetune"]).post_train()
    assert same_weights(weights_of(output), weights_of(tmp_path / "alone"))


def test_a_folder_is_free_after_an_error_and_its_lock_is_nobodys_file(tmp_path):
    folder, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    folder.open({"a": 1}, resume=False)
    with pytest.raises(BlockingIOError):
        other.open({"a": 1}, resume=True)
    folder.close()
    folder.close()
    assert other.open({"a": 1}, resume=True) is None
    other.close()
    (tmp_path / "run/_stages/run.json").unlink()  # as after a kill before the run was written down
    assert folder.open({"a": 2}, resume=False) is None
    folder.close()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open({}, resume=False)
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
    try:
        time.sleep(1)  # until the child runs
        folder.close()
        again = RunFolder(tmp_path / "run")
        again.open({}, resume=True)
        again.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
