"""Weights as values, built apart from any module: exact algorithms, their perturbations, their symmetries."""
