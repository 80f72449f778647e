"""HTTP: one file per API family, one error renderer per family."""
