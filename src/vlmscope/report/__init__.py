"""The report of a run: one HTML page, and its figures as files.

- ``document``: the options, and the content of a report as plain data
- ``build``: from a run to a document; ``render``: from a document to HTML
- ``write``: both, and the files
- ``rows``, ``categories``, ``columns``, ``transfers``, ``detectors``, ``provenance``: parts of the
  document
- ``held_out``: the groups that folds do not split, for captions
- ``figures``: its plots
- ``gallery``: questions as cards; ``thumbnails``: their images; ``prompt_view``: a prompt's tokens;
  ``attention_maps``: the attention over their images
"""

from vlmscope.report.document import Document, ReportSpec
from vlmscope.report.write import WrittenReport, write_report

__all__ = ["Document", "ReportSpec", "WrittenReport", "write_report"]
