"""The ``mlops`` command, also reachable as ``airflow mlops``."""
