"""The tables of Dave et al. (dMazeRunner)."""
