"""A trained model at work: findings, vectors and pictures of any number of records, and its export to ONNX."""
