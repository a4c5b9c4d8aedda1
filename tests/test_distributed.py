"""Several processes: the same mathematics as one, and processes that stay equal to the bit."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from accelerate import DistributedType, PartialState
from forked import launch_forked
from small_models import LABELS, small_model
from test_post_training import extractor, make_trainer, weights_of
from transformers import AutoModelForSequenceClassification

from ecg_hf import load_ptbxl, name_labels
from ecg_hf.ecg_transformer import modeling_ecg_transformer as modeling
from ecg_hf.ecg_transformer.targets_ecg_transformer import mean_loss
from ecg_hf.post_training import trainer as post_training

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("pictures_not_drawn")]

DRIVER = """
import hashlib, json, os, signal, sys
sys.path.insert(0, {tests!r})
import {module}
{module}.{function}(**json.loads({arguments!r}))
# Not through the interpreter's exit, where threads of torch now and then abort a process that has done all its work
# ("terminate called without an active exception", torch 2.13, gloo).
import torch.distributed
torch.distributed.barrier()
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
"""


def launch(
    function: str, processes: int = 2, module: str = "test_distributed", **kwargs
) -> subprocess.CompletedProcess:
    """Run a function of a test file, by default this one, in several processes."""
    tests = str(pathlib.Path(__file__).parent)
    code = DRIVER.format(tests=tests, module=module, function=function, arguments=json.dumps(kwargs))
    script = pathlib.Path(kwargs["output"]).with_suffix(".py")
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run([*command, str(script)], capture_output=True, text=True, env=dict(os.environ), timeout=240)


def splits_of(folder: str, cache: str) -> dict:
    splits = load_ptbxl(folder, "superdiagnostic", 100, cache_dir=cache)
    return {**splits, "train": splits["train"].select(range(96))}


def digest(trainer) -> str:
    import hashlib

    digests = hashlib.sha256()
    for value in trainer.accelerator.unwrap_model(trainer.model).state_dict().values():
        digests.update(value.detach().cpu().numpy().tobytes())
    return digests.hexdigest()


def steps_of(trainer) -> list[tuple[float, float]]:
    return [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry]


def plain_training(splits, output, **fields):
    """Three epochs of AdamW, with nothing random but the order of records and the crops."""
    fields = {"drop_path_rate": 0.0, "num_train_epochs": 2, "eval_strategy": "no", "save_strategy": "no", **fields}
    trainer = make_trainer(splits, output, load_best_model_at_end=False, **fields)
    trainer.train()
    return trainer


def of_two_lengths(dataset: datasets.Dataset) -> datasets.Dataset:
    """The records, of which every second one is cut to 4 s and so has fewer windows."""
    rows = dataset.to_list()
    for row in rows[1::2]:
        row["signal"] = np.reshape(row["signal"], (12, -1))[:, :400].ravel().tolist()
    return name_labels(datasets.Dataset.from_list(rows), LABELS)


def run_in_two_processes(folder, cache, output):
    splits = splits_of(folder, cache)
    trainer = plain_training(splits, output + "-plain", per_device_train_batch_size=16)
    assert trainer.args.world_size == 2
    seen = {"steps": steps_of(trainer)}

    trainer = make_trainer(splits, output, drop_path_rate=0.5, per_device_train_batch_size=16, eval_on_start=True)
    digests, train = [], trainer.train

    def watched(*args, **kwargs):
        digests.append(digest(trainer))
        return train(*args, **kwargs)

    trainer.train = watched
    seen["results"] = trainer.post_train()
    digests.append(digest(trainer))
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, digests)
    seen["digests"] = gathered
    for count in (15, 11, 8, 1):
        prediction = trainer.predict(splits["test"].select(range(count)))
        seen[f"predictions {count}"] = prediction.predictions.tolist()
        seen[f"loss {count}"] = prediction.metrics["test_loss"]
    prediction = trainer.predict(of_two_lengths(splits["test"]))
    seen["predictions of two lengths"] = prediction.predictions.tolist()
    seen["loss of two lengths"] = prediction.metrics["test_loss"]
    if trainer.is_world_process_zero():
        pathlib.Path(output + ".json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def two(simulated_folder, simulated_cache, simulated_splits, tmp_path_factory):
    """What two processes saw, and the folder of their run."""
    output = tmp_path_factory.mktemp("two") / "run"
    done = launch("run_in_two_processes", folder=str(simulated_folder), cache=str(simulated_cache), output=str(output))
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(pathlib.Path(f"{output}.json").read_text()), output


@pytest.mark.parametrize("accumulation", [1, 4])
def test_two_processes_train_as_one_does(two, accumulation, simulated_folder, simulated_cache, tmp_path):
    splits = splits_of(simulated_folder, simulated_cache)
    alone = plain_training(
        splits,
        tmp_path / "run",
        per_device_train_batch_size=32 // accumulation,
        gradient_accumulation_steps=accumulation,
    )
    assert len(steps_of(alone)) == 6
    np.testing.assert_allclose(two[0]["steps"], steps_of(alone), atol=1e-5, rtol=1e-5)


def test_processes_stay_equal_through_the_hand_over(two):
    first, second = two[0]["digests"]
    assert first == second and len(first) == 2 and first[0] != first[1]


def test_two_processes_save_what_one_reads(two, simulated_splits, tmp_path):
    seen, output = two
    model = type(small_model()).from_pretrained(output)
    alone = make_trainer(simulated_splits, tmp_path / "run", model=model)
    for count in (15, 11, 8, 1):
        prediction = alone.predict(simulated_splits["test"].select(range(count)))
        np.testing.assert_allclose(seen[f"predictions {count}"], prediction.predictions, atol=1e-6)
        assert seen[f"loss {count}"] == pytest.approx(prediction.metrics["test_loss"], abs=1e-10)
    prediction = alone.predict(of_two_lengths(simulated_splits["test"]))
    np.testing.assert_allclose(seen["predictions of two lengths"], prediction.predictions, atol=1e-6)
    assert seen["loss of two lengths"] == pytest.approx(prediction.metrics["test_loss"], abs=1e-10)
    table = pd.read_csv(output / "test_predictions.csv")
    assert table["ecg_id"].tolist() == list(simulated_splits["test"]["ecg_id"])
    assert seen["results"]["world_size"] == 2


def test_two_processes_hand_over_without_a_jump(two):
    seen, output = two
    history = json.loads((output / "log_history.json").read_text())
    start = next(entry for entry in history if entry["stage"] == "finetune" and "eval_loss" in entry)
    assert start["eval_loss"] == pytest.approx(seen["results"]["probe_eval_loss"], abs=1e-5)


def test_what_is_said_of_own_records_is_said_by_one_process(simulated_folder, tmp_path):
    records = sorted((simulated_folder / "records100").rglob("*.hea"))[:30]
    table = pd.DataFrame({"path": [str(path.relative_to(simulated_folder)) for path in records]})
    table["label"] = np.arange(30) % 2
    table["split"] = ["train"] * 15 + ["validation"] * 8 + ["test"] * 7
    table["rare"] = ((table["label"] == 1) & (table["split"] != "validation")).astype(int)
    table.to_csv(tmp_path / "own.csv", index=False)
    columns = ["--split_column", "split", "--label_columns", "label", "rare"]
    places = ["--table", tmp_path / "own.csv", "--data_dir", simulated_folder, "--output_dir", tmp_path / "run"]
    quick = ["--max_steps", "1", "--probe_num_train_epochs", "1", "--num_bootstrap_resamples", "10"]
    quick += ["--use_cpu", "true", "--disable_tqdm", "true"]
    encoder = ["--model_name_or_path", "ecg-transformer-ptbxl-100hz"]
    script = pathlib.Path(__file__).parents[1] / "training/train.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    command += [*columns, *places, *quick, *encoder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    for text in ("The records by split", "LOAD REPORT", "get the threshold 0.5: rare", "Model    "):
        assert done.stderr.count(text) == 1, text


def resumable_run(folder, cache, output, kill, **fields):
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(
        splits_of(folder, cache),
        output,
        drop_path_rate=0.5,
        per_device_train_batch_size=16,
        stages=["finetune"],
        **steps,
        **fields,
    )
    if kill:
        step = trainer.training_step

        def die(*args):
            return step(*args) if trainer.state.global_step < 5 else os.kill(os.getpid(), signal.SIGKILL)

        trainer.training_step = die
    trainer.post_train(resume_from_checkpoint=not kill)


def test_two_killed_processes_end_with_the_bits_of_two_left_alone(simulated_folder, simulated_cache, tmp_path):
    outputs = [tmp_path / "killed", tmp_path / "alone"]

    def run(output, kill):
        places = (str(simulated_folder), str(simulated_cache), str(output))
        processes = launch_forked(output, resumable_run, *places, kill)
        return [process.wait() for process in processes], [process.stderr[-2000:] for process in processes]

    assert run(outputs[0], kill=True)[0] == [-signal.SIGKILL] * 2 and not (outputs[0] / "config.json").exists()
    alone = (simulated_folder, simulated_cache, outputs[0], False)
    with pytest.raises(ValueError, match="cannot be resumed with other settings: `processes` was 2, now 1"):
        resumable_run(*alone)
    for output in outputs:
        codes, errors = run(output, kill=False)
        assert codes == [0, 0], errors
    first, second = map(weights_of, outputs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    resumable_run(*alone)  # a finished run is reported to one process, too


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "ECGTransformerLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def sharded_run(folder, cache, output, state, kill):
    """FSDP2 by gloo: accelerate, which shards on accelerators alone, is told that these processes have some."""
    os.environ.update(FSDP2, FSDP_STATE_DICT_TYPE=state)
    disguise_as_accelerators()
    resumable_run(folder, cache, output, kill, max_steps=6, save_total_limit=5)


def disguise_as_accelerators():
    begin = PartialState.__init__

    def disguised(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        if self._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_NPU

    PartialState.__init__ = disguised


def test_sharded_training_keeps_its_best_epoch_and_is_resumed(simulated_folder, simulated_cache, tmp_path):
    """Killed and resumed with its state in shards, it ends with the bits of one left alone that gathers its state."""
    stopped, alone = tmp_path / "stopped", tmp_path / "alone"

    def run(output, state, kill):
        places = (str(simulated_folder), str(simulated_cache), str(output))
        processes = launch_forked(output, sharded_run, *places, state, kill)
        return [process.wait() for process in processes], [process.stderr[-2000:] for process in processes]

    assert run(stopped, "SHARDED_STATE_DICT", kill=True)[0] == [-signal.SIGKILL] * 2
    checkpoint = stopped / "_stages/finetune/checkpoint-4"
    assert (checkpoint / "pytorch_model_fsdp_0").is_dir()
    written = (checkpoint / "trainer_state.json").stat().st_mtime_ns
    for output, state in ((stopped, "SHARDED_STATE_DICT"), (alone, "FULL_STATE_DICT")):
        codes, errors = run(output, state, kill=False)
        assert codes == [0, 0], errors
    assert (checkpoint / "trainer_state.json").stat().st_mtime_ns == written  # was not trained again
    first, second = map(weights_of, (stopped, alone))
    assert all(torch.equal(first[name], second[name]) for name in first)
    best = json.loads((checkpoint.with_name("checkpoint-6") / "trainer_state.json").read_text())["best_global_step"]
    epoch = weights_of(checkpoint.with_name(f"checkpoint-{best}"))
    assert all(torch.equal(first[name], epoch[name]) for name in first)
    model = type(small_model()).from_pretrained(stopped)
    splits = splits_of(str(simulated_folder), str(simulated_cache))
    logits = make_trainer(splits, tmp_path / "read", model=model).predict(splits["test"]).predictions
    table = pd.read_csv(stopped / "test_predictions.csv").filter(like="prob_")
    np.testing.assert_allclose(table, 1 / (1 + np.exp(-logits)), atol=1e-6)


def precise_run(folder, cache, output):
    """Sharded training in bfloat16 on ages, and what reaches the loss of each step."""
    seen = []

    def watched(config, logits, labels, num_items_in_batch=None):
        seen.append((str(logits.dtype), str(labels.dtype), labels.flatten().tolist(), float(num_items_in_batch)))
        return mean_loss(config, logits, labels, num_items_in_batch)

    modeling.mean_loss = post_training.mean_loss = watched
    os.environ.update(FSDP2, FSDP_STATE_DICT_TYPE="FULL_STATE_DICT")
    disguise_as_accelerators()
    splits = {
        name: name_labels(split.map(lambda row: {"labels": [413.0 + row["ecg_id"] % 2]}), ["age"])
        for name, split in splits_of(folder, cache).items()
    }
    model = small_model(["age"], problem_type="regression")
    fields = {"stages": ["finetune"], "max_steps": 1, "bf16": True, "metric_for_best_model": "mae"}
    trainer = make_trainer(splits, output, model=model, per_device_train_batch_size=16, **fields)
    trainer.post_train()
    logits = trainer.predict(splits["test"]).predictions
    if trainer.is_world_process_zero():
        pathlib.Path(output + ".json").write_text(json.dumps({"seen": seen, "logits": logits.tolist()}))


def test_sharded_training_in_bfloat16_rounds_no_target_and_no_prediction(simulated_folder, simulated_cache, tmp_path):
    output = str(tmp_path / "run")
    processes = launch_forked(output, precise_run, str(simulated_folder), str(simulated_cache), output)
    codes = [process.wait() for process in processes]
    assert codes == [0, 0], [process.stderr[-2000:] for process in processes]
    result = json.loads(pathlib.Path(output + ".json").read_text())
    (logits, labels, ages, count), *_ = result["seen"]
    assert (logits, labels, count) == ("torch.float32", "torch.float32", 32.0)
    assert set(ages) == {413.0, 414.0}
    predicted = torch.tensor(result["logits"])
    assert not torch.equal(predicted, predicted.bfloat16().float())


def test_two_processes_train_a_compiled_model(simulated_folder, simulated_cache, tmp_path):
    """accelerate compiles what it has wrapped for them."""
    places = (str(simulated_folder), str(simulated_cache), str(tmp_path / "run"))
    processes = launch_forked(tmp_path / "run", compiled_run, *places)
    assert [process.wait() for process in processes] == [0, 0], [process.stderr[-2000:] for process in processes]
    assert (tmp_path / "run/config.json").is_file()


def compiled_run(folder, cache, output):
    fields = {"torch_compile": True, "torch_compile_backend": "eager", "stages": ["finetune"], "max_steps": 2}
    make_trainer(splits_of(folder, cache), output, per_device_train_batch_size=16, **fields).post_train()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_runs_both_stages_in_bfloat16(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path / "run", use_cpu=False, bf16=True, feature_extractor=extractor())
    results = trainer.post_train()
    assert trainer.args.device.type == "cuda" and np.isfinite(list(results.values())).all()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="no CUDA device for FSDP2")
@pytest.mark.parametrize("state", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_fsdp2_saves_a_folder_that_loads_and_resumes(state, simulated_folder, tmp_path):
    root = pathlib.Path(__file__).parents[1]
    settings = yaml.safe_load((root / "training/launch/fsdp2.yaml").read_text())
    settings["fsdp_config"]["fsdp_state_dict_type"] = state
    (tmp_path / "fsdp2.yaml").write_text(yaml.safe_dump(settings))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "fsdp2.yaml")]
    launcher += ["--num_processes", str(torch.cuda.device_count()), str(root / "training/train.py")]
    output = tmp_path / "run"
    places = {"data_dir": simulated_folder, "cache_dir": tmp_path / "cache", "output_dir": output}
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    # Not the better stage: the weights compared below are to be those that were trained on.
    fields = {**places, **steps, "save_total_limit": 5, "logging_steps": 1, "keep_best_stage": False}
    fields |= {"per_device_train_batch_size": 8, "load_best_model_at_end": False}
    command = [*launcher, *(str(part) for name, value in fields.items() for part in (f"--{name}", value))]

    def train(*flags) -> tuple[dict, list[float], np.ndarray]:
        done = subprocess.run([*command, *flags], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "is ignored" not in done.stdout + done.stderr
        history = json.loads((output / "log_history.json").read_text())
        losses = [entry["loss"] for entry in history if entry["stage"] == "finetune" and "loss" in entry]
        return weights_of(output), losses, pd.read_csv(output / "test_predictions.csv").filter(like="prob_").to_numpy()

    before, losses, scores = train()
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert not model.head_is_random
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    checkpoints = output / "_stages/finetune"
    assert (checkpoints / "checkpoint-2/pytorch_model_fsdp_0").is_dir() == (state == "SHARDED_STATE_DICT")
    # As if it had been killed after step 2: the last two steps are trained from the state in the checkpoint.
    shutil.rmtree(checkpoints / "checkpoint-4")
    (output / "config.json").unlink()
    written = (checkpoints / "checkpoint-2/trainer_state.json").stat().st_mtime_ns
    after, again, scores_again = train("--resume_from_checkpoint", "true")
    assert (checkpoints / "checkpoint-2/trainer_state.json").stat().st_mtime_ns == written
    # Attention on a GPU does not sum in a fixed order.
    np.testing.assert_allclose(again, losses, rtol=1e-2)
    np.testing.assert_allclose(scores_again, scores, atol=1e-2)
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert moved.mean() < 5e-5
