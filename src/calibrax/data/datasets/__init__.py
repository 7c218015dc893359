"""One file for each named data set."""
