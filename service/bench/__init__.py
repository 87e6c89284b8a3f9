"""Benchmarks for operators: what a turn costs on this machine, with their own models' vocabularies."""
