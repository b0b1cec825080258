"""One HTML page that says what a run has found, and its figures as files.

    run, labels, probes            table, images, model
        rows, categories,              images, tokens,
        numbers, figures, missing      cards, gallery
                └──────────┬──────────────┘
                       gathering ──► document ──► page, writing

spec         what is asked for
document     what a report says: plain data, the contract between its two halves
gathering    from a run to a document
page         from a document to HTML
writing      both, and the files
"""

from vlmscope.report.document import Document, ReportSpec
from vlmscope.report.write import WrittenReport, write_report

__all__ = ["Document", "ReportSpec", "WrittenReport", "write_report"]
