"""Plumbing that knows no batch and no backend."""
