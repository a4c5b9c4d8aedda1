"""ECG Transformers for Hugging Face: post-training by preview linear probing and stochastic depth (arXiv 2509.12991)."""
