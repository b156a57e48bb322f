"""Events kept durably, and the state that serving reads: histories, slates, items, users, keys."""
