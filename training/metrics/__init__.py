"""Metrics: how good a result is, for people to read and recipes to compare.

Tensors come in batches and every picture gets its own value; `report.image_figures` has the means
under the names that tasks report. Only LPIPS, FID and NIQE need a file, and say which.
"""
