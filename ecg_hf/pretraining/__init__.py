"""Self-supervised pre-training of the encoder on ECGs without labels."""
