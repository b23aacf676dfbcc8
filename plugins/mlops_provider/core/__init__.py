"""What is decided: numbers in, verdicts in words out. Standard library only, no wall clock, no input or output."""
