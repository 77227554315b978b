"""The examples: each says only what its data, its model and its loss are."""
