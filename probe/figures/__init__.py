"""A result -> a plotly Figure. Nothing is computed here: what a figure shows stands in the result."""
