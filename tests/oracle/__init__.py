"""What literal walks count with: element by element, no code of the product, only the fields of its nouns."""
