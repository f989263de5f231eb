"""Our k-means beside flash1dkmeans, scikit-learn and the original's whole pipeline: error and time, row by row."""
