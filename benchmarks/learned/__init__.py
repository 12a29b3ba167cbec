"""What measurements are worth: tuners compared on machines that the formula knows, half knows and does not know."""
