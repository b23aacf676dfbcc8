"""Each stage of the lifecycle as a function that adds its tasks to the DAG around it."""
