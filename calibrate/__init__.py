"""Calibration: windows, ranges, a measured sweep of sensitive layers, and the comparison of the precisions."""
