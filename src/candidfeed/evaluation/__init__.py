"""How good a model is: protocols, exact metrics with intervals, honest baselines."""
