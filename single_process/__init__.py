"""A whole run in one process, bit-reproducible from its seed: `sbrl train --serial`. Imports sbrl and the roles."""
