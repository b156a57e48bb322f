"""The feed service: events in, feed out."""
