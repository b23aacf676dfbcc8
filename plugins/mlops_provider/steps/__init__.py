"""The steps of a model's life as plain functions over stores and adapters; operators and the CLI call them."""
