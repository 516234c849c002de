"""The evaluation protocol, during a run and on a checkpoint; videos. Imports only sbrl."""
