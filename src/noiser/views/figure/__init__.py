"""Figures for papers, as SVG, PNG or PDF."""
