"""Classes with the signatures of the programs that people have; one module a family."""
