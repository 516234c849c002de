"""Generated from protos/: the messages and services of the coordinator. Imports nothing of sbrl."""
