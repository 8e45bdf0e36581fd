"""Which models there are, how their weights are read, and what each family's layers are."""
