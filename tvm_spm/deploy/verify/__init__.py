"""Generated code against the untuned reference, in a process of its own."""
