"""Tables, readers, splits and features: everything between a log and arrays."""
