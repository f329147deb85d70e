"""One published method a file: a model and a recording in, a frozen result with `to_dataframe()` out."""
