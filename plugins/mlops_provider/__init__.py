"""From raw data to a monitored model that retrains itself, as ordinary Airflow DAGs."""

__version__ = "0.1.0"
