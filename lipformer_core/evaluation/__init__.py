"""Evaluation: the rows and cases by which talking faces are judged, and the scores themselves."""
