"""Tests with wrong inputs for every reader and service. `make fuzz` sends more."""
