"""The TVM target ``spm/<arch>``, its pipeline, and the passes of it."""
