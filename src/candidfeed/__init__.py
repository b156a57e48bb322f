"""From a log of what people did to a served, explained, objective two-stage feed."""

__version__ = "0.1.0"
