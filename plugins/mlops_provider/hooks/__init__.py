"""From an Airflow connection to a store, and nothing else."""
