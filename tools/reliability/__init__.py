"""What `tools/chaos.py` and `tools/soak.py` are made of: trainings that are disturbed or watched."""
