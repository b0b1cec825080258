"""Figures from plain data, for a page and for files. The only package that uses matplotlib.

Functions take arrays, floats and texts, and return a ``Plot``: a figure, its data, and a text
alternative. Nothing here reads a run, so every plot can be tried with arbitrary numbers.

palette      all colours, light and dark, and the line styles of what is plotted
canvas       ``Plot``; a figure in inches, its axes, its legend and its labels, in one style
layers       AUROC by layer
curves       ROC curves; hallucination rate against the share answered
calibration  reliability; the risks of both outcomes
categories   hallucination rate by category
detectors    quality of detectors against their cost, or against when they are known
files        an ``<svg>`` element for a page; SVG, PNG and CSV on disk
"""

from vlmscope.plots.calibration import reliability_plot, risk_histogram
from vlmscope.plots.canvas import Plot
from vlmscope.plots.categories import CategoryRate, category_rates
from vlmscope.plots.curves import CoverageLine, RocLine, risk_coverage_plot, roc_curves
from vlmscope.plots.detectors import DetectorPoint, detector_quality
from vlmscope.plots.files import csv_text, inline_svg, narrow_svg, plot_files
from vlmscope.plots.layers import LayerLine, Reference, auroc_by_layer
from vlmscope.plots.palette import DARK_PALETTE, PALETTE

__all__ = [
    "DARK_PALETTE",
    "PALETTE",
    "CategoryRate",
    "CoverageLine",
    "DetectorPoint",
    "LayerLine",
    "Plot",
    "Reference",
    "RocLine",
    "auroc_by_layer",
    "category_rates",
    "csv_text",
    "detector_quality",
    "inline_svg",
    "narrow_svg",
    "plot_files",
    "reliability_plot",
    "risk_coverage_plot",
    "risk_histogram",
    "roc_curves",
]
