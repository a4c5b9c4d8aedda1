# `make demo`, `make study`, `make check` and `make test` set everything up by themselves: a virtual environment in
# .venv, with the tested versions.
PYTHON ?= python3
BIN := .venv/bin

# What needs no training run, no server and no real data; of training, converted models do two steps of both stages.
QUICK := $(addprefix tests/test_,builder.py conversion.py feature_extraction.py labels.py metrics.py model.py \
	pipeline.py plotting.py preprocessing_parity.py structure.py synthetic.py wfdb.py)

.PHONY: demo study check test

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[test]'
	touch $@

demo: .venv/installed
	rm -rf runs/demo runs/demo-data
	$(BIN)/accelerate launch --quiet --config_file training/launch/single.yaml training/train.py \
		--config training/configs/demo.yaml --output_dir runs/demo
	$(BIN)/ecg-hf classify --model runs/demo runs/demo-data/records100/00000/00040_lr
	@echo "That record is of the test fold, simulated with LVH (HYP) and ISC_ (STTC)."
	@echo "Simulated records: runs/demo-data   Checkpoint, metrics, predictions: runs/demo"
	@echo "Picture of the training: runs/demo/learning_curves.png"

# Two to four minutes on two cores: a study in miniature, which ends with the report, the map of the gain and the verdicts.
study: .venv/installed
	rm -rf runs/study-miniature
	$(BIN)/python training/study.py --config training/configs/study_miniature.yaml --demo --use_cpu \
		--output_dir runs/study-miniature/results --work_dir runs/study-miniature/work \
		--cache_dir runs/study-miniature/cache

# Under a minute on two cores; reads nothing from outside the repository.
check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	ECG_HF_SHARED=none $(BIN)/python -m pytest -n 2 -m "not slow and not distributed" $(QUICK)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2
