"""Wrong inputs to every reader and service; `make fuzz` sends more."""
