"""Training over tables of millions of rows: a step costs the rows it touches."""
