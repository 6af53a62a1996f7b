"""The Ray Data and Ray Serve code: the only place that imports Ray."""
