"""What tests hold against the product: literal walks that count element by element, and the formula in plain Python."""
