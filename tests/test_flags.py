"""Flags and recipes that cannot be meant so are one line at the start of a run; what can be meant is not ignored."""

import warnings

import pytest
import yaml
from test_command import error_of

from ecg_hf import PostTrainingArguments, PreTrainingArguments, cli
from ecg_hf.post_training.data import TaskArguments
from ecg_hf.runs.arguments import ModelArguments

RUN = ("--output_dir", "x", "--use_cpu", "true", "--dry_run", "true")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seed -1", "`seed` must be at least 0 and at most 4294967295, got -1."),
        ("--gradient_accumulation_steps 0", "`gradient_accumulation_steps` must be at least 1, got 0."),
        ("--gradient_accumulation_steps -1", "`gradient_accumulation_steps` must be at least 1, got -1."),
        ("--max_steps 0", "`max_steps` must be at least 1, or -1 as if not given, got 0."),
        ("--num_train_epochs 0", "`num_train_epochs` must be above 0, got 0.0."),
        ("--num_train_epochs inf", "`num_train_epochs` must be above 0 and finite, got inf."),
        ("--per_device_train_batch_size 0", "`per_device_train_batch_size` must be at least 1, got 0."),
        ("--per_device_eval_batch_size 0", "`per_device_eval_batch_size` must be at least 1, got 0."),
        ("--dataloader_num_workers -1", "`dataloader_num_workers` must be at least 0, got -1."),
        ("--learning_rate nan", "`learning_rate` must be at least 0 and finite, got nan."),
        ("--patch_size 0", "`patch_size` must be at least 1, got 0."),
        ("--model_sampling_rate 0", "`model_sampling_rate` must be above 0, got 0.0."),
        ("--save_total_limit 0", "`save_total_limit` must be at least 1, got 0."),
        ("--save_total_limit all", "`save_total_limit` must be a whole number or None, got `all`."),
        ("--report_to wandb", "`report_to` cannot be `wandb` here: "),
        ("--report_to nowhere", "`report_to` must be none, all or among azure_ml"),
        ("--lr_scheduler_kwargs xx", "`lr_scheduler_kwargs` must be a dictionary"),
        ("--lr_scheduler_kwargs {xx", "`lr_scheduler_kwargs` must be a dictionary"),
        (
            '--lr_scheduler_kwargs {"min_lr":1}',
            "`lr_scheduler_kwargs` {'min_lr': 1} do not fit `lr_scheduler_type` cos",
        ),
        (
            "--lr_scheduler_type cosine_with_min_lr",
            "`lr_scheduler_kwargs` none do not fit `lr_scheduler_type` cosine_",
        ),
        (
            '--lr_scheduler_type constant --lr_scheduler_kwargs {"min_lr":1}',
            "`lr_scheduler_kwargs` have no effect with `lr_scheduler_type` constant",
        ),
        ("--batch_eval_metrics true", "`batch_eval_metrics` cannot be true"),
        ("--eval_do_concat_batches false", "`eval_do_concat_batches` cannot be false"),
        ("--deepspeed zero.json", "`deepspeed` is not supported: "),
        ("--use_liger_kernel true", "`use_liger_kernel` is not supported"),
        ("--label_smoothing_factor 0.1", "`label_smoothing_factor` is not supported"),
        ("--torch_compile_backend foo", "`torch_compile_backend` must be one of eager, "),
        ("--attn_implementation foo", "`attn_implementation` cannot be `foo` here: "),
        ("--fsdp full_shard", "`fsdp` shares the weights out among processes, and this is the only one"),
        ("--torch_compile_mode foo", "`torch_compile_mode` must be one of default, "),
        ("--use_cpu true --fp16 true", "`fp16` needs a GPU, a CPU would compute in float32 all the same"),
        ('--gradient_checkpointing_kwargs {"use_reentrant":true}', "`gradient_checkpointing_kwargs` have no effect"),
        (
            '--gradient_checkpointing true --gradient_checkpointing_kwargs {"foo":1}',
            "`gradient_checkpointing_kwargs` {'foo': 1} do not fit: ",
        ),
        ("--dataloader_multiprocessing_context spawn", "`dataloader_multiprocessing_context` needs `dataloader_num_"),
        ("--optim_target_modules mlp", "`optim_target_modules` has no effect here"),
        ("--prediction_loss_only true", "`prediction_loss_only` has no effect here"),
        ("--include_for_metrics loss", "`include_for_metrics` has no effect here"),
        ("--include_num_input_tokens_seen true", "`include_num_input_tokens_seen` has no effect here"),
        ("--length_column_name seconds", "`length_column_name` has no effect here"),
        ("--use_cache true", "`use_cache` has no effect here"),
        ('--accelerator_config {"split_batches":true}', "`accelerator_config` cannot change `split_batches`"),
        ('--accelerator_config {"dispatch_batches":true}', "`accelerator_config` cannot change `dispatch_batches`"),
        ('--accelerator_config {"even_batches":false}', "`accelerator_config` cannot change `even_batches`"),
        (
            '--accelerator_config {"gradient_accumulation_kwargs":{"num_steps":2}}',
            "`accelerator_config` cannot change `gradient_accumulation_kwargs`: the field",
        ),
        ("--output_dir file", "`--output_dir` file cannot be a folder"),
        ("--output_dir file/x", "`--output_dir` file/x cannot be a folder"),
    ],
)
@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_a_flag_that_cannot_be_meant_so_is_one_line(command, flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert error_of(capsys, command, "--data_dir", ".", *RUN, *flags.split()).startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("train", "--probe_learning_rate -1", "`probe_learning_rate` must be above 0, got -1.0."),
        ("train", "--drop_path_rate none", "`drop_path_rate` must be a number or None, got `none`."),
        ("train", "--drop_path_rate 1", "`drop_path_rate` must lie in [0, 1), got 1.0."),
        (
            "train",
            "--eval_strategy no",
            "The best epoch cannot be kept with `eval_strategy` no and `save_strategy` epoch:",
        ),
        (
            "train",
            "--save_strategy no",
            "The best epoch cannot be kept with `eval_strategy` epoch and `save_st",
        ),
        ("train", "--eval_strategy no --save_strategy best", "The best epoch cannot be kept with `eval_strategy` no"),
        ("train", "--save_strategy steps", "The best epoch cannot be kept with `eval_strategy` epoch"),
        ("train", "--split_seed -1", "`split_seed` must be at least 0 and at most"),
        ("train", "--record_column x", "`--record_column` is for own records: give their table by `--table`."),
        ("train", "--table t.csv --skip_missing_records true", "`--skip_missing_records` is for PTB-XL: own records"),
        ("train", "--skip_missing_records true", "`--skip_missing_records` is for PTB-XL: own records"),
        ("pretrain", "--record_column x", "`--record_column` is a column of `--table`: give that."),
        ("pretrain", "--patient_column x", "`--patient_column` is a column of `--table`: give that."),
        ("pretrain", "--probe_every -1", "`probe_every` must be at least 0, got -1."),
        ("pretrain", "--eval_strategy epoch", "`eval_strategy` must be `no`"),
    ],
)
def test_so_is_one_that_only_one_command_has(command, flags, message, capsys):
    assert error_of(capsys, command, "--data_dir", ".", *RUN, *flags.split()).startswith(message)


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["release", "run", "--output", "out"], "--output"),
        (["download-ptbxl", "folder", "--sampling", "500"], "--sampling"),
        (["prepare-ptbxl", "--data", "folder", "--output_dir", "out"], "--data"),
        (["classify", "record", "--batch", "4"], "--batch"),
    ],
)
def test_a_flag_that_is_cut_short_is_refused(argv, flag, capsys):
    with pytest.raises(SystemExit):
        cli.main(argv)
    error = capsys.readouterr().err
    assert f"`{flag}`" in error or "required: --" in error


