"""Code of layers, groups and networks: built, verified, run, and kept in TVM's database."""
