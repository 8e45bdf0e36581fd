"""Who chooses bits: sensitivities, budgets, and the programs that spend them."""