@pytest.mark.parametrize(
    "flags", ["--split_seed 3", "--split_fractions .5 .25 .25", "--max_skipped 0.5", "--record_column x", "--units mV"]
)
def test_flags_of_own_records_are_refused_for_ptbxl(flags, capsys):
    name, *_ = flags.split()
    for command in ("train", "evaluate"):
        given = ("--model_name_or_path", "m", "--output_dir", "x", "--dataset_name", "ptbxl", *flags.split())
        assert error_of(capsys, command, *given).startswith(f"`{name}` is for own records: give their table")


@pytest.mark.parametrize("flags", ["--patient_column x", "--record_column x"])
def test_shards_of_a_folder_have_no_columns(flags, capsys, tmp_path):
    given = ("--data_dir", tmp_path, "--output_dir", tmp_path / "out", *flags.split())
    assert error_of(capsys, "prepare", *given).endswith("is a column of `--table`: give that.")
    assert not (tmp_path / "out").exists()


def test_evaluation_refuses_an_empty_batch(capsys):
    flags = ("--model_name_or_path", "m", "--output_dir", "x", "--per_device_eval_batch_size", 0)
    assert error_of(capsys, "evaluate", *flags).endswith("must be at least 1, got 0.")


def test_a_schedule_with_a_lowest_rate_is_that_of_the_stage(tmp_path):
    """The rate of LoRA is the higher one by default: what lies between both fits it, and not fine-tuning."""
    schedule = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1e-3}, "use_cpu": True}
    with pytest.raises(ValueError, match="`lr_scheduler_kwargs` {'lr_end': 0.001} do not fit"):
        PostTrainingArguments(output_dir=str(tmp_path), **schedule)
    pytest.importorskip("peft")
    PostTrainingArguments(output_dir=str(tmp_path), stages=["lora"], **schedule)


