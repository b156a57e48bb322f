"""The model of large catalogues: a history tower, trained on a stream of events."""
