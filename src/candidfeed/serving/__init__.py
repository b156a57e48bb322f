"""The feed over HTTP: what answers, and what asks in order to measure it."""