def test_pretraining_on_several_gpus_needs_a_process_for_each(capsys, monkeypatch):
    monkeypatch.setattr(PreTrainingArguments, "n_gpu", 2)
    error = error_of(capsys, "pretrain", "--data_dir", ".", *RUN)
    assert "uses 2 GPUs by a process for each" in error
    assert "`torchrun --nproc_per_node 2 -m ecg_hf.cli pretrain ...`" in error and "`CUDA_VISIBLE_DEVICES=0`" in error


@pytest.mark.parametrize("kind", [PostTrainingArguments, PreTrainingArguments])
def test_none_on_the_command_line_is_none(kind):
    names = [name for name in ("drop_path_rate", "save_total_limit") if hasattr(kind, name)]
    (args,) = cli.parse_arguments([*RUN, *(part for name in names for part in (f"--{name}", "None"))], kind)
    assert names and all(getattr(args, name) is None for name in names)
    (args,) = cli.parse_arguments([*RUN, "--save_total_limit", "3"], kind)
    assert args.save_total_limit == 3


def parsed(tmp_path, text, *flags, kinds=(PostTrainingArguments,)):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return cli.parse_arguments(["--config", str(file), *RUN, *flags], *kinds)


def test_null_in_a_recipe_is_none_where_that_is_not_the_default(tmp_path):
    text = "drop_path_rate: null\nsave-total-limit: ~\nlearning_rate: null\n"
    (args,) = parsed(tmp_path, text)
    assert (args.drop_path_rate, args.save_total_limit, args.learning_rate) == (None, None, 5e-4)
    (args,) = parsed(tmp_path, text, "--drop_path_rate", "0.2")
    assert args.drop_path_rate == 0.2


def test_the_recipe_of_a_run_keeps_that_the_drop_path_is_the_models(tmp_path):
    (args,) = parsed(tmp_path, "drop_path_rate: null\n")
    (again,) = parsed(tmp_path, yaml.safe_dump(args.recipe()))
    assert again.drop_path_rate is None and again.recipe() == args.recipe()


def test_names_in_a_recipe_are_taken_as_they_are_written(tmp_path):
    text = "labels: [no, yes, 1e5, 010, null]\nlabel_column: on\ntable: t.csv\npatient_column: 'yes'\n"
    _, data = parsed(tmp_path, text, kinds=(ModelArguments, TaskArguments, PostTrainingArguments))[:2]
    assert data.labels == ["no", "yes", "1e5", "010", "null"]
    assert (data.label_column, data.patient_column) == ("on", "yes")


def test_a_recipe_is_replayed_without_a_warning(tmp_path):
    first = PostTrainingArguments(output_dir=str(tmp_path), use_cpu=True, gradient_checkpointing=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (again,) = parsed(tmp_path, yaml.safe_dump(first.recipe()))
    assert again.gradient_checkpointing and again.activation_checkpointing
    assert again.recipe() == first.recipe()


@pytest.mark.parametrize("number", ["1e-5", "1.0e-5", "1E-05", ".1e-4", "0.00001"])
def test_numbers_in_a_table_of_a_recipe_are_numbers(tmp_path, number):
    text = f"lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {{min_lr: {number}}}\nlearning_rate: 1e-3\n"
    (args,) = parsed(tmp_path, text)
    assert args.lr_scheduler_kwargs == {"min_lr": 1e-5} and args.learning_rate == 1e-3


def test_a_recipe_may_have_negative_numbers_and_shared_entries(tmp_path):
    text = "max_steps: -1\nactivation_checkpointing: true\nactivation_checkpointing_kwargs: {use_reentrant: no}\n"
    text += "<<: {seed: 7}\nstages:\n- finetune\n"
    (args,) = parsed(tmp_path, text)
    assert (args.max_steps, args.seed, args.stages) == (-1, 7, ["finetune"])
    assert args.activation_checkpointing_kwargs == {"use_reentrant": False}
    with pytest.raises(ValueError, match="recipe.yaml` gives `learning_rate` twice: leave one of them out"):
        parsed(tmp_path, "learning_rate: 1e-4\nlearning-rate: 1e-3\n")
    with pytest.raises(ValueError, match="`stages` must be a list of values, got lists or tables in it"):
        parsed(tmp_path, "stages: [[probe]]\n")
