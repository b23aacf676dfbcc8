"""DAGs to copy from. Airflow 3.3 shows them with its own examples, where `[core] load_examples` is on."""
