"""The execution model of Dave et al. as published, to the last digit, and its search."""
