"""PTB-XL: statements and tasks, records, the data set."""
