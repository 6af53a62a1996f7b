"""Files of base models and encoders: where they lie, what they hold, whether they will do."""
