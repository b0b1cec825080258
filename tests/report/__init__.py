"""Tests of the report: its numbers, and its page in a browser that these tests share."""
