"""Formulas by which runs are judged."""
