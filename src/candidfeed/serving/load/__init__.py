"""The load tool: asks a feed service as its users would, and tells how it held (docs/load.md)."""
