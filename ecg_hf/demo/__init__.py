"""`ecg-hf demo`: a page that shows an ECG, a model's findings and what they rest on; or a Hub Space that does."""
