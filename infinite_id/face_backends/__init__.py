"""Implementations of `infinite_id.faces.FaceBackend`, imported only when they are chosen."""
