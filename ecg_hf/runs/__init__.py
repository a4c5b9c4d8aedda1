"""What post-training and pre-training share: arguments, windows of records, models, a run's folder, the trainer."""
