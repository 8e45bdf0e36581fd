"""What is exact: rewrites of a model that change its numbers and not what it computes."""
