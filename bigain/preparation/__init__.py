"""Preparation of data: data sets as bigain.datasets reads them, and reference statistics."""
