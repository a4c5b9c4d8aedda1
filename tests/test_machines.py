"""Runs over several machines, here processes at loopback addresses that share no folder."""

import json
import os
import pathlib
import signal
import socket

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from forked import Forked, launch_forked
from small_models import small_extractor, small_model
from test_pretraining import weights_of

from ecg_hf import PostTrainer, PreTrainer, cli
from ecg_hf.runs import machines

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "training/launch/multi_node.yaml"
FLAGS = {
    "architecture": "ptbxl_100hz",
    "attn_implementation": "eager",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "probe_every": 0,
    "save_strategy": "steps",
    "save_steps": 3,
    "logging_steps": 1,
    "use_cpu": "true",
    "disable_tqdm": "true",
    "expect_world_size": 2,
}

pytestmark = pytest.mark.distributed


def argv_of(**flags) -> list[str]:
    given = {**FLAGS, **flags}
    if "model_name_or_path" in given:  # of post-training
        given = {name: value for name, value in given.items() if name not in ("architecture", "probe_every")}
    return [str(part) for name, value in given.items() for part in (f"--{name}", value)]


def pretrain(argv, kill=False):
    if kill:
        step = PreTrainer.training_step

        def die(self, *args):
            return step(self, *args) if self.state.global_step < 5 else os.kill(os.getpid(), signal.SIGKILL)

        PreTrainer.training_step = die
    cli.pretrain(argv)


def post_train(argv, kill=False):
    if kill:
        step = PostTrainer.training_step

        def die(self, *args):
            return step(self, *args) if self.state.global_step < 3 else os.kill(os.getpid(), signal.SIGKILL)

        PostTrainer.training_step = die
    cli.train(argv)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def launch_machines(folder, data, killed=None, function=pretrain, **flags) -> list[Forked]:
    """Two machines of one process, each with its own copy of the records and its own output."""
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    group |= {"MASTER_ADDR": "127.0.0.2", "MASTER_PORT": free_port()}
    started = []
    for rank in (0, 1):
        own = {"data_dir": data, "cache_dir": folder / f"{rank}/cache", "output_dir": folder / f"{rank}/run"}
        argv = argv_of(**own, save_on_each_node="true", **flags)
        (folder / str(rank)).mkdir(exist_ok=True)
        started.append(Forked(folder / f"{rank}/log", function, argv, killed == rank, **group, RANK=str(rank)))
    return started


def losses_of(run) -> list[tuple[int, float]]:
    log = json.loads((run / "log_history.json").read_text())
    return [(entry["step"], entry["loss"]) for entry in log if "loss" in entry and "step" in entry]


@pytest.fixture(scope="module")
def one_launch(simulated_folder, simulated_cache, tmp_path_factory):
    """The run of two processes of one machine."""
    output = tmp_path_factory.mktemp("one") / "run"
    argv = argv_of(data_dir=simulated_folder, cache_dir=simulated_cache, output_dir=output)
    processes = launch_forked(output, pretrain, argv)
    assert [process.wait() for process in processes] == [0, 0], [process.stderr[-2000:] for process in processes]
    return output


def test_a_lost_machine_ends_the_others_and_the_run_goes_on(one_launch, simulated_folder, tmp_path):
    survivor, lost = launch_machines(tmp_path, simulated_folder, killed=1)
    assert (lost.wait(), survivor.wait(60)) == (-signal.SIGKILL, 1)
    assert survivor.stderr.count("Another process of this run was lost") == 1
    assert "`--resume_from_checkpoint true` go on" in survivor.stderr and "Traceback" not in survivor.stderr
    resumed = launch_machines(tmp_path, simulated_folder, resume_from_checkpoint="true")
    assert [process.wait() for process in resumed] == [0, 0], [process.stderr[-2000:] for process in resumed]
    assert "step 3 of 8" not in resumed[0].stderr and "step 4 of 8" in resumed[0].stderr
    assert losses_of(tmp_path / "0/run") == losses_of(one_launch) and len(losses_of(one_launch)) == 8
    first, second = weights_of(tmp_path / "0/run"), weights_of(one_launch)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "1/run/config.json").exists()  # the first machine has the results


def test_post_training_needs_no_shared_folder(simulated_folder, simulated_cache, tmp_path):
    """One machine is lost after the probe, whose head each has; the same commands go on."""
    for part in (small_model(), small_extractor(window_stride=125)):
        part.save_pretrained(tmp_path / "model")
    flags = {"model_name_or_path": tmp_path / "model", "max_steps": 4, "save_steps": 2, "num_bootstrap_resamples": 10}
    flags |= {"probe_num_train_epochs": 2, "eval_strategy": "steps", "eval_steps": 2, "sampling_rate": 100}
    survivor, lost = launch_machines(tmp_path, simulated_folder, 1, post_train, **flags)
    assert (lost.wait(), survivor.wait(60)) == (-signal.SIGKILL, 1)
    heads = [tmp_path / f"{rank}/run/_stages/probe" for rank in (0, 1)]
    assert all(torch.equal(weights_of(heads[0])[name], value) for name, value in weights_of(heads[1]).items())
    configs = [json.loads((head / "config.json").read_text()) for head in heads]
    assert configs[0]["drop_path_rate"] == configs[1]["drop_path_rate"]  # to return to, where the probe was better
    resumed = launch_machines(tmp_path, simulated_folder, None, post_train, resume_from_checkpoint="true", **flags)
    assert [process.wait() for process in resumed] == [0, 0], [process.stderr[-2000:] for process in resumed]
    argv = argv_of(data_dir=simulated_folder, cache_dir=simulated_cache, output_dir=tmp_path / "one", **flags)
    alone = launch_forked(tmp_path / "one", post_train, argv)
    assert [process.wait() for process in alone] == [0, 0], [process.stderr[-2000:] for process in alone]
    assert losses_of(tmp_path / "0/run") == losses_of(tmp_path / "one") and len(losses_of(tmp_path / "one")) == 4
    first, second = weights_of(tmp_path / "0/run"), weights_of(tmp_path / "one")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_machines_agree_on_a_checkpoint_that_each_has(monkeypatch):
    own, others = [9, 6], [6, 3]

    def newest(steps, limit):
        found = [step for step in steps if limit is None or step <= limit]
        return f"run/checkpoint-{found[0]}" if found else None

    seen = []

    def last_complete(folder, world_size, limit=None):
        seen.append(limit)
        return newest(own, limit)

    def gather(steps):
        other = newest(others, seen[-1])
        return [*steps, 0 if other is None else int(other.rpartition("-")[2])]

    monkeypatch.setattr(machines, "last_complete_checkpoint", last_complete)
    monkeypatch.setattr(machines, "gather_object", gather)
    assert machines.agreed_checkpoint("run", 2) == "run/checkpoint-6" and seen == [None, 6]
    others.clear()
    with pytest.raises(FileNotFoundError, match="Process 1 has no complete checkpoint.*process 0 has checkpoint-9"):
        machines.agreed_checkpoint("run", 2)


@pytest.mark.parametrize("backend", ["static", "c10d"])
def test_the_launch_file_leads_all_machines_to_the_first(backend):
    assert load_config_from_file(str(CONFIG)).num_machines == 2
    given = ["--config_file", str(CONFIG), "--machine_rank", "1", "--main_process_ip", "10.0.0.7"]
    given += ["--rdzv_backend", backend, "train.py"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(given))
    prepare_multi_gpu_env(args)
    assert (args.rdzv_backend, args.rdzv_endpoint) == (backend, "10.0.0.7:29500")
    assert (args.nnodes, args.nproc_per_node, args.max_restarts) == ("2", "1", 0)
