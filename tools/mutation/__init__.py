"""What tools/mutate.py changes."""
