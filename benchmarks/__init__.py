"""Timings against other libraries; `make bench` runs them."""
