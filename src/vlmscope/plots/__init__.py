"""From plain data to figures, for a page and for files. The one owner of matplotlib.

Arrays, floats and texts come in, a ``Plot`` comes out: a figure, its data, and words for those who
cannot see it. Nothing here reads a run, so everything here can be tried with made-up numbers.

palette      every colour, light and dark, and the look of each thing that is plotted
canvas       the noun; a figure in inches, its axes, its key and its labels, in one style
layers       AUROC by layer
curves       ROC curves; hallucination rate against the share answered
calibration  reliability; the risks of both outcomes
categories   hallucination rate by category
files        an ``<svg>`` element for a page; SVG, PNG and CSV on disk
"""

from vlmscope.plots.calibration import reliability_plot, risk_histogram
from vlmscope.plots.canvas import Plot
from vlmscope.plots.categories import CategoryRate, category_rates
from vlmscope.plots.curves import CoverageLine, RocLine, risk_coverage_plot, roc_curves
from vlmscope.plots.files import csv_text, inline_svg, narrow_svg, plot_files
from vlmscope.plots.layers import LayerLine, Reference, auroc_by_layer
from vlmscope.plots.palette import DARK_PALETTE, PALETTE

__all__ = [
    "DARK_PALETTE",
    "PALETTE",
    "CategoryRate",
    "CoverageLine",
    "LayerLine",
    "Plot",
    "Reference",
    "RocLine",
    "auroc_by_layer",
    "category_rates",
    "csv_text",
    "inline_svg",
    "narrow_svg",
    "plot_files",
    "reliability_plot",
    "risk_coverage_plot",
    "risk_histogram",
    "roc_curves",
]
