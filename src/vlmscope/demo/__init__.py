"""What ships with vlmscope so that nobody needs an 11-billion-parameter download to see it work."""
