"""Both stages trained as one system: what `evaluate` measures and `build` releases."""
