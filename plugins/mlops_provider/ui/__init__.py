"""Pages inside Airflow's web interface."""
