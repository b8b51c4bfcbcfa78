"""The same numbers, faster or leaner."""
