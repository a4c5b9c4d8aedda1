"""`hyperparameter_search` with `model_init`."""

import importlib.machinery
import importlib.util
import sys
import types

import pytest
from small_models import small_model
from test_post_training import arguments, extractor, same_weights

from ecg_hf import PostTrainer

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

RATES = [1e-3, 3e-3, 1e-2]


class Trial:
    def __init__(self, number):
        self.number, self.params = number, {}

    def suggest_categorical(self, name, values):
        return self.params.setdefault(name, values[self.number])


class Study:
    def __init__(self, direction):
        self.best = {"maximize": max, "minimize": min}[direction]

    def optimize(self, objective, n_trials, **kwargs):
        self.trials = [Trial(number) for number in range(n_trials)]
        for trial in self.trials:
            trial.value = objective(trial)

    def _is_multi_objective(self):
        return False

    @property
    def best_trial(self):
        return self.best(self.trials, key=lambda trial: trial.value)


@pytest.fixture
def optuna(monkeypatch):
    """Optuna where it is installed, else as much of it as the library calls."""
    if importlib.util.find_spec("optuna") is not None:
        return
    module = types.ModuleType("optuna")
    module.__spec__ = importlib.machinery.ModuleSpec("optuna", None)
    module.create_study, module.Trial = lambda direction, **kwargs: Study(direction), Trial
    module.trial = types.SimpleNamespace(BaseTrial=Trial)
    monkeypatch.setitem(sys.modules, "optuna", module)


def make_trainer(splits, folder, **fields):
    return PostTrainer(
        model_init=lambda: small_model(),
        args=arguments(folder, num_train_epochs=1, **fields),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        feature_extractor=extractor(),
    )


def test_a_search_trains_each_trial_as_a_run_with_its_settings_would(simulated_splits, tmp_path, optuna):
    trainer = make_trainer(simulated_splits, tmp_path / "search")
    seen = []
    train = trainer.train

    def watched(*args, **kwargs):
        output = train(*args, **kwargs)
        layer = trainer.model.ecg_transformer.layers[1]
        seen.append((trainer.args.learning_rate, trainer.args.drop_path_rate, layer.drop_path_rate))
        weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return output

    weights = []
    trainer.train = watched
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_categorical("learning_rate", RATES),
            "drop_path_rate": trial.suggest_categorical("drop_path_rate", [0.1, 0.2, 0.3]),
        },
        compute_objective=lambda metrics: metrics["eval_macro_auroc"],
        n_trials=3,
        direction="maximize",
        backend="optuna",
    )
    assert len(seen) == 3 and all(asked == layer for _, asked, layer in seen)
    assert best.hyperparameters["learning_rate"] in RATES and best.objective > 0.4
    rate, drop_path_rate, _ = seen[-1]
    alone = make_trainer(simulated_splits, tmp_path / "alone", learning_rate=rate, drop_path_rate=drop_path_rate)
    alone.train()
    assert same_weights(weights[-1], alone.model.state_dict())
    with pytest.raises(ValueError, match="`args` was changed after the trainer was made: `args.drop_path_rate`"):
        trainer.post_train()


@pytest.mark.parametrize(("metric", "best_rate"), [(None, 3e-3), ("eval_macro_auprc", 1e-3), ("loss", 1e-2)])
def test_a_search_chooses_as_a_run_does(simulated_splits, tmp_path, optuna, monkeypatch, metric, best_rate):
    """The library takes the least sum of all metrics, and with AUROC among them the worst trial."""
    figures = {"eval_macro_auroc": (0.7, 0.9, 0.8), "eval_macro_auprc": (0.6, 0.5, 0.4), "eval_loss": (0.5, 0.4, 0.3)}
    trainer = make_trainer(simulated_splits, tmp_path / "search", metric_for_best_model=metric)
    rates = []

    def train(trial, **kwargs):
        rates.append(trial.suggest_categorical("learning_rate", RATES))

    def evaluate():
        return {name: values[RATES.index(rates[-1])] for name, values in figures.items()}

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(trainer, "evaluate", evaluate)
    best = trainer.hyperparameter_search(hp_space=lambda trial: {}, n_trials=3, backend="optuna")
    assert best.hyperparameters["learning_rate"] == best_rate


def test_post_training_begins_with_the_model_that_model_init_made(simulated_splits, tmp_path):
    trainer = make_trainer(simulated_splits, tmp_path / "run")
    model = trainer.model
    trainer.post_train()
    assert trainer.model is model
    start = next(entry for entry in trainer.state.log_history if entry["stage"] == "finetune" and "eval_loss" in entry)
    assert start["eval_macro_auroc"] > 0.5
