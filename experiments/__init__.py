"""One file for each table, figure or headline run of the paper."""
