"""Tests of ``vlmscope.dataset``: real files, real images."""
