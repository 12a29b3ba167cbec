"""The certified best mapping with any factors."""
