"""An aligned face to identity tokens: encoders, mappers, adapter."""
