"""What `tools/fuzz.py` tries: how inputs are changed, and who reads them."""
